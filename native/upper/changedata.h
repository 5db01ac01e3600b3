/* changedata.h: changes the contents of files in the upper (rules: change.h).
 *
 * These functions change no names, so the caller need not hold `change`.
 */
#ifndef IMG_CHANGEDATA_H
#define IMG_CHANGEDATA_H

#include "upper/caller.h"
#include "upper/change.h"
#include "upper/upperdir.h"

#include <sys/types.h>

/* IMG_DECLINED of functions that return a count of bytes. */
#define IMG_WRITE_DECLINED ((ssize_t)-4096)

/* Writes all of data to a file of the upper, and sets size and blocks of the node.
 *
 * cached: the data come from the kernel's page cache.  The kernel took privileges when the program
 * wrote; a capability that the file was given since then must stay.  If not cached,
 * security.capability is taken.
 * kill: the caller whose write takes set-id bits (img_caller_loses); NULL: keep them.
 *
 * Returns size or a negative errno, never a short count, because the kernel, which writes back
 * its cache, would not learn which bytes are lost.  After an error some of the data may be written.
 * IMG_WRITE_DECLINED: the data of the file are not in the upper. */
ssize_t img_write(img_upper *upper, img_id id, uint64_t offset, const void *data, size_t size,
                  bool cached, const img_caller *kill);

/* fallocate(2). kill: as in img_write; the kernel does not ask for it with a fallocate, so the
 * fast path sets it unless the caller keeps set-id bits (img_caller_keeps_set_id).
 * IMG_DECLINED: the data of the file are not in the upper. */
int img_allocate(img_upper *upper, img_id id, int mode, uint64_t offset, uint64_t length,
                 const img_caller *kill);

/* copy_file_range(2) into a file of the upper, from a file of the upper or of a layer. kill: as in
 * img_allocate. IMG_WRITE_DECLINED: the data of the target are not in the upper. */
ssize_t img_copy_range(img_upper *upper, img_id from, uint64_t from_offset, img_id to,
                       uint64_t to_offset, uint64_t length, const img_caller *kill);

/* fsync(2) or fdatasync(2) of a file or directory. Does nothing, and returns 0, if the node has no
 * object in the upper or the upper is volatile. */
int img_sync(img_upper *upper, img_id id, bool data_only);

#endif
