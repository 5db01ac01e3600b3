/* harmless.c: reads and writes the marks for set-id bits and capabilities. */
#include "upper/harmless.h"

#include <endian.h>
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#define CAPABILITY "security.capability"

/* ---- set-id bits -------------------------------------------------------------------------- */

uint32_t img_harmless_bits(const char *fd_path) {
    char text[8], *end;
    ssize_t n = getxattr(fd_path, IMG_MARK_SET_ID, text, sizeof text - 1);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    unsigned long bits = strtoul(text, &end, 8);
    return *end ? 0 : (uint32_t)bits & IMG_SET_ID_BITS;
}

static int remove_mark(const char *fd_path, const char *mark) {
    return removexattr(fd_path, mark) < 0 && errno != ENODATA ? -errno : 0;
}

static int write_bits(const char *fd_path, uint32_t bits) {
    char text[8];
    if (!bits)
        return remove_mark(fd_path, IMG_MARK_SET_ID);
    int n = snprintf(text, sizeof text, "%o", bits);
    return setxattr(fd_path, IMG_MARK_SET_ID, text, (size_t)n, 0) < 0 ? -errno : 0;
}

int img_harmless_take(const char *fd_path, uint32_t bits, uint32_t *had) {
    *had = img_harmless_bits(fd_path);
    return *had & bits ? write_bits(fd_path, *had & ~bits) : 0;
}

void img_harmless_put_back(const char *fd_path, uint32_t had) {
    if (had != img_harmless_bits(fd_path))
        (void)write_bits(fd_path, had);
}

/* Removes bits from the mark, sets the mode, adds bits to the mark. */
static int chmod_marked(const char *fd_path, uint32_t before, uint32_t mode) {
    uint32_t bits = mode & IMG_SET_ID_BITS, had;
    int result = img_harmless_take(fd_path, ~bits, &had);
    if (result < 0)
        return result;
    if (chmod(fd_path, mode & ~IMG_SET_ID_BITS) < 0)
        result = -errno;
    else if (bits & ~had && (result = write_bits(fd_path, bits)) < 0)
        (void)chmod(fd_path, before & 07777 & ~had);
    if (result < 0)
        img_harmless_put_back(fd_path, had);
    return result;
}

static int chmod_real(const char *fd_path, uint32_t mode) {
    uint32_t had;
    int result = img_harmless_take(fd_path, IMG_SET_ID_BITS, &had);
    if (result == 0 && chmod(fd_path, mode) < 0) {
        result = -errno;
        img_harmless_put_back(fd_path, had);
    }
    return result;
}

int img_harmless_chmod(const img_upper *upper, const char *fd_path, uint32_t before,
                       uint32_t mode) {
    return upper->options.harmless_files ? chmod_marked(fd_path, before, mode)
                                         : chmod_real(fd_path, mode);
}

/* ---- capabilities ------------------------------------------------------------------------- */

const char *img_mark_capability(const img_upper *upper) {
    return upper->options.owners ? "trusted.overlay.imgmount.capability"
                                 : "user.overlay.imgmount.capability";
}

/* As cap_convert_nscap() of the kernel's security/commoncap.c, which does not see a mark's value.
 */
static bool is_capability(const char *value, size_t len) {
    uint32_t magic;
    if (len < sizeof magic)
        return false;
    memcpy(&magic, value, sizeof magic);
    magic = le32toh(magic) & ~(uint32_t)VFS_CAP_FLAGS_EFFECTIVE;
    return (len == XATTR_CAPS_SZ_2 && magic == VFS_CAP_REVISION_2) ||
           (len == XATTR_CAPS_SZ_3 && magic == VFS_CAP_REVISION_3);
}

int img_harmless_set_capability(const img_upper *upper, const char *fd_path, const char *value,
                                size_t len) {
    const char *mark = img_mark_capability(upper);
    const char *kept = upper->options.harmless_files ? mark : CAPABILITY;
    const char *other = upper->options.harmless_files ? CAPABILITY : mark;
    if (!value) {
        int result = remove_mark(fd_path, mark);
        if (result < 0 && result != -EOPNOTSUPP)
            return result;
        result = remove_mark(fd_path, CAPABILITY);
        /* EPERM, EOPNOTSUPP: then the object has none either; only the tree has it */
        return result == -EPERM || result == -EOPNOTSUPP ? 0 : result;
    }
    if (upper->options.harmless_files && !is_capability(value, len))
        return -EINVAL;
    if (setxattr(fd_path, kept, value, len, 0) < 0)
        return -errno;
    return remove_mark(fd_path, other);
}
