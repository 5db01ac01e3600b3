#include "upper/harmless.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/xattr.h>

#define CAPABILITY "security.capability"

/* ---- set-id bits -------------------------------------------------------------------------- */

uint32_t img_harmless_bits(const char *place) {
    char text[8], *end;
    ssize_t n = getxattr(place, IMG_MARK_SET_ID, text, sizeof text - 1);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    unsigned long bits = strtoul(text, &end, 8);
    return *end ? 0 : (uint32_t)bits & IMG_SET_ID_BITS;
}

static int remove_mark(const char *place, const char *mark) {
    return removexattr(place, mark) < 0 && errno != ENODATA ? -errno : 0;
}

static int write_bits(const char *place, uint32_t bits) {
    char text[8];
    if (!bits)
        return remove_mark(place, IMG_MARK_SET_ID);
    int n = snprintf(text, sizeof text, "%o", bits);
    return setxattr(place, IMG_MARK_SET_ID, text, (size_t)n, 0) < 0 ? -errno : 0;
}

int img_harmless_take(const char *place, uint32_t bits, uint32_t *had) {
    *had = img_harmless_bits(place);
    return *had & bits ? write_bits(place, *had & ~bits) : 0;
}

void img_harmless_put_back(const char *place, uint32_t had) {
    if (had != img_harmless_bits(place))
        (void)write_bits(place, had);
}

/* What goes, the mode, what comes. */
static int chmod_marked(const char *place, uint32_t before, uint32_t mode) {
    uint32_t bits = mode & IMG_SET_ID_BITS, had;
    int result = img_harmless_take(place, ~bits, &had);
    if (result < 0)
        return result;
    if (chmod(place, mode & ~IMG_SET_ID_BITS) < 0)
        result = -errno;
    else if (bits & ~had && (result = write_bits(place, bits)) < 0)
        (void)chmod(place, before & 07777 & ~had);
    if (result < 0)
        img_harmless_put_back(place, had);
    return result;
}

static int chmod_real(const char *place, uint32_t mode) {
    uint32_t had;
    int result = img_harmless_take(place, IMG_SET_ID_BITS, &had);
    if (result == 0 && chmod(place, mode) < 0) {
        result = -errno;
        img_harmless_put_back(place, had);
    }
    return result;
}

int img_harmless_chmod(const img_upper *upper, const char *place, uint32_t before, uint32_t mode) {
    return upper->options.harmless_files ? chmod_marked(place, before, mode)
                                         : chmod_real(place, mode);
}

/* ---- capabilities ------------------------------------------------------------------------- */

const char *img_mark_capability(const img_upper *upper) {
    return upper->options.owners ? "trusted.overlay.imgmount.capability"
                                 : "user.overlay.imgmount.capability";
}

int img_harmless_set_capability(const img_upper *upper, const char *place, const char *value,
                                size_t len) {
    const char *mark = img_mark_capability(upper);
    const char *kept = upper->options.harmless_files ? mark : CAPABILITY;
    const char *other = upper->options.harmless_files ? CAPABILITY : mark;
    if (!value) {
        int result = remove_mark(place, mark);
        if (result < 0 && result != -EOPNOTSUPP)
            return result;
        result = remove_mark(place, CAPABILITY);
        /* who may not, or on what cannot have one, gave none: only the tree has it */
        return result == -EPERM || result == -EOPNOTSUPP ? 0 : result;
    }
    if (setxattr(place, kept, value, len, 0) < 0)
        return -errno;
    return remove_mark(place, other);
}
