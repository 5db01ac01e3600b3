/* identity.c: what tells an object of the upper from all others, also from later ones. */
#define _GNU_SOURCE /* statx */
#include "upper/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

static uint32_t born_at(const struct statx_timestamp *at) {
    uint64_t ns = (uint64_t)at->tv_sec * 1000000000u + at->tv_nsec;
    uint32_t hash = (uint32_t)(ns * UINT64_C(0x9E3779B97F4A7C15) >> 32);
    return hash ? hash : 1;
}

int img_identity_of(int fd, const char *name, img_identity *out) {
    struct statx st;
    const int flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW;
    if (statx(fd, name, flags, STATX_TYPE | STATX_INO | STATX_BTIME, &st) < 0)
        return -errno;
    uint32_t born = st.stx_mask & STATX_BTIME ? born_at(&st.stx_btime) : 0;
    *out = (img_identity){.mode = st.stx_mode, .born = born, .object = st.stx_ino};
    return 0;
}
