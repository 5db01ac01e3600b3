/* fastfile.h: requests for the contents of files. */
#ifndef IMG_FASTFILE_H
#define IMG_FASTFILE_H

#include "fast/fast.h"

fast_handler fast_read, fast_write, fast_fsync, fast_syncfs, fast_lseek, fast_fallocate,
    fast_copy_range, fast_copy_range_64;

#endif
