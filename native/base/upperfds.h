/* upperfds.h: a cache of open descriptors, one for each key, with a limit on their number.
 *
 * Law: this module decides which descriptor a key has and when it is closed.  The caller decides
 * what the key means and how the descriptor is opened.  The upper's key is the node
 * (upper/upperdir.h); the layers' key is a number of the file (tree/content.h).
 *
 * The least recently used descriptor without a pin is closed first.  The cache never keeps more
 * than a quarter of the process' limit (RLIMIT_NOFILE), whatever was asked for.  The limit may be
 * lowered while the program runs, and other modules need descriptors too.
 *
 * A pin belongs to a key, not to one of its descriptors: a descriptor that is dropped while its key
 * is pinned is closed when the key has no pins left.
 *
 * Threads: any thread may call.  One lock, held for a few memory accesses.
 */
#ifndef IMG_UPPERFDS_H
#define IMG_UPPERFDS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct img_fds img_fds;

img_fds *img_fds_new(uint32_t max); /* NULL: out of memory */
void img_fds_free(img_fds *fds);    /* closes all descriptors */

/* Pins and returns the descriptor of id; -1 if id has none. */
int img_fds_pin(img_fds *fds, uint32_t id);
/* The same, if the descriptor came at most that many milliseconds ago; an older one is dropped. */
int img_fds_pin_new(img_fds *fds, uint32_t id, int64_t milliseconds);
/* Takes over fd as the descriptor of id, pinned if asked.  Returns the descriptor that id has now.
 * If another thread was faster, this is the other thread's descriptor, and fd is dropped.  -EMFILE:
 * all are pinned, so there is no room, and fd is dropped.  A dropped descriptor is closed by the
 * next img_fds_close_dropped, because this function may be called under locks. */
int img_fds_put(img_fds *fds, uint32_t id, int fd, bool pinned);
void img_fds_unpin(img_fds *fds, uint32_t id);
/* Takes the descriptor away from id.  It is closed by the next img_fds_close_dropped, because it is
 * slow to close the last descriptor of a removed file. */
void img_fds_drop(img_fds *fds, uint32_t id);
void img_fds_close_dropped(img_fds *fds);
/* Closes descriptors without pins, up to half of all; false if all are pinned. */
bool img_fds_shrink(img_fds *fds);

#endif
