/* fastlook.c: answers requests that only read: names, attributes, listings, links, xattrs, statfs.
 *
 * Each handler copies its answer from the tree under the tree's read lock, and sends it without the
 * lock.
 */
#define _GNU_SOURCE /* statx */
#include "fast/fastlook.h"

#include "fast/fastrequest.h"
#include "fast/push.h"
#include "tree/content.h"
#include "tree/xattrs.h"
#include "upper/changexattr.h"
#include "upper/upperdir.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#define BLOCK 4096u

static void read_lock(fast_request *req) {
    (void)pthread_rwlock_rdlock(&req->path->tree->lock);
}

static void unlock(fast_request *req) {
    (void)pthread_rwlock_unlock(&req->path->tree->lock);
}

/* ---- attributes --------------------------------------------------------------------------- */

/* A dev_t in the form of fuse_attr.rdev (include/linux/kdev_t.h, new_encode_dev). */
static uint32_t encode_dev(uint64_t dev) {
    unsigned hi = major(dev), lo = minor(dev);
    return (lo & 0xffu) | (hi << 8) | ((lo & ~0xffu) << 12);
}

static void fill_attr(const img_tree *tree, img_id id, struct fuse_attr *attr) {
    const img_node *node = img_node_at(tree, id);
    *attr = (struct fuse_attr){
        .ino = img_node_ino(node, id),
        .size = node->size,
        .blocks = img_node_blocks(node),
        .atime = (uint64_t)node->atime_s,
        .mtime = (uint64_t)node->mtime_s,
        .ctime = (uint64_t)node->ctime_s,
        .atimensec = node->atime_ns,
        .mtimensec = node->mtime_ns,
        .ctimensec = node->ctime_ns,
        .mode = node->mode,
        .nlink = img_node_links(tree, id, node),
        .uid = img_id_shown(&tree->owners.uids, node->uid),
        .gid = img_id_shown(&tree->owners.gids, node->gid),
        .rdev = S_ISREG(node->mode) ? 0 : encode_dev(node->rdev),
        .blksize = BLOCK,
    };
}

int fast_entry(fast_request *req, img_id id, struct fuse_entry_out *entry) {
    const img_node *node = img_tree_node(req->path->tree, id);
    if (!node)
        return -ESTALE;
    img_tree_remember(req->path->tree, id, 1);
    *entry = (struct fuse_entry_out){.nodeid = id,
                                     .generation = img_node_generation(req->path->tree, node),
                                     .entry_valid = FAST_FOREVER,
                                     .attr_valid = FAST_FOREVER};
    fill_attr(req->path->tree, id, &entry->attr);
    return 0;
}

int fast_getattr(fast_request *req) {
    struct fuse_attr_out out = {.attr_valid = FAST_FOREVER};
    read_lock(req);
    const img_node *node = img_tree_node(req->path->tree, req->in->nodeid);
    if (node)
        fill_attr(req->path->tree, (img_id)req->in->nodeid, &out.attr);
    unlock(req);
    return node ? fast_reply(req, &out, sizeof out) : -ESTALE;
}

/* The time when the node's object in the upper was made. Layers do not record such a time. */
static void fill_birth(fast_request *req, wire_statx *stat) {
    struct statx found;
    int fd = img_upper_pin(req->path->upper, (img_id)req->in->nodeid);
    if (fd < 0)
        return;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &found) == 0 && found.stx_mask & STATX_BTIME) {
        stat->mask |= STATX_BTIME;
        stat->btime.tv_sec = found.stx_btime.tv_sec;
        stat->btime.tv_nsec = found.stx_btime.tv_nsec;
    }
    img_upper_unpin(req->path->upper, (img_id)req->in->nodeid);
}

int fast_statx(fast_request *req) {
    wire_statx_out out = {.attr_valid = FAST_FOREVER};
    struct fuse_attr a = {0};
    bool birth = false;
    read_lock(req);
    const img_node *node = img_tree_node(req->path->tree, req->in->nodeid);
    if (node) {
        fill_attr(req->path->tree, (img_id)req->in->nodeid, &a);
        birth = node->flags & IMG_NODE_UPPER && (S_ISREG(node->mode) || S_ISDIR(node->mode));
    }
    unlock(req);
    if (!node)
        return -ESTALE;
    out.stat = (wire_statx){
        .mask = STATX_BASIC_STATS,
        .blksize = a.blksize,
        .nlink = a.nlink,
        .uid = a.uid,
        .gid = a.gid,
        .mode = (uint16_t)a.mode,
        .ino = a.ino,
        .size = a.size,
        .blocks = a.blocks,
        .atime = {(int64_t)a.atime, a.atimensec, 0},
        .ctime = {(int64_t)a.ctime, a.ctimensec, 0},
        .mtime = {(int64_t)a.mtime, a.mtimensec, 0},
        .rdev_major = (a.rdev & 0xfff00) >> 8, /* new_decode_dev */
        .rdev_minor = (a.rdev & 0xff) | ((a.rdev >> 12) & 0xfff00),
    };
    if (birth && req->path->upper)
        fill_birth(req, &out.stat);
    return fast_reply(req, &out, sizeof out);
}

int fast_access(fast_request *req) {
    /* Sent only without default_permissions, and then only for the user who mounted. */
    const struct fuse_access_in *in = (const void *)req->arg;
    read_lock(req);
    const img_node *node = img_tree_node(req->path->tree, req->in->nodeid);
    int result = !node ? -ESTALE : in->mask & 1 && !(node->mode & 0111) ? -EACCES : 0;
    unlock(req);
    return result ? result : fast_reply(req, NULL, 0);
}

int fast_statfs(fast_request *req) {
    struct fuse_statfs_out out = {.st = {.bsize = BLOCK, .frsize = BLOCK, .namelen = 255}};
    struct statvfs found;
    if (req->path->options.upper_fd < 0) {
        read_lock(req);
        out.st.files = req->path->tree->n_nodes;
        unlock(req);
    } else if (fstatvfs(req->path->options.upper_fd, &found) < 0) {
        return -errno;
    } else {
        out.st.blocks = found.f_blocks;
        out.st.bfree = found.f_bfree;
        out.st.bavail = found.f_bavail;
        out.st.files = found.f_files;
        out.st.ffree = found.f_ffree;
        out.st.bsize = (uint32_t)found.f_bsize;
        out.st.frsize = (uint32_t)found.f_frsize;
    }
    return fast_reply(req, &out, sizeof out);
}

/* ---- names -------------------------------------------------------------------------------- */

/* R. The node of a name; 0 when there is none. "." and ".." come only from the resolution of a file
 * handle (EXPORT_SUPPORT). */
static img_id find(const img_tree *tree, img_id parent, const char *name, size_t len) {
    if (len == 1 && name[0] == '.')
        return parent;
    if (len == 2 && name[0] == '.' && name[1] == '.')
        return img_tree_parent(tree, parent);
    return img_tree_lookup(tree, parent, name, len);
}

int fast_lookup(fast_request *req) {
    img_tree *tree = req->path->tree;
    struct fuse_entry_out entry = {.entry_valid = FAST_FOREVER};
    size_t at = 0, len;
    const char *name = fast_name(req, &at, &len);
    if (!name)
        return -EINVAL;
    if (len > 255)
        return -ENAMETOOLONG;
    read_lock(req);
    const img_node *parent = img_tree_node(tree, req->in->nodeid);
    bool itself = len == 1 && name[0] == '.'; /* also of a file: open_by_handle_at(2) */
    int result = !parent ? -ESTALE : itself || S_ISDIR(parent->mode) ? 0 : -ENOTDIR;
    img_id id = result ? 0 : find(tree, (img_id)req->in->nodeid, name, len);
    if (id)
        result = fast_entry(req, id, &entry);
    unlock(req);
    if (result)
        return result;
    /* nodeid 0: the name does not exist, and the kernel may cache that */
    result = fast_reply(req, &entry, sizeof entry);
    if (result && id)
        img_forget(tree, req->path->upper, id, 1);
    return 0;
}

int fast_forget(fast_request *req) {
    const struct fuse_forget_in *in = (const void *)req->arg;
    img_forget(req->path->tree, req->path->upper, req->in->nodeid, in->nlookup);
    img_stats_add(req->path->stats, IMG_DOOR_NATIVE, FUSE_FORGET, img_stats_now() - req->start,
                  false, 0);
    return FAST_SILENT;
}

int fast_batch_forget(fast_request *req) {
    const struct fuse_batch_forget_in *in = (const void *)req->arg;
    const struct fuse_forget_one *one = (const void *)(req->arg + sizeof *in);
    size_t there = (req->arg_len - sizeof *in) / sizeof *one;
    for (size_t i = 0; i < in->count && i < there; i++)
        img_forget(req->path->tree, req->path->upper, one[i].nodeid, one[i].nlookup);
    img_stats_add(req->path->stats, IMG_DOOR_NATIVE, FUSE_BATCH_FORGET,
                  img_stats_now() - req->start, false, 0);
    return FAST_SILENT;
}

int fast_readlink(fast_request *req) {
    size_t len = 0;
    int result = -ESTALE;
    read_lock(req);
    const img_node *node = img_tree_node(req->path->tree, req->in->nodeid);
    if (node)
        result = S_ISLNK(node->mode) ? 0 : -EINVAL;
    if (result == 0) {
        len = node->size < FAST_MAX_WRITE ? node->size : FAST_MAX_WRITE;
        memcpy(req->out, node->u.target, len);
    }
    unlock(req);
    return result ? result : fast_reply(req, req->out, len);
}

/* ---- listings ----------------------------------------------------------------------------- */

typedef struct listing {
    fast_request *req;
    char *at;
    size_t room;
    bool plus;
} listing;

/* Adds an entry; false when it does not fit. */
static bool add(listing *to, const char *name, size_t len, img_id id, uint64_t cookie, bool dots) {
    const img_node *node = img_node_at(to->req->path->tree, id);
    size_t head = to->plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
    size_t size = FUSE_DIRENT_ALIGN(head + len);
    if (size > to->room)
        return false;
    struct fuse_dirent *entry = (void *)to->at;
    if (to->plus) {
        struct fuse_direntplus *plus = (void *)to->at;
        entry = &plus->dirent;
        plus->entry_out = (struct fuse_entry_out){0};
        /* The kernel counts no lookup for "." and "..", nor for nodeid 0. */
        if (!dots)
            (void)fast_entry(to->req, id, &plus->entry_out);
    }
    *entry = (struct fuse_dirent){.ino = img_node_ino(node, id),
                                  .off = cookie,
                                  .namelen = (uint32_t)len,
                                  .type = (node->mode & S_IFMT) >> 12};
    memcpy(entry->name, name, len);
    memset(to->at + head + len, 0, size - head - len);
    to->at += size;
    to->room -= size;
    return true;
}

/* R. Adds the entries beyond cookie `from`, as many as fit. */
static void list(listing *to, img_id id, uint64_t from) {
    const img_tree *tree = to->req->path->tree;
    const img_dir *dir = img_node_at(tree, id)->u.dir;
    if (from < 1 && !add(to, ".", 1, id, 1, true))
        return;
    if (from < 2 && !add(to, "..", 2, img_tree_parent(tree, id), 2, true))
        return;
    if (!dir || from > UINT32_MAX)
        return;
    for (uint32_t i = img_dir_seek(dir, from < 2 ? 2 : (uint32_t)from); i < dir->used; i++) {
        if (!dir->slots[i].dentry)
            continue;
        const img_dentry *d = img_dentry_at(tree, dir->slots[i].dentry);
        if (d->node && !add(to, d->name, d->name_len, d->node, d->cookie, false))
            return;
    }
}

static int answer_listing(fast_request *req, bool plus) {
    const struct fuse_read_in *in = (const void *)req->arg;
    img_id id = (img_id)req->in->nodeid;
    listing to = {req, req->out, in->size < FAST_MAX_WRITE ? in->size : FAST_MAX_WRITE, plus};
    read_lock(req);
    const img_node *node = img_tree_node(req->path->tree, req->in->nodeid);
    int result = !node ? -ESTALE : !S_ISDIR(node->mode) ? -ENOTDIR : 0;
    if (!result)
        list(&to, id, in->offset);
    unlock(req);
    if (result)
        return result;
    result = fast_reply(req, req->out, (size_t)(to.at - req->out));
    if (plus && to.at > req->out && in->offset <= UINT32_MAX)
        fast_push_was_listed(req->path->notify, id, (uint32_t)in->offset);
    return 0;
}

int fast_readdir(fast_request *req) {
    return answer_listing(req, false);
}

int fast_readdirplus(fast_request *req) {
    return answer_listing(req, true);
}

/* ---- xattrs ------------------------------------------------------------------------------- */

/* As getxattr(2): with room 0 the size, else the bytes. */
static int answer_sized(fast_request *req, uint32_t room, size_t size) {
    struct fuse_getxattr_out out = {.size = (uint32_t)size};
    if (room == 0)
        return fast_reply(req, &out, sizeof out);
    return size > room ? -ERANGE : fast_reply(req, req->out, size);
}

int fast_getxattr(fast_request *req) {
    static const char caps[] = "security.capability";
    const struct fuse_getxattr_in *in = (const void *)req->arg;
    size_t at = sizeof *in, len;
    uint32_t size = 0;
    const char *name = fast_name(req, &at, &len);
    if (!name)
        return -EINVAL;
    /* The kernel asks for this xattr before the first write to an inode (file_remove_privs). */
    if (len == sizeof caps - 1 && memcmp(name, caps, len) == 0)
        fast_push_stop(req->path->notify, (img_id)req->in->nodeid);
    read_lock(req);
    const img_node *node = img_tree_node(req->path->tree, req->in->nodeid);
    const char *value = node ? img_node_xattr(node, name, len, &size) : NULL;
    if (value && size <= FAST_MAX_WRITE)
        memcpy(req->out, value, size);
    unlock(req);
    if (!node)
        return -ESTALE;
    if (!value)
        return img_no_such_xattr(name);
    return answer_sized(req, in->size, size);
}

/* Whether the caller may see the name: trusted.* is hidden from users without privileges (xattr(7))
 */
static bool visible(const fast_request *req, const char *name, size_t len) {
    return req->in->uid == 0 || len < 8 || memcmp(name, "trusted.", 8) != 0;
}

int fast_listxattr(fast_request *req) {
    const struct fuse_getxattr_in *in = (const void *)req->arg;
    size_t size = 0;
    read_lock(req);
    const img_node *node = img_tree_node(req->path->tree, req->in->nodeid);
    for (uint32_t at = 0; node && at < node->xattr_bytes;) {
        uint16_t name_len;
        uint32_t value_len;
        const char *record = node->xattrs + at;
        memcpy(&name_len, record, 2);
        memcpy(&value_len, record + 2, 4);
        at += 6u + name_len + value_len;
        if (!visible(req, record + 6, name_len) || size + name_len + 1 > FAST_MAX_WRITE)
            continue;
        memcpy(req->out + size, record + 6, name_len);
        size += name_len;
        req->out[size++] = '\0';
    }
    unlock(req);
    return node ? answer_sized(req, in->size, size) : -ESTALE;
}
