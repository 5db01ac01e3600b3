#include "tree/entrynode.h"

#include "tree/xattrs.h"

#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

img_attributes img_entry_attributes(const img_entry *e) {
    return (img_attributes){
        .size = e->kind == IMG_FILE      ? e->size
                : e->kind == IMG_SYMLINK ? e->link_len
                                         : 0,
        .rdev =
            e->kind == IMG_CHAR || e->kind == IMG_BLOCK ? makedev(e->rdev_major, e->rdev_minor) : 0,
        .mtime_s = e->mtime_s,
        .atime_s = e->atime_s,
        .ctime_s = e->ctime_s,
        .mtime_ns = e->mtime_ns,
        .atime_ns = e->atime_ns,
        .ctime_ns = e->ctime_ns,
        .mode = e->kind == IMG_SYMLINK ? S_IFLNK | 0777 : e->mode, /* as lstat(2) of any symlink */
        .uid = e->uid,
        .gid = e->gid,
    };
}

uint32_t img_entry_xattr_bytes(const img_index *index, const img_entry *e) {
    uint32_t at = e->xattrs;
    for (uint32_t i = 0; i < e->n_xattrs; i++) {
        uint16_t name_len;
        uint32_t value_len;
        memcpy(&name_len, index->pool + at, 2);
        memcpy(&value_len, index->pool + at + 2, 4);
        at += 6 + name_len + value_len;
    }
    return at - e->xattrs;
}

void img_set_directory(img_tree *tree, img_node *node, const img_attributes *a, uint16_t layer,
                       const char *xattrs, uint32_t bytes) {
    node->mtime_s = a->mtime_s;
    node->atime_s = a->atime_s;
    node->ctime_s = a->ctime_s;
    node->mtime_ns = a->mtime_ns;
    node->atime_ns = a->atime_ns;
    node->ctime_ns = a->ctime_ns;
    node->mode = a->mode;
    node->uid = a->uid;
    node->gid = a->gid;
    node->layer = layer;
    node->flags = (uint16_t)(node->flags & ~IMG_NODE_IMPLIED);
    (void)img_tree_replace_xattrs(tree, node, xattrs, bytes, false);
}

static uint64_t extents_blocks(const img_extent *extents, uint32_t n) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n; i++)
        bytes += extents[i].length;
    return (bytes + 4095) / 4096 * 8;
}

img_id img_entry_new_node(img_tree *tree, const img_index *index, const img_entry *e,
                          uint16_t layer) {
    img_attributes a = img_entry_attributes(e);
    img_id id = img_tree_new_node(tree, &a, layer);
    if (!id)
        return 0;
    img_node *node = img_node_at(tree, id);
    if (e->n_xattrs)
        (void)img_tree_replace_xattrs(tree, node, index->pool + e->xattrs,
                                      img_entry_xattr_bytes(index, e), false);
    if (e->kind == IMG_SYMLINK)
        node->u.target = index->pool + e->link;
    if (e->kind == IMG_FILE && e->flags & IMG_ENTRY_SPARSE) {
        node->flags |= IMG_NODE_SPARSE;
        node->u.extents = index->extents + e->first_extent;
        node->n_extents = e->n_extents;
        node->flags |= IMG_NODE_BLOCKS; /* computed once, because a map may be long */
        node->blocks = extents_blocks(node->u.extents, node->n_extents);
    } else if (e->kind == IMG_FILE) {
        node->u.archive_data = e->archive_data;
    }
    if (e->kind == IMG_FILE && index->directory) {
        node->flags |= IMG_NODE_BLOCKS;
        node->blocks = (uint64_t)e->rdev_minor << 32 | e->rdev_major;
    }
    return id;
}
