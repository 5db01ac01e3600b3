/* fastrelay.h: requests that go to pyfuse3, and their answers. */
#ifndef IMG_FASTRELAY_H
#define IMG_FASTRELAY_H

#include "fast/fast.h"

/* fd: our end of the socket pair, borrowed. NULL with err set. */
fast_relay *fast_relay_start(img_fastpath *path, int fd, img_error *err);
/* Answers EIO to every request that waits for pyfuse3 or comes later, and waits for the thread.
 * relay may be NULL. */
void fast_relay_end(fast_relay *relay);
void fast_relay_free(fast_relay *relay); /* after end */
/* Hands a request to pyfuse3, and keeps a copy of its message.
 * need FAST_NOTHING: pyfuse3 does the request, and its answer goes to fd.
 * Another need: pyfuse3 copies up `node`, and then the request runs here and is answered to fd.
 * 0, or a negative errno if the message cannot be sent (-EIO: there is no pyfuse3 any more). */
int fast_relay_send(fast_relay *relay, int fd, const char *message, size_t size, uint64_t start,
                    fast_need need, uint64_t node);

#endif
