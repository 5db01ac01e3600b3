/* changexattr.c: sets and removes xattrs. */
#define _GNU_SOURCE /* O_PATH */
#include "upper/changexattr.h"

#include "base/beneath.h"
#include "tree/xattrs.h"
#include "upper/changeinner.h"
#include "upper/harmless.h"

#include <linux/limits.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#define OURS "trusted.overlay." /* the prefix if the upper can store owners (rootfs/objects.py) */
#define XATTR_NAME_BYTES 512    /* an escaped name and its NUL */

/* The name under which an xattr is stored: names with overlayfs' prefix are escaped. False when it
 * is too long. */
static bool encode(const char *name, size_t len, char *out) {
    size_t skip = strlen(OURS);
    bool escape = len >= skip && memcmp(name, OURS, skip) == 0;
    int n = escape ? snprintf(out, XATTR_NAME_BYTES, OURS "overlay.%.*s", (int)(len - skip),
                              name + skip)
                   : snprintf(out, XATTR_NAME_BYTES, "%.*s", (int)len, name);
    return n > 0 && n <= XATTR_NAME_MAX;
}

static bool is_acl(const char *name) {
    return strcmp(name, IMG_ACL_ACCESS) == 0 || strcmp(name, IMG_ACL_DEFAULT) == 0;
}

int img_no_such_xattr(const char *name) {
    static const char *const spaces[] = {"user.", "trusted.", "security."};
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++)
        if (strncmp(name, spaces[i], strlen(spaces[i])) == 0)
            return name[strlen(spaces[i])] ? -ENODATA : -EINVAL;
    return is_acl(name) ? -ENODATA : -EOPNOTSUPP;
}

/* R. Whether the xattr may be set: 0, IMG_DECLINED, or a negative errno. */
static int may_set(const img_upper *upper, img_id id, const char *name, size_t len,
                   const char *value, size_t value_len, int flags, bool *copy_up) {
    const img_node *node = img_tree_node(upper->tree, id);
    uint32_t found_len;
    if (upper->options.read_only || upper->options.work_fd < 0)
        return -EROFS;
    if (!node)
        return -ESTALE;
    bool there = node->xattr_bytes && img_node_xattr(node, name, len, &found_len);
    if (there && value && flags & XATTR_CREATE)
        return -EEXIST;
    int absent = img_no_such_xattr(name);
    if (!there && (!value || flags & XATTR_REPLACE || absent != -ENODATA))
        return absent;
    uint64_t growth = value ? img_tree_xattr_growth(node, name, len, value_len) : 0;
    if (growth && !img_tree_has_room(upper->tree, growth))
        return -ENOSPC;
    bool nameless = id != IMG_ROOT && !node->names;
    if (!upper->options.owners ||
        (nameless && (img_is_dir(node) || !(node->flags & IMG_NODE_UPPER))))
        return IMG_DECLINED;
    *copy_up = !(node->flags & IMG_NODE_UPPER);
    return *copy_up ? IMG_DECLINED : 0;
}

/* Sets ACL and mode of the node to those of the object, because an ACL changes the mode too.
 *
 * kill takes the set-gid bit only with an access ACL. The kernel asks for it with a default ACL as
 * well, but a default ACL does not change the mode in any other file system. */
static int take_over_acl(img_upper *upper, img_id id, int fd, const char *name, bool kill) {
    char value[IMG_XATTR_VALUE_MAX];
    struct stat st;
    char fd_path[IMG_FD_PATH_BYTES];
    img_fd_path(fd, fd_path);
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISDIR(st.st_mode))
        st.st_mode |= img_harmless_bits(fd_path);
    if (kill && st.st_mode & S_ISGID && !strcmp(name, IMG_ACL_ACCESS)) {
        uint32_t shown = st.st_mode, mode = shown & 07777 & ~(uint32_t)S_ISGID;
        st.st_mode = mode;
        int result = S_ISDIR(shown) ? (chmod(fd_path, mode) < 0 ? -errno : 0)
                                    : img_harmless_chmod(upper, fd_path, shown, mode);
        if (result < 0)
            return result;
    }
    ssize_t n = getxattr(fd_path, name, value, sizeof value);
    if (n < 0 && errno != ENODATA)
        return -errno;
    lock_write(upper);
    img_node *node = img_tree_node(upper->tree, id);
    int result = node ? 0 : -ESTALE;
    if (node) {
        node->mode = (node->mode & S_IFMT) | (st.st_mode & 07777);
        if (n >= 0)
            result = img_tree_set_xattr(upper->tree, node, name, strlen(name), value, (size_t)n);
        else
            (void)img_tree_set_xattr(upper->tree, node, name, strlen(name), NULL, 0);
    }
    unlock(upper);
    return result;
}

/* Sets or removes the xattr of the node, after that of the object. */
static int take_over(img_upper *upper, img_id id, const char *name, size_t len, const char *value,
                     size_t value_len) {
    lock_write(upper);
    img_node *node = img_tree_node(upper->tree, id);
    int result =
        node ? img_tree_set_xattr(upper->tree, node, name, len, value, value_len) : -ESTALE;
    unlock(upper);
    return result == -ENODATA ? 0 : result;
}

static void take_ctime(img_upper *upper, img_id id, int fd) {
    struct stat st;
    if (fstat(fd, &st) < 0)
        return;
    lock_write(upper);
    img_node *node = img_tree_node(upper->tree, id);
    if (node) {
        node->ctime_s = st.st_ctim.tv_sec;
        node->ctime_ns = (uint32_t)st.st_ctim.tv_nsec;
    }
    unlock(upper);
}

static int store(const img_upper *upper, const char *fd_path, const char *name, const char *value,
                 size_t len) {
    if (strcmp(name, IMG_CAPABILITY) == 0)
        return img_harmless_set_capability(upper, fd_path, value, len);
    if ((value ? setxattr(fd_path, name, value, len, 0) : removexattr(fd_path, name)) == 0)
        return 0;
    return errno == ENODATA && !value ? 0 /* the upper cannot store it, so only the tree has it */
                                      : -errno;
}

int img_set_xattr(img_upper *upper, img_id id, const char *name, size_t len, const char *value,
                  size_t value_len, int flags, bool kill, bool *copy_up) {
    char fd_path[IMG_FD_PATH_BYTES], stored[XATTR_NAME_BYTES];
    img_id pinned;
    *copy_up = false;
    lock_read(upper);
    int result = may_set(upper, id, name, len, value, value_len, flags, copy_up);
    unlock(upper);
    if (result == -ENODATA && !value && is_acl(name))
        return 0; /* as in other file systems: to remove an ACL that is not there is no error */
    if (result != 0)
        return result;
    if (!encode(name, len, stored))
        return -ERANGE;
    int fd = img_upper_hold(upper, id, &pinned);
    if (fd < 0)
        return fd;
    img_fd_path(fd, fd_path);
    result = store(upper, fd_path, stored, value, value_len);
    if (result == 0)
        result = is_acl(stored) ? take_over_acl(upper, id, fd, stored, kill)
                                : take_over(upper, id, name, len, value, value_len);
    take_ctime(upper, id, fd);
    img_upper_let_go(upper, fd, pinned);
    return result;
}
