/* fastpath.h: answers the kernel's FUSE requests from the tree and the upper, on threads of C.
 *
 *      kernel == /dev/fuse == threads ---- tree, upper, layer files       (answered whole)
 *                                \---- SEQPACKET ---- libfuse, pyfuse3    (declined whole)
 *
 * Law: a request is answered whole or declined whole.  What is declined goes verbatim over the
 * socket pair to pyfuse3, and its answer goes verbatim back.  Data never cross: for a WRITE to a
 * file that is not in the upper yet, Python is sent an OPEN for writing under the request's number,
 * which means "bring it up" (the kernel itself sends no OPEN after the first, which gets ENOSYS);
 * then the write is done here.
 *
 * Threads.  One reads the device; the others sleep, in user space, not in the kernel, so that a
 * request wakes nobody who is not needed.  After a request the reader looks for the next one
 * without sleeping for spin_us.  Another reads as well when requests come faster than they are
 * answered, before an operation that may wait for a disk, and when one takes longer than a
 * millisecond (the watch thread sees to that).  A thread of its own reads the socket of pyfuse3,
 * and one more is the only one that may wait for the kernel's page locks (notify.c).
 *
 * Every answer goes to the descriptor that its request was read from (FUSE_DEV_IOC_CLONE: each
 * thread has its own).
 *
 * The end: the kernel closes the connection, or img_fastpath_stop.  Then end_fd is
 * readable, and what waits for Python is answered EIO.
 */
#ifndef IMG_FASTPATH_H
#define IMG_FASTPATH_H

#include "base/error.h"
#include "base/stats.h"
#include "upper/upperdir.h"

typedef struct img_fastpath img_fastpath;

typedef struct img_fastpath_options {
    int device_fd; /* borrowed: a mounted FUSE channel that has not been read from; made
                    * non-blocking.  A SOCK_SEQPACKET socket will do. */
    int relay_fd;  /* borrowed: our end of the socket pair; -1: what is declined gets ENOSYS */
    int log_fd;    /* borrowed: lines for the log, a pipe that does not block; -1: none */
    int end_fd;    /* borrowed: an eventfd that becomes readable when the connection is closed */
    int upper_fd;  /* borrowed: for statfs and syncfs; -1: none */
    unsigned threads;
    unsigned spin_us;
    bool default_permissions;
    bool no_xattrs; /* requests for xattrs get ENOSYS, after which the kernel sends none */
    bool push;      /* put small files into the page cache ahead of a reader */
} img_fastpath_options;

/* Starts the threads. tree, upper (NULL when there is none) and stats must outlive it.
 * NULL with err set. */
img_fastpath *img_fastpath_start(img_tree *tree, img_upper *upper, img_stats *stats,
                                 const img_fastpath_options *options, img_error *err);
/* Ends the threads and waits for them; then nothing is read from the device any more. */
void img_fastpath_stop(img_fastpath *path);
void img_fastpath_free(img_fastpath *path); /* after stop */

#endif
