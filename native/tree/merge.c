#define _GNU_SOURCE /* memrchr, memmem */
#include "tree/merge.h"

#include "base/interrupt.h"
#include "tree/entrynode.h"
#include "tree/mergewalk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LATER_ROUNDS_MAX 64 /* passes over the hard links whose targets come later */
#define PREFIX ".wh."
#define META ".wh..wh."
#define OPAQUE ".wh..wh..opq"

typedef struct whiteout { /* hides `name`, in the layers' directory that `dir` is laid over */
    img_id dir;           /* in the scratch; a lookup count keeps it */
    uint32_t len;
    const char *name; /* NULL: opaque, hides all names */
} whiteout;

typedef struct merge {
    img_walker walker;
    img_tree *tree;
    const img_index *index;
    img_error *err;
    const img_entry *entry; /* the current entry, for messages */
    uint32_t parent_dir;    /* pool offset and length of the path whose node is parent, if any */
    uint16_t parent_dir_len;
    img_id parent;
    whiteout *whiteouts; /* sorted by directory before they are applied */
    size_t n_whiteouts, whiteouts_size;
    uint32_t *later; /* entries of hardlinks whose target has not come yet */
    size_t n_later, later_size;
} merge;

/* Sets the member and offset of the error to the current entry; returns -1. */
static int at_fault(merge *m) {
    const img_entry *e = m->entry;
    const char *pool = m->index->pool;
    m->err->offset = e ? e->archive_header : 0;
    m->err->member[0] = '\0';
    if (e)
        (void)snprintf(m->err->member, sizeof m->err->member, "%.*s%s%.*s", (int)e->dir_len,
                       pool + e->dir, e->dir_len ? "/" : "", (int)e->name_len, pool + e->name);
    return -1;
}

static int fail(merge *m, int code, const char *why) {
    img_fail(m->err, code, "%s", why);
    return at_fault(m);
}

static bool starts(const char *s, size_t len, const char *prefix) {
    size_t n = strlen(prefix);
    return len >= n && memcmp(s, prefix, n) == 0;
}

static bool equals(const char *s, size_t len, const char *other) {
    return len == strlen(other) && memcmp(s, other, len) == 0;
}

/* Sets *out to the scratch directory that an entry goes into, and makes missing directories.  If an
 * object that is no directory is in the way, a directory replaces it; for a whiteout the object
 * stays, and *out is 0. */
static int parent_of(merge *m, const img_entry *e, bool for_whiteout, img_id *out) {
    img_walk walk;
    *out = m->parent;
    if (m->parent && m->parent_dir == e->dir && m->parent_dir_len == e->dir_len)
        return 0;
    if (img_walk_to(&m->walker, &walk, m->index->pool + e->dir, e->dir_len) < 0)
        return at_fault(m);
    *out = 0;
    if (for_whiteout && img_walk_blocked(&m->walker, &walk))
        return 0;
    if (img_walk_make(&m->walker, &walk) < 0)
        return at_fault(m);
    m->parent = *out = walk.here;
    m->parent_dir = e->dir;
    m->parent_dir_len = e->dir_len;
    return 0;
}

/* ---- entries ------------------------------------------------------------------------------ */

/* Flags the directory of a member and those above it: they were not made only for a whiteout. */
static void flag_member(merge *m, img_id dir) {
    while (!(img_node_at(m->tree, dir)->flags & IMG_NODE_HAS_MEMBER)) {
        img_node_at(m->tree, dir)->flags |= IMG_NODE_HAS_MEMBER;
        if (dir != m->walker.scratch)
            dir = img_tree_parent(m->tree, dir);
    }
}

/* Removes the name from the scratch; false, with nothing done, if its node is `same`. */
static bool clear_name(merge *m, img_id parent, const char *name, size_t len, img_id same) {
    uint32_t d = img_tree_dentry(m->tree, parent, name, len);
    if (d && img_dentry_at(m->tree, d)->node == same)
        return false;
    if (d) {
        const img_node *there = img_node_at(m->tree, img_dentry_at(m->tree, d)->node);
        if (img_is_dir(there) || S_ISLNK(there->mode))
            m->parent = 0; /* the cached parent may lie below, or its path may lead through here */
        img_tree_drop_subtree(m->tree, d, false);
    }
    return true;
}

static int put_node(merge *m, img_id parent, const img_entry *e, img_id id) {
    int result = img_tree_add_name(m->tree, parent, m->index->pool + e->name, e->name_len, id, 0);
    if (result == 0)
        return 0;
    (void)img_tree_release(m->tree, id);
    return fail(m, -result, result == -EMLINK ? "too many links" : "out of memory");
}

static int put_entry(merge *m, const img_entry *e) {
    const char *name = m->index->pool + e->name;
    img_attributes a = img_entry_attributes(e);
    img_id parent = 0, there;
    if (e->name_len == 0) { /* the root itself, which must be a directory */
        if (e->kind != IMG_DIR)
            return fail(m, EBADMSG, "the root is not a directory");
        there = m->walker.scratch;
    } else {
        if (parent_of(m, e, false, &parent) < 0)
            return -1;
        flag_member(m, parent);
        there = img_tree_lookup(m->tree, parent, name, e->name_len);
    }
    if (there && e->kind == IMG_DIR && img_is_dir(img_node_at(m->tree, there))) {
        img_set_directory(m->tree, img_node_at(m->tree, there), &a, m->walker.layer,
                          m->index->pool + e->xattrs, img_entry_xattr_bytes(m->index, e));
        return 0;
    }
    (void)clear_name(m, parent, name, e->name_len, 0);
    img_id id = img_entry_new_node(m->tree, m->index, e, m->walker.layer);
    return id ? put_node(m, parent, e, id) : fail(m, ENOMEM, "out of memory");
}

/* ---- hardlinks ---------------------------------------------------------------------------- */

/* Sets *out to the node that the target of a hardlink names now; 0 if there is none (yet). */
static int link_target(merge *m, const img_entry *e, img_id *out) {
    const char *link = m->index->pool + e->link;
    const char *slash = memrchr(link, '/', e->link_len);
    size_t dir_len = slash ? (size_t)(slash - link) : 0;
    const char *name = slash ? slash + 1 : link;
    size_t name_len = e->link_len - (size_t)(name - link);
    img_walk w;
    if (img_walk_to(&m->walker, &w, link, dir_len) < 0)
        return at_fault(m);
    *out = w.beyond_here ? 0 : img_tree_lookup(m->tree, w.here, name, name_len);
    if (!*out && img_walk_below(&w))
        *out = img_tree_lookup(m->tree, w.below, name, name_len);
    if (*out && img_is_dir(img_node_at(m->tree, *out)))
        return fail(m, EBADMSG, "is a hard link to a directory");
    return 0;
}

/* A lookup count keeps the target meanwhile, because making the directory of the new name may
 * remove the old name, as with a hard link "a/x" to "a". */
static int put_link(merge *m, const img_entry *e, img_id target) {
    img_id parent;
    img_node_at(m->tree, target)->lookups++;
    int result = parent_of(m, e, false, &parent);
    if (result == 0)
        flag_member(m, parent);
    /* a link to itself, and a link that comes twice, change nothing */
    if (result == 0 && clear_name(m, parent, m->index->pool + e->name, e->name_len, target))
        result = put_node(m, parent, e, target);
    img_node_at(m->tree, target)->lookups--;
    (void)img_tree_release(m->tree, target);
    return result;
}

static int put_hardlink(merge *m, uint32_t i) {
    img_id target;
    if (link_target(m, m->entry, &target) < 0)
        return -1;
    if (target)
        return put_link(m, m->entry, target);
    if (m->n_later == m->later_size) {
        m->later_size = m->later_size * 2 + 16;
        uint32_t *grown = realloc(m->later, m->later_size * sizeof *grown);
        if (!grown)
            return fail(m, ENOMEM, "out of memory");
        m->later = grown;
    }
    m->later[m->n_later++] = i;
    return 0;
}

/* Makes the hard links whose targets come later, which may be hard links themselves.  A pass
 * starts with the last link, because a link comes after the links that name it.  Passes are made
 * until no link is left.  Real tars need one pass; a hostile chain of links that needs many is
 * refused. */
static int put_later_links(merge *m) {
    for (unsigned round = 0; m->n_later; round++) {
        size_t left = m->n_later;
        for (size_t i = m->n_later; i-- > 0;) {
            img_id target;
            m->entry = &m->index->entries[m->later[i]];
            if (img_walk_step(&m->walker) < 0) /* a name in the root takes none */
                return at_fault(m);
            if (link_target(m, m->entry, &target) < 0)
                return -1;
            if (!target)
                m->later[--left] = m->later[i];
            else if (put_link(m, m->entry, target) < 0)
                return -1;
        }
        m->entry = &m->index->entries[m->later[m->n_later - 1]];
        if (left == 0)
            return fail(m, EBADMSG, "is a hard link to a name that is nowhere");
        if (round == LATER_ROUNDS_MAX)
            return fail(m, E2BIG, "is a hard link to a link to a link, too many times over");
        memmove(m->later, m->later + left, (m->n_later - left) * sizeof *m->later);
        m->n_later -= left;
    }
    return 0;
}

/* ---- whiteouts ---------------------------------------------------------------------------- */

/* True for the other names ".wh..wh.*", which belong to aufs. */
static bool is_bookkeeping(const char *name, size_t len) {
    return starts(name, len, META) && !starts(name, len, OPAQUE);
}

static int collect(merge *m, const img_entry *e, const char *name, size_t len) {
    img_id dir;
    if (parent_of(m, e, true, &dir) < 0)
        return -1;
    if (!dir)
        return 0;
    if (m->n_whiteouts == m->whiteouts_size) {
        size_t size = m->whiteouts_size * 2 + 16;
        whiteout *grown = reallocarray(m->whiteouts, size, sizeof *grown);
        if (!grown)
            return fail(m, ENOMEM, "out of memory");
        m->whiteouts = grown;
        m->whiteouts_size = size;
    }
    img_node_at(m->tree, dir)->lookups++; /* so that no other directory gets its nodeid */
    m->whiteouts[m->n_whiteouts++] = (whiteout){dir, (uint32_t)len, name};
    return 0;
}

static int put_whiteout(merge *m, const img_entry *e) {
    const char *name = m->index->pool + e->name;
    size_t len = e->name_len;
    if (equals(name, len, OPAQUE))
        return collect(m, e, NULL, 0);
    if (is_bookkeeping(name, len))
        return 0;
    name += strlen(PREFIX);
    len -= strlen(PREFIX);
    if (len == 0 || equals(name, len, ".") || equals(name, len, ".."))
        return fail(m, EBADMSG, "is a whiteout of no name");
    return collect(m, e, name, len);
}

/* Removes directories that were made only for whiteouts, if another whiteout of the layer hides
 * them. */
static void drop_hidden(merge *m) {
    for (size_t i = 0; i < m->n_whiteouts; i++) {
        const whiteout *wh = &m->whiteouts[i];
        uint32_t d = wh->name ? img_tree_dentry(m->tree, wh->dir, wh->name, wh->len) : 0;
        const img_node *node = d ? img_node_at(m->tree, img_dentry_at(m->tree, d)->node) : NULL;
        if (node && node->flags & IMG_NODE_IMPLIED && !(node->flags & IMG_NODE_HAS_MEMBER))
            img_tree_drop_subtree(m->tree, d, false);
    }
}

static int by_directory(const void *a, const void *b) {
    img_id one = ((const whiteout *)a)->dir, other = ((const whiteout *)b)->dir;
    return one < other ? -1 : one > other;
}

static void apply_whiteout(merge *m, const whiteout *wh, img_id lower) {
    if (!wh->name) {
        img_tree_drop_children(m->tree, lower);
        return;
    }
    uint32_t d = img_tree_dentry(m->tree, lower, wh->name, wh->len);
    if (d)
        img_tree_drop_subtree(m->tree, d, false);
}

/* Applies the whiteouts of the scratch directory `upper` to the layers' directory `lower`. */
static void apply_whiteouts(merge *m, img_id lower, img_id upper) {
    size_t low = 0, high = m->n_whiteouts;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (m->whiteouts[mid].dir < upper)
            low = mid + 1;
        else
            high = mid;
    }
    for (; low < m->n_whiteouts && m->whiteouts[low].dir == upper; low++)
        apply_whiteout(m, &m->whiteouts[low], lower);
}

static void forget_whiteouts(merge *m) {
    for (size_t i = 0; i < m->n_whiteouts; i++) {
        img_node_at(m->tree, m->whiteouts[i].dir)->lookups--;
        if (m->whiteouts[i].dir != m->walker.scratch)
            (void)img_tree_release(m->tree, m->whiteouts[i].dir);
    }
}

static bool below_bookkeeping(const merge *m, const img_entry *e) {
    const char *dir = m->index->pool + e->dir, *end = dir + e->dir_len;
    if (!memmem(dir, e->dir_len, META, strlen(META)))
        return false;
    while (dir < end) {
        const char *slash = memchr(dir, '/', (size_t)(end - dir));
        if (is_bookkeeping(dir, (size_t)(end - dir)))
            return true;
        dir = slash ? slash + 1 : end;
    }
    return false;
}

/* ---- laying the layer over the layers below ------------------------------------------------- */

static int lay_over(merge *m, img_id lower, img_id upper);

static int lay_name_over(merge *m, img_id lower, uint32_t d) {
    img_tree *tree = m->tree;
    const img_dentry *dentry = img_dentry_at(tree, d);
    img_id id = dentry->node;
    uint32_t old = img_tree_dentry(tree, lower, dentry->name, dentry->name_len);
    if (old) {
        img_id there = img_dentry_at(tree, old)->node;
        if (img_is_dir(img_node_at(tree, id)) && img_is_dir(img_node_at(tree, there)))
            return lay_over(m, there, id); /* the emptied directory is freed with the scratch */
        img_tree_drop_subtree(tree, old, false);
    }
    if (img_tree_move(tree, d, lower, dentry->name, dentry->name_len, false) < 0)
        return fail(m, ENOMEM, "out of memory");
    return 0;
}

static int lay_over(merge *m, img_id lower, img_id upper) {
    apply_whiteouts(m, lower, upper);
    img_node *over = img_node_at(m->tree, upper);
    if (!(over->flags & IMG_NODE_IMPLIED)) {
        img_attributes a = {.mtime_s = over->mtime_s,
                            .atime_s = over->atime_s,
                            .ctime_s = over->ctime_s,
                            .mtime_ns = over->mtime_ns,
                            .atime_ns = over->atime_ns,
                            .ctime_ns = over->ctime_ns,
                            .mode = over->mode,
                            .uid = over->uid,
                            .gid = over->gid};
        img_set_directory(m->tree, img_node_at(m->tree, lower), &a, m->walker.layer, over->xattrs,
                          over->xattr_bytes);
    }
    /* moving a name away only makes a hole in this directory's slots, or removes the last ones */
    const img_dir *dir = over->u.dir;
    for (uint32_t i = 0; dir && i < dir->used; i++) {
        if (img_interrupted(1, m->err) < 0)
            return at_fault(m);
        if (dir->slots[i].dentry && lay_name_over(m, lower, dir->slots[i].dentry) < 0)
            return -1;
    }
    return 0;
}

static int unpack(merge *m) {
    for (uint64_t i = 0; i < m->index->head.n_entries; i++) {
        const img_entry *e = m->entry = &m->index->entries[i];
        int result = 0;
        if (img_interrupted(1, m->err) < 0)
            return at_fault(m);
        if (below_bookkeeping(m, e))
            result = 0;
        else if (starts(m->index->pool + e->name, e->name_len, PREFIX))
            result = put_whiteout(m, e);
        else if (e->kind == IMG_HARDLINK)
            result = put_hardlink(m, (uint32_t)i);
        else
            result = put_entry(m, e);
        if (result < 0)
            return -1;
    }
    return put_later_links(m);
}

static int add_layer_slot(merge *m, int fd, uint64_t base, img_packed *packed) {
    img_tree *tree = m->tree;
    if (img_tree_count_members(tree, m->index, m->err) < 0)
        return at_fault(m);
    img_layer *grown = realloc(tree->layers, (tree->n_layers + 1) * sizeof *grown);
    if (!grown)
        return fail(m, ENOMEM, "out of memory");
    tree->layers = grown;
    m->walker.layer = (uint16_t)tree->n_layers;
    grown[tree->n_layers++] = (img_layer){m->index, fd, base, packed, 0};
    img_attributes root = {.mode = S_IFDIR | 0755};
    m->walker.scratch = img_tree_new_node(tree, &root, m->walker.layer);
    if (!m->walker.scratch)
        return fail(m, ENOMEM, "out of memory");
    img_node_at(tree, m->walker.scratch)->flags |= IMG_NODE_IMPLIED;
    return 0;
}

int img_tree_add_layer(img_tree *tree, const img_index *index, int fd, uint64_t base,
                       img_packed *packed, bool follow, img_error *err) {
    img_walker walker = {.tree = tree, .follow = follow, .err = err};
    merge m = {.walker = walker, .tree = tree, .index = index, .err = err};
    int result = add_layer_slot(&m, fd, base, packed);
    if (result == 0)
        result = unpack(&m);
    if (result == 0) {
        m.entry = NULL;
        drop_hidden(&m);
        if (m.n_whiteouts)
            qsort(m.whiteouts, m.n_whiteouts, sizeof *m.whiteouts, by_directory);
        result = lay_over(&m, IMG_ROOT, m.walker.scratch);
    }
    if (result == 0) {
        forget_whiteouts(&m);
        (void)img_tree_release(tree, m.walker.scratch);
    }
    free(m.whiteouts);
    free(m.later);
    return result;
}
