/* defer.h: requests that must not be answered by a thread that others wait for.
 *
 * LSEEK has the kernel write back its pages first; a SETATTR of a size waits until no push into the
 * node is under way.  Both wait for page locks of the kernel, so the notify thread runs them.
 */
#ifndef IMG_DEFER_H
#define IMG_DEFER_H

#include "fast/fast.h"

typedef struct fast_deferred fast_deferred;

/* A member of fast_notify, whose mutex protects it. */
typedef struct fast_queue {
    fast_deferred *first, **last;
} fast_queue;

/* Has the notify thread run a copy of the request again, after the work that it has in hand and,
 * with write_back, after the kernel has written back its cached pages of the node. A negative errno
 * when it cannot. */
int fast_defer(fast_notify *notify, const fast_request *req, bool write_back);

/* Mutex held. The oldest request; NULL when there is none. */
fast_deferred *fast_defer_take(fast_queue *queue);
/* On the notify thread: runs the request and frees it. */
void fast_defer_run(fast_notify *notify, fast_deferred *one);

#endif
