/* upperfds.h: descriptors by node, a bounded number of them.
 *
 * Law: which descriptor a node has and when it is closed; what it is of, and how it is opened, is
 * upperdir.h's.
 *
 * The least recently used that nobody has pinned goes first.  Never more than a quarter of the
 * process' own limit are kept, whatever was asked for: that limit may be lowered while we run, and
 * others here need descriptors too.
 *
 * Pins belong to a node, not to one of its descriptors: when a descriptor is dropped while it is
 * pinned, it is closed when the node has no pins left.
 *
 * One lock of its own, held for a few memory accesses; all functions may be called from any thread.
 */
#ifndef IMG_UPPERFDS_H
#define IMG_UPPERFDS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct img_fds img_fds;

img_fds *img_fds_new(uint32_t max); /* NULL when memory is short */
void img_fds_free(img_fds *fds);    /* closes all */

/* Pins the descriptor kept for id; -1 when there is none. */
int img_fds_pin(img_fds *fds, uint32_t id);
/* Takes over fd as id's, pinned if asked. Returns the one that id has now: another thread's when
 * that was faster (fd goes then). -EMFILE: no room, all being pinned, and fd goes.
 * What goes is closed by the next img_fds_close_dropped: this may be called under locks. */
int img_fds_put(img_fds *fds, uint32_t id, int fd, bool pinned);
void img_fds_unpin(img_fds *fds, uint32_t id);
/* id has no descriptor any more. It is closed by the next img_fds_close_dropped, since closing the
 * last one of a removed file takes its time. */
void img_fds_drop(img_fds *fds, uint32_t id);
void img_fds_close_dropped(img_fds *fds);
/* Closes about half of those that nobody has pinned; false when there was none. */
bool img_fds_shrink(img_fds *fds);

#endif
