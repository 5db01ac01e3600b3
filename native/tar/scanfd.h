/* scanfd.h: scans a tar archive that a descriptor leads to. */
#ifndef IMG_SCANFD_H
#define IMG_SCANFD_H

#include "base/error.h"
#include "index/index.h"

/* Scans length bytes of fd from offset with pread, without reading the contents of members. EBADMSG
 * when the file ends before offset + length; the errors of img_scanner_feed and img_scanner_finish;
 * those of pread. The caller owns the index. */
img_index *img_scan_fd(int fd, uint64_t offset, uint64_t length, img_error *err);

#endif
