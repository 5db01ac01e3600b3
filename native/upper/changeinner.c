/* changeinner.c: steps that the changes of this room have in common. */
#define _GNU_SOURCE /* renameat2 */
#include "upper/changeinner.h"

#include "tree/xattrs.h"

#include <string.h>
#include <unistd.h>

void img_change_times(img_node *node, const struct stat *st) {
    node->mtime_s = st->st_mtim.tv_sec;
    node->mtime_ns = (uint32_t)st->st_mtim.tv_nsec;
    node->ctime_s = st->st_ctim.tv_sec;
    node->ctime_ns = (uint32_t)st->st_ctim.tv_nsec;
}

bool img_change_has_xattr(const img_node *node, const char *name) {
    uint32_t len;
    return node->xattr_bytes && img_node_xattr(node, name, strlen(name), &len);
}

int img_find_named(const img_upper *upper, img_id parent, const char *name, size_t len,
                   img_named *out) {
    const img_tree *tree = upper->tree;
    if (upper->options.read_only || upper->options.work_fd < 0)
        return -EROFS;
    if (len > IMG_NAME_MAX)
        return -ENAMETOOLONG;
    if (len == 0 || memchr(name, '/', len) || memchr(name, 0, len))
        return -EINVAL;
    const img_node *node = img_tree_node(tree, parent);
    if (!node)
        return -ESTALE;
    if (!img_is_dir(node))
        return -ENOTDIR;
    memcpy(out->name, name, len);
    out->name[len] = 0;
    out->parent = parent;
    out->dentry = img_tree_dentry(tree, parent, name, len);
    out->node = out->dentry ? img_dentry_at(tree, out->dentry)->node : 0;
    out->lower = out->dentry && img_dentry_at(tree, out->dentry)->flags & IMG_NAME_LOWER;
    out->gone = parent != IMG_ROOT && !node->names;
    out->reached = node->flags & IMG_NODE_UPPER;
    return 0;
}

void img_stage_name(img_upper *upper, char *out) {
    (void)snprintf(out, IMG_STAGE_BYTES, "c%llu", (unsigned long long)++upper->serial);
}

void img_out_name(img_upper *upper, char *out) {
    (void)snprintf(out, IMG_STAGE_BYTES, "out-c%llu", (unsigned long long)++upper->serial);
}

/* Puts back an object that was another's.  Its name may have a whiteout of ours by now. */
static void put_back(img_upper *upper, const char *out, int dir, const char *name, bool whiteout) {
    int work = upper->options.work_fd;
    struct stat st;
    char at[IMG_NAME_BYTES];
    if (whiteout && rename_to(work, out, dir, name, RENAME_EXCHANGE) == 0) {
        if (stat_of(work, out, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == 0) {
            (void)unlinkat(work, out, 0);
            return;
        } /* others have put another object at the name: that one is put back now */
    }
    int result = rename_to(work, out, dir, name, RENAME_NOREPLACE);
    for (int n = 1; result == -EEXIST && n < IMG_PUT_BACK_MAX; n++) {
        (void)snprintf(at, sizeof at, ".imgmount-kept-%d", n);
        result = rename_to(work, out, dir, at, RENAME_NOREPLACE);
    }
    if (result < 0) {
        img_out_name(upper, at);
        (void)rename_to(work, out, work, at, RENAME_NOREPLACE);
    }
}

int img_take_out(img_upper *upper, int dir, const char *name, img_identity is, const char *out,
                 unsigned flags) {
    img_identity seen;
    int work = upper->options.work_fd;
    int result = rename_to(dir, name, work, out, flags);
    if (result < 0)
        return result;
    result = img_identity_of(work, out, &seen);
    if (result == 0 && img_upper_same(upper, is, &seen))
        return 0;
    put_back(upper, out, dir, name, flags & RENAME_WHITEOUT);
    return -EIO;
}
