/* scanfd.h: scans a tar archive in an open file. */
#ifndef IMG_SCANFD_H
#define IMG_SCANFD_H

#include "base/error.h"
#include "index/index.h"

/* Scans `length` bytes of fd from `offset` with pread, and skips the contents of members.  Returns
 * the index, which the caller owns.  EBADMSG: the file ends before offset + length; the errors of
 * img_scanner_feed, img_scanner_finish and pread(2). */
img_index *img_scan_fd(int fd, uint64_t offset, uint64_t length, img_error *err);

#endif
