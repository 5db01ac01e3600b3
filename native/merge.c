#define _GNU_SOURCE /* memrchr, memmem */
#include "merge.h"

#include "entrynode.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LINKS_MAX 40        /* MAXSYMLINKS of Linux */
#define LATER_ROUNDS_MAX 64 /* rounds over the hard links whose targets come later */
#define WALK_BYTES (IMG_PATH_BYTES_MAX + IMG_LINK_BYTES_MAX)
#define PREFIX ".wh."
#define META ".wh..wh."
#define OPAQUE ".wh..wh..opq"

typedef struct mark { /* a whiteout, put aside: hide `name` in the directory, or all of it */
    char *dir;        /* canonical path, owned */
    size_t dir_len;
    const char *name; /* NULL: opaque */
    size_t name_len;
} mark;

typedef struct merge {
    img_tree *tree;
    const img_index *index;
    uint16_t layer;
    bool follow;
    img_id scratch;
    img_error *err;
    const img_entry *entry; /* at hand, for messages */
    uint32_t parent_dir;    /* pool offset and length of the path whose node is parent, if any */
    uint16_t parent_dir_len;
    img_id parent;
    mark *marks;
    size_t n_marks, marks_size;
    uint32_t *later; /* hardlinks whose target has not come yet */
    size_t n_later, later_size;
} merge;

/* The way to a directory: where it is in the scratch and below, and its name without links. */
typedef struct walk {
    img_id here;  /* in the scratch; 0 once the path leaves what is there */
    img_id below; /* in the lower tree; 0 likewise */
    char canon[WALK_BYTES];
    size_t canon_len;
} walk;

static int fail(merge *m, int code, const char *why) {
    const img_entry *e = m->entry;
    const char *pool = m->index->pool;
    m->err->offset = e ? e->archive_header : 0;
    m->err->member[0] = '\0';
    if (e)
        (void)snprintf(m->err->member, sizeof m->err->member, "%.*s%s%.*s", (int)e->dir_len,
                       pool + e->dir, e->dir_len ? "/" : "", (int)e->name_len, pool + e->name);
    return img_fail(m->err, code, "%s", why);
}

static bool starts(const char *s, size_t len, const char *prefix) {
    size_t n = strlen(prefix);
    return len >= n && memcmp(s, prefix, n) == 0;
}

static bool equals(const char *s, size_t len, const char *other) {
    return len == strlen(other) && memcmp(s, other, len) == 0;
}

/* ---- parents ------------------------------------------------------------------------------ */

static img_id make_implied(merge *m, img_id parent, const char *name, size_t len) {
    img_attributes plain = {.mode = S_IFDIR | 0755};
    img_id id = img_tree_new_node(m->tree, &plain, m->layer);
    if (!id)
        return 0;
    img_node_at(m->tree, id)->flags |= IMG_NODE_IMPLIED;
    if (img_tree_add_name(m->tree, parent, name, len, id, 0) == 0)
        return id;
    (void)img_tree_release(m->tree, id);
    return 0;
}

/* The directory of that canonical path below a root; 0 when there is none. */
static img_id look_from(const merge *m, img_id root, const char *path, size_t len) {
    img_id here = root;
    for (const char *at = path, *end = path + len; at < end && here;) {
        const char *slash = memchr(at, '/', (size_t)(end - at));
        size_t n = (size_t)((slash ? slash : end) - at);
        if (n)
            here = img_tree_lookup(m->tree, here, at, n);
        if (here && !img_is_dir(img_node_at(m->tree, here)))
            here = 0;
        at += n + (slash ? 1 : 0);
    }
    return here;
}

/* One step down, or *link is the symlink node that has to be followed instead. */
static int step(merge *m, walk *w, const char *name, size_t len, img_id *link) {
    img_tree *tree = m->tree;
    img_id next = w->here ? img_tree_lookup(tree, w->here, name, len) : 0;
    img_id below = w->below ? img_tree_lookup(tree, w->below, name, len) : 0;
    *link = 0;
    if (next && S_ISLNK(img_node_at(tree, next)->mode))
        *link = next;
    else if (!next && m->follow && below && S_ISLNK(img_node_at(tree, below)->mode))
        *link = below;
    if (*link)
        return 0;
    if (w->canon_len + 1 + len > sizeof w->canon)
        return fail(m, E2BIG, "the path through its symlinks is too long");
    w->canon[w->canon_len++] = '/';
    memcpy(w->canon + w->canon_len, name, len);
    w->canon_len += len;
    w->here = next && img_is_dir(img_node_at(tree, next)) ? next : 0;
    w->below = below && img_is_dir(img_node_at(tree, below)) ? below : 0;
    return 0;
}

static void step_up(merge *m, walk *w) {
    while (w->canon_len && w->canon[--w->canon_len] != '/') {
    }
    w->here = look_from(m, m->scratch, w->canon, w->canon_len);
    w->below = look_from(m, IMG_ROOT, w->canon, w->canon_len);
}

static void to_the_root(merge *m, walk *w) {
    w->here = m->scratch;
    w->below = IMG_ROOT;
    w->canon_len = 0;
}

/* Walks path from the scratch's root; symlinks of this layer (with follow: also of lower ones) lead
 * on inside the root. What is missing is passed by name, so that ".." after it goes back. */
static int walk_to(merge *m, walk *w, const char *path, size_t len) {
    char rest[WALK_BYTES];
    const char *at = path, *end = path + len; /* moves into rest at the first symlink */
    int links = 0;
    to_the_root(m, w);
    while (at < end) {
        const char *slash = memchr(at, '/', (size_t)(end - at));
        const char *name = at;
        size_t n = (size_t)((slash ? slash : end) - at);
        img_id link;
        at += n + (slash ? 1 : 0);
        if (n == 0 || (n == 1 && name[0] == '.'))
            continue;
        if (n == 2 && name[0] == '.' && name[1] == '.') {
            step_up(m, w);
            continue;
        }
        if (step(m, w, name, n, &link) < 0)
            return -1;
        if (!link)
            continue;
        if (++links > LINKS_MAX)
            return fail(m, EBADMSG, "its directory is a loop of symlinks");
        const img_node *node = img_node_at(m->tree, link);
        size_t left = (size_t)(end - at);
        if (node->size + 1 + left > sizeof rest)
            return fail(m, E2BIG, "the path through its symlinks is too long");
        char *start = rest + sizeof rest - left;
        memmove(start, at, left);
        *--start = '/';
        start -= node->size;
        memcpy(start, node->u.target, node->size);
        if (node->size && start[0] == '/')
            to_the_root(m, w);
        at = start;
        end = rest + sizeof rest;
    }
    return 0;
}

/* Makes the directories of a canonical path in the scratch; what is in the way is replaced. */
static img_id make_path(merge *m, const char *path, size_t len) {
    img_id here = m->scratch;
    for (const char *at = path, *end = path + len; at < end && here;) {
        const char *name = at + 1; /* each component stands behind its slash */
        const char *slash = memchr(name, '/', (size_t)(end - name));
        size_t n = (size_t)((slash ? slash : end) - name);
        uint32_t d = img_tree_dentry(m->tree, here, name, n);
        if (d && !img_is_dir(img_node_at(m->tree, img_dentry_at(m->tree, d)->node))) {
            img_tree_drop_subtree(m->tree, d, false);
            d = 0;
        }
        here = d ? img_dentry_at(m->tree, d)->node : make_implied(m, here, name, n);
        at = name + n;
    }
    return here;
}

/* The scratch directory that an entry goes into. */
static int parent_of(merge *m, const img_entry *e, img_id *out) {
    walk w;
    if (m->parent && m->parent_dir == e->dir && m->parent_dir_len == e->dir_len) {
        *out = m->parent;
        return 0;
    }
    if (walk_to(m, &w, m->index->pool + e->dir, e->dir_len) < 0)
        return -1;
    if (!w.here)
        w.here = make_path(m, w.canon, w.canon_len);
    if (!w.here)
        return fail(m, ENOMEM, "out of memory");
    m->parent = *out = w.here;
    m->parent_dir = e->dir;
    m->parent_dir_len = e->dir_len;
    return 0;
}

/* ---- entries ------------------------------------------------------------------------------ */

/* Takes away what the scratch has under that name, unless it is `same`. */
static bool clear_place(merge *m, img_id parent, const char *name, size_t len, img_id same) {
    uint32_t d = img_tree_dentry(m->tree, parent, name, len);
    if (d && img_dentry_at(m->tree, d)->node == same)
        return false;
    if (d) {
        if (img_is_dir(img_node_at(m->tree, img_dentry_at(m->tree, d)->node)))
            m->parent = 0; /* the cached parent may lie below */
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
    if (e->name_len == 0) { /* the root itself; anything but a directory there is nonsense */
        if (e->kind != IMG_DIR)
            return fail(m, EBADMSG, "the root is not a directory");
        there = m->scratch;
    } else {
        if (parent_of(m, e, &parent) < 0)
            return -1;
        there = img_tree_lookup(m->tree, parent, name, e->name_len);
    }
    if (there && e->kind == IMG_DIR && img_is_dir(img_node_at(m->tree, there))) {
        img_set_directory(m->tree, img_node_at(m->tree, there), &a, m->layer,
                          m->index->pool + e->xattrs, img_entry_xattr_bytes(m->index, e));
        return 0;
    }
    (void)clear_place(m, parent, name, e->name_len, 0);
    img_id id = img_entry_new_node(m->tree, m->index, e, m->layer);
    return id ? put_node(m, parent, e, id) : fail(m, ENOMEM, "out of memory");
}

/* ---- hardlinks ---------------------------------------------------------------------------- */

/* The node a hardlink means now; 0 when it is not there (yet). */
static int link_target(merge *m, const img_entry *e, img_id *out) {
    const char *link = m->index->pool + e->link;
    const char *slash = memrchr(link, '/', e->link_len);
    size_t dir_len = slash ? (size_t)(slash - link) : 0;
    const char *name = slash ? slash + 1 : link;
    size_t name_len = e->link_len - (size_t)(name - link);
    walk w;
    if (walk_to(m, &w, link, dir_len) < 0)
        return -1;
    *out = w.here ? img_tree_lookup(m->tree, w.here, name, name_len) : 0;
    if (!*out) {
        img_id dir = look_from(m, IMG_ROOT, w.canon, w.canon_len);
        if (dir)
            *out = img_tree_lookup(m->tree, dir, name, name_len);
    }
    if (*out && img_is_dir(img_node_at(m->tree, *out)))
        return fail(m, EBADMSG, "is a hard link to a directory");
    return 0;
}

/* The target is held meanwhile: making the directory for the new name may replace its old one, as
 * in a hard link "a/x" to "a". */
static int put_link(merge *m, const img_entry *e, img_id target) {
    img_id parent;
    img_node_at(m->tree, target)->lookups++;
    int result = parent_of(m, e, &parent);
    /* a link to itself, or given twice, changes nothing */
    if (result == 0 && clear_place(m, parent, m->index->pool + e->name, e->name_len, target))
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

/* Links to what came later, and links to those: rounds from the end, where targets stand, until one
 * brings nothing.  What real tars have takes one round; a chain made to take many is refused. */
static int put_later_links(merge *m) {
    for (unsigned round = 0; m->n_later; round++) {
        size_t left = m->n_later;
        for (size_t i = m->n_later; i-- > 0;) {
            img_id target;
            m->entry = &m->index->entries[m->later[i]];
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

static int put_aside(merge *m, const img_entry *e, const char *name, size_t len) {
    walk w;
    if (walk_to(m, &w, m->index->pool + e->dir, e->dir_len) < 0)
        return -1;
    if (m->n_marks == m->marks_size) {
        m->marks_size = m->marks_size * 2 + 16;
        mark *grown = realloc(m->marks, m->marks_size * sizeof *grown);
        if (!grown)
            return fail(m, ENOMEM, "out of memory");
        m->marks = grown;
    }
    char *dir = malloc(w.canon_len + 1);
    if (!dir)
        return fail(m, ENOMEM, "out of memory");
    memcpy(dir, w.canon, w.canon_len);
    m->marks[m->n_marks++] = (mark){dir, w.canon_len, name, len};
    return 0;
}

static int put_whiteout(merge *m, const img_entry *e) {
    const char *name = m->index->pool + e->name;
    size_t len = e->name_len;
    if (equals(name, len, OPAQUE))
        return put_aside(m, e, NULL, 0);
    if (starts(name, len, META) && !starts(name, len, OPAQUE))
        return 0;
    name += strlen(PREFIX);
    len -= strlen(PREFIX);
    if (len == 0 || equals(name, len, ".") || equals(name, len, ".."))
        return fail(m, EBADMSG, "is a whiteout of no name");
    return put_aside(m, e, name, len);
}

static void apply_whiteouts(merge *m) {
    for (size_t i = 0; i < m->n_marks; i++) {
        const mark *wh = &m->marks[i];
        img_id dir = look_from(m, IMG_ROOT, wh->dir, wh->dir_len);
        if (!dir)
            continue;
        if (!wh->name) {
            img_tree_drop_children(m->tree, dir);
            continue;
        }
        uint32_t d = img_tree_dentry(m->tree, dir, wh->name, wh->name_len);
        if (d)
            img_tree_drop_subtree(m->tree, d, false);
    }
}

/* True when a directory on the way is itself named like a whiteout. */
static bool below_a_whiteout(const merge *m, const img_entry *e) {
    const char *dir = m->index->pool + e->dir, *end = dir + e->dir_len;
    if (!memmem(dir, e->dir_len, PREFIX, strlen(PREFIX)))
        return false;
    while (dir < end) {
        const char *slash = memchr(dir, '/', (size_t)(end - dir));
        if (starts(dir, (size_t)(end - dir), PREFIX))
            return true;
        dir = slash ? slash + 1 : end;
    }
    return false;
}

/* ---- the layer laid over what is below ------------------------------------------------------ */

static int lay_over(merge *m, img_id lower, img_id upper);

static int lay_name_over(merge *m, img_id lower, uint32_t d) {
    img_tree *tree = m->tree;
    const img_dentry *dentry = img_dentry_at(tree, d);
    img_id id = dentry->node;
    uint32_t old = img_tree_dentry(tree, lower, dentry->name, dentry->name_len);
    if (old) {
        img_id there = img_dentry_at(tree, old)->node;
        if (img_is_dir(img_node_at(tree, id)) && img_is_dir(img_node_at(tree, there)))
            return lay_over(m, there, id); /* the emptied scratch directory goes with the scratch */
        img_tree_drop_subtree(tree, old, false);
    }
    return img_tree_move(tree, d, lower, dentry->name, dentry->name_len, false);
}

static int lay_over(merge *m, img_id lower, img_id upper) {
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
        img_set_directory(m->tree, img_node_at(m->tree, lower), &a, m->layer, over->xattrs,
                          over->xattr_bytes);
    }
    /* moving a name out only makes holes in this directory's slots, or cuts its end */
    const img_dir *dir = over->u.dir;
    for (uint32_t i = 0; dir && i < dir->used; i++)
        if (dir->slots[i].dentry && lay_name_over(m, lower, dir->slots[i].dentry) < 0)
            return fail(m, ENOMEM, "out of memory");
    return 0;
}

static int unpack(merge *m) {
    for (uint64_t i = 0; i < m->index->head.n_entries; i++) {
        const img_entry *e = m->entry = &m->index->entries[i];
        int result;
        if (below_a_whiteout(m, e))
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

static int add_layer_slot(merge *m, int fd, uint64_t base) {
    img_tree *tree = m->tree;
    if (tree->n_layers == IMG_LAYERS_MAX)
        return fail(m, E2BIG, "too many layers");
    img_layer *grown = realloc(tree->layers, (tree->n_layers + 1) * sizeof *grown);
    if (!grown)
        return fail(m, ENOMEM, "out of memory");
    tree->layers = grown;
    m->layer = (uint16_t)tree->n_layers;
    grown[tree->n_layers++] = (img_layer){m->index, fd, base, 0};
    img_attributes root = {.mode = S_IFDIR | 0755};
    m->scratch = img_tree_new_node(tree, &root, m->layer);
    if (!m->scratch)
        return fail(m, ENOMEM, "out of memory");
    img_node_at(tree, m->scratch)->flags |= IMG_NODE_IMPLIED;
    return 0;
}

int img_tree_add_layer(img_tree *tree, const img_index *index, int fd, uint64_t base, bool follow,
                       img_error *err) {
    merge m = {.tree = tree, .index = index, .follow = follow, .err = err};
    int result = add_layer_slot(&m, fd, base);
    if (result == 0)
        result = unpack(&m);
    if (result == 0) {
        m.entry = NULL;
        apply_whiteouts(&m);
        result = lay_over(&m, IMG_ROOT, m.scratch);
    }
    if (result == 0)
        (void)img_tree_release(tree, m.scratch);
    for (size_t i = 0; i < m.n_marks; i++)
        free(m.marks[i].dir);
    free(m.marks);
    free(m.later);
    return result;
}
