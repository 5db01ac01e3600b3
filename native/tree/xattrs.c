/* xattrs.c: reads and sets the xattrs of a node.
 *
 * Records are packed as they are in an index (u16 name_len | u32 value_len | name | value), so that
 * a node of a layer can point at its records in the index. */
#include "tree/xattrs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HEAD 6u

typedef struct record {
    const char *name, *value;
    uint16_t name_len;
    uint32_t value_len;
    uint32_t bytes;
} record;

static record record_at(const char *p) {
    record r;
    memcpy(&r.name_len, p, 2);
    memcpy(&r.value_len, p + 2, 4);
    r.name = p + HEAD;
    r.value = r.name + r.name_len;
    r.bytes = HEAD + r.name_len + r.value_len;
    return r;
}

static bool find(const img_node *node, const char *name, size_t len, uint32_t *at, record *out) {
    for (uint32_t i = 0; i < node->xattr_bytes;) {
        record r = record_at(node->xattrs + i);
        if (r.name_len == len && memcmp(r.name, name, len) == 0) {
            *at = i;
            *out = r;
            return true;
        }
        i += r.bytes;
    }
    return false;
}

const char *img_node_xattr(const img_node *node, const char *name, size_t len,
                           uint32_t *value_len) {
    uint32_t at;
    record r;
    if (!find(node, name, len, &at, &r))
        return NULL;
    *value_len = r.value_len;
    return r.value;
}

static void adopt(img_tree *tree, img_node *node, const char *records, uint32_t bytes, bool own) {
    if (node->flags & IMG_NODE_OWN_XATTRS) {
        tree->heap_bytes -= node->xattr_bytes;
        tree->value_bytes -= node->xattr_bytes;
        free((char *)(uintptr_t)node->xattrs);
    }
    node->xattrs = records;
    node->xattr_bytes = bytes;
    node->flags = (uint16_t)(node->flags & ~IMG_NODE_OWN_XATTRS);
    if (own) {
        node->flags |= IMG_NODE_OWN_XATTRS;
        tree->heap_bytes += bytes;
        tree->value_bytes += bytes;
    }
}

int img_tree_replace_xattrs(img_tree *tree, img_node *node, const char *records, size_t bytes,
                            bool copy) {
    if (bytes > UINT32_MAX)
        return -ENOSPC;
    if (!copy || !bytes) {
        adopt(tree, node, bytes ? records : NULL, (uint32_t)bytes, false);
        return 0;
    }
    char *own = malloc(bytes);
    if (!own)
        return -ENOMEM;
    memcpy(own, records, bytes);
    adopt(tree, node, own, (uint32_t)bytes, true);
    return 0;
}

uint64_t img_tree_xattr_growth(const img_node *node, const char *name, size_t len,
                               size_t value_len) {
    uint32_t at;
    record old = {0};
    (void)find(node, name, len, &at, &old);
    uint64_t bytes = (uint64_t)node->xattr_bytes - old.bytes + HEAD + len + value_len;
    uint64_t owned = node->flags & IMG_NODE_OWN_XATTRS ? node->xattr_bytes : 0;
    return bytes > owned ? bytes - owned : 0;
}

int img_tree_set_xattr(img_tree *tree, img_node *node, const char *name, size_t len,
                       const char *value, size_t value_len) {
    uint32_t at = node->xattr_bytes;
    record old = {0};
    bool there = find(node, name, len, &at, &old);
    if (!value && !there)
        return -ENODATA;
    if (len > UINT16_MAX || value_len > IMG_XATTR_VALUE_MAX)
        return -ENOSPC;
    size_t kept = node->xattr_bytes - old.bytes;
    size_t bytes = kept + (value ? HEAD + len + value_len : 0);
    char *own = malloc(bytes ? bytes : 1);
    if (!own)
        return -ENOMEM;
    if (kept) {
        memcpy(own, node->xattrs, at);
        memcpy(own + at, node->xattrs + at + old.bytes, kept - at);
    }
    if (value) {
        uint16_t n = (uint16_t)len;
        uint32_t v = (uint32_t)value_len;
        char *p = own + kept;
        memcpy(p, &n, 2);
        memcpy(p + 2, &v, 4);
        memcpy(p + HEAD, name, len);
        memcpy(p + HEAD + len, value, value_len);
    }
    adopt(tree, node, own, (uint32_t)bytes, true);
    return 0;
}
