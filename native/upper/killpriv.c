/* killpriv.c: takes set-id bits and security.capability from a file whose contents change. */
#define _GNU_SOURCE /* renameat2 */
#include "upper/killpriv.h"

#include "base/beneath.h"
#include "tree/xattrs.h"
#include "upper/changeinner.h"
#include "upper/harmless.h"

#include <string.h>
#include <sys/xattr.h>

/* "uid:gid:0mode": owner and mode that are shown when the upper cannot store owners
 * (rootfs/objects.py) */
#define OVERRIDE_STAT "user.containers.override_stat"

/* Takes bits from the mode in OVERRIDE_STAT. 0, or a negative errno. */
static int take_from_override(int fd, uint32_t bits) {
    char text[64];
    unsigned uid, gid, mode;
    ssize_t n = fgetxattr(fd, OVERRIDE_STAT, text, sizeof text - 1);
    if (n < 0)
        return errno == ENODATA ? 0 : -errno;
    text[n] = 0;
    if (sscanf(text, "%10u:%10u:%6o", &uid, &gid, &mode) != 3)
        return 0;
    int len = snprintf(text, sizeof text, "%u:%u:0%o", uid, gid, mode & ~bits);
    return fsetxattr(fd, OVERRIDE_STAT, text, (size_t)len, 0) < 0 ? -errno : 0;
}

int img_killpriv_set_id(img_upper *upper, img_id id, int fd, const img_caller *caller) {
    lock_read(upper);
    const img_node *node = img_tree_node(upper->tree, id);
    uint32_t mode = node && S_ISREG(node->mode) ? node->mode : 0;
    uint32_t gid = node ? img_id_shown(&upper->tree->owners.gids, node->gid) : 0;
    unlock(upper);
    uint32_t bits = img_caller_loses(caller, mode, gid);
    if (!bits)
        return 0;
    struct stat st;
    char fd_path[IMG_FD_PATH_BYTES];
    uint32_t had;
    img_fd_path(fd, fd_path);
    int result = upper->options.owners ? img_harmless_take(fd_path, bits, &had)
                                       : take_from_override(fd, bits);
    if (result == 0 &&
        (fstat(fd, &st) < 0 || (st.st_mode & bits && fchmod(fd, st.st_mode & 07777 & ~bits) < 0)))
        result = -errno;
    if (result < 0)
        return result;
    lock_write(upper);
    if ((node = img_tree_node(upper->tree, id)))
        img_node_at(upper->tree, id)->mode &= ~bits;
    unlock(upper);
    return 0;
}

int img_killpriv_capability(img_upper *upper, img_id id, int fd) {
    char fd_path[IMG_FD_PATH_BYTES];
    lock_read(upper);
    const img_node *node = img_tree_node(upper->tree, id);
    bool there = node && img_change_has_xattr(node, IMG_CAPABILITY);
    unlock(upper);
    if (!there)
        return 0;
    img_fd_path(fd, fd_path);
    int result = img_harmless_set_capability(upper, fd_path, NULL, 0);
    if (result < 0)
        return result;
    lock_write(upper);
    img_node *now = img_tree_node(upper->tree, id);
    if (now)
        (void)img_tree_set_xattr(upper->tree, now, IMG_CAPABILITY, strlen(IMG_CAPABILITY), NULL, 0);
    unlock(upper);
    return 0;
}

void img_killpriv_undo_capability(img_upper *upper, img_id id, int fd) {
    char value[IMG_CAPABILITY_BYTES], fd_path[IMG_FD_PATH_BYTES];
    uint32_t len = 0;
    lock_read(upper);
    const img_node *node = img_tree_node(upper->tree, id);
    const char *kept =
        node ? img_node_xattr(node, IMG_CAPABILITY, strlen(IMG_CAPABILITY), &len) : NULL;
    bool fits = kept && len <= sizeof value;
    if (fits)
        memcpy(value, kept, len);
    unlock(upper);
    img_fd_path(fd, fd_path);
    if (fits)
        (void)img_harmless_set_capability(upper, fd_path, value, len);
}
