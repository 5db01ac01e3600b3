/* fastloop.h: the threads that read the device. */
#ifndef IMG_FASTLOOP_H
#define IMG_FASTLOOP_H

#include "fast/fast.h"

/* NULL: out of memory. */
fast_loop *fast_loop_new(img_fastpath *path);
/* Starts the threads. 0 or a positive errno; then some may run, and fast_loop_stop ends them. */
int fast_loop_start(fast_loop *loop);
/* Ends the threads and waits for them. */
void fast_loop_stop(fast_loop *loop);
void fast_loop_free(fast_loop *loop); /* after stop */

/* Call before an operation that may wait: another thread reads the device meanwhile. */
void fast_will_wait(img_fastpath *path);

#endif
