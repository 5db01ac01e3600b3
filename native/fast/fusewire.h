/* fusewire.h: the kernel's FUSE protocol, with operations that are newer than the system's header.
 *
 * Source: include/uapi/linux/fuse.h.  Debian 12 ships protocol 7.38.  The definitions below are
 * from Linux 6.18 (7.45), under names of our own so that they do not clash with a newer header.
 */
#ifndef IMG_FUSEWIRE_H
#define IMG_FUSEWIRE_H

#include <linux/fuse.h>
#include <stdint.h>

enum { WIRE_STATX = 52, WIRE_COPY_FILE_RANGE_64 = 53 }; /* 7.39, 7.45 */

typedef struct wire_sx_time {
    int64_t tv_sec;
    uint32_t tv_nsec;
    int32_t reserved;
} wire_sx_time;

typedef struct wire_statx { /* struct fuse_statx, 7.39 */
    uint32_t mask, blksize;
    uint64_t attributes;
    uint32_t nlink, uid, gid;
    uint16_t mode, spare0[1];
    uint64_t ino, size, blocks, attributes_mask;
    wire_sx_time atime, btime, ctime, mtime;
    uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
    uint64_t spare2[14];
} wire_statx;

typedef struct wire_statx_in {
    uint32_t getattr_flags, reserved;
    uint64_t fh;
    uint32_t sx_flags, sx_mask;
} wire_statx_in;

typedef struct wire_statx_out {
    uint64_t attr_valid;
    uint32_t attr_valid_nsec, flags;
    uint64_t spare[2];
    wire_statx stat;
} wire_statx_out;

typedef struct wire_copy_file_range_out { /* 7.45 */
    uint64_t bytes_copied;
} wire_copy_file_range_out;

_Static_assert(sizeof(wire_statx) == 256, "struct fuse_statx");
_Static_assert(sizeof(wire_statx_out) == 288, "struct fuse_statx_out");

#endif
