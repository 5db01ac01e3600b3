/* fastpath.h: answers the kernel's FUSE requests from the tree and the upper, on threads of C.
 *
 *      kernel == /dev/fuse == threads ---- tree, upper, layer files       (answered here)
 *                                \---- SEQPACKET ---- libfuse, pyfuse3    (declined)
 *
 * Law: a request is either answered completely here, or declined before anything was changed.  A
 * declined request goes unchanged over the socket pair to pyfuse3, and pyfuse3's answer goes back
 * with no change but that of st_ino (fastrelay.c).  The data of a WRITE never go to Python: if the
 * file's data are not in the upper yet, the fast path sends Python an OPEN for writing under the
 * request's number, which means "copy it up".  Then the fast path does the write.  (The kernel's
 * own first OPEN is answered ENOSYS, and then the kernel sends no more.)
 *
 * Threads.  One thread reads the device.  The others sleep in user space, not in the kernel, so
 * that a request wakes only a thread that is needed.  After a request the reader looks for the next
 * one for spin_us without sleeping.  A second thread is woken to read when requests come faster
 * than they are answered, before an operation that may wait for a disk, and when a request takes
 * longer than a millisecond (the watch thread notices that).  Another thread reads the socket of
 * pyfuse3, and another is the only one that may wait for the kernel's page locks (notify.c).
 *
 * Every answer is written to the descriptor that its request was read from.  Each thread has a
 * descriptor of its own (FUSE_DEV_IOC_CLONE).
 *
 * The end comes when the kernel closes the connection, or by img_fastpath_stop.  Then end_fd
 * becomes readable, and requests that wait for Python are answered EIO.
 */
#ifndef IMG_FASTPATH_H
#define IMG_FASTPATH_H

#include "base/error.h"
#include "base/stats.h"
#include "upper/upperdir.h"

typedef struct img_fastpath img_fastpath;

typedef struct img_fastpath_options {
    int device_fd; /* borrowed: a mounted FUSE channel that has not been read from; made
                    * non-blocking.  For tests, a SOCK_SEQPACKET socket. */
    int relay_fd;  /* borrowed: our end of the socket pair; -1: declined requests get ENOSYS */
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
/* Ends the threads and waits for them. The device is not read any more. */
void img_fastpath_stop(img_fastpath *path);
void img_fastpath_free(img_fastpath *path); /* after stop */

#endif
