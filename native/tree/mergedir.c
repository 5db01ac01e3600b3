#include "tree/mergedir.h"

#include "base/interrupt.h"
#include "base/upperfds.h"
#include "tree/entrynode.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define MOST_FILES 4096u /* the most descriptors of the layers' files that are kept */
#define FEWEST_FILES 64u /* one for each thread that may read */

/* The position of a metacopy's contents.  It is copied, because the node that has these contents
 * may be freed before the metacopy's node gets them. */
typedef struct data {
    uint64_t size, archive_data, blocks;
    const img_extent *extents;
    uint32_t n_extents;
    uint16_t layer, flags;
} data;

/* A file that was copied up while the layers below still have further names of it: a crash came
 * before they were copied up (fusemount/rootfs/copyup.py, C5).  They become names of the copy. */
typedef struct names_left {
    uint32_t entry;
    img_id below; /* the file in the layers below; a lookup count keeps it */
} names_left;

typedef struct merge {
    img_tree *tree;
    const img_index *index;
    uint16_t layer;
    img_error *err;
    img_id *below; /* by entry: the directory of the layers below that it merges with; 0: none */
    img_id *here;  /* by entry: the node of the entry */
    data *copies;  /* contents of the metacopies, in the order of entries */
    size_t n_copies, copies_size;
    names_left *left;
    size_t n_left, left_size;
} merge;

static int fail(merge *m, const img_entry *e, int code, const char *why) {
    const char *pool = m->index->pool;
    m->err->offset = 0;
    m->err->member[0] = '\0';
    if (e)
        (void)snprintf(m->err->member, sizeof m->err->member, "%.*s%s%.*s", (int)e->dir_len,
                       pool + e->dir, e->dir_len ? "/" : "", (int)e->name_len, pool + e->name);
    return img_fail(m->err, code, "%s", why);
}

/* ---- looking up the layers below ---------------------------------------------------------- */

static img_id directory_in(const img_tree *tree, img_id dir, const char *name, size_t len) {
    img_id id = dir ? img_tree_lookup(tree, dir, name, len) : 0;
    return id && img_is_dir(img_node_at(tree, id)) ? id : 0;
}

/* The node that a redirect names; 0: none.  parent: the directory that the entry's directory merges
 * with. */
static img_id redirected(const merge *m, const img_entry *e, img_id parent) {
    const char *at = m->index->pool + e->link, *end = at + e->link_len;
    img_id here = parent;
    if (*at == '/')
        here = IMG_ROOT;
    else if (memchr(at, '/', e->link_len))
        return 0; /* a relative redirect must be one name in the same directory */
    while (at < end && here) {
        const char *slash = memchr(at, '/', (size_t)(end - at));
        size_t n = (size_t)((slash ? slash : end) - at);
        bool last = at + n == end;
        if (n)
            here =
                last ? img_tree_lookup(m->tree, here, at, n) : directory_in(m->tree, here, at, n);
        at += n + (slash ? 1 : 0);
    }
    return here == IMG_ROOT ? 0 : here;
}

static void find_directory(merge *m, uint32_t i, img_id parent) {
    const img_entry *e = &m->index->entries[i];
    img_id found = 0;
    if (e->flags & IMG_ENTRY_REDIRECT)
        found = redirected(m, e, parent);
    else if (!(e->flags & IMG_ENTRY_OPAQUE))
        found = directory_in(m->tree, parent, m->index->pool + e->name, e->name_len);
    m->below[i] = found && img_is_dir(img_node_at(m->tree, found)) ? found : 0;
}

/* The array with room for one more element; NULL if there is no memory, and the array stays valid.
 * size: the elements that the array has room for.  each: bytes of one element. */
static void *with_room(void *array, size_t used, size_t *size, size_t each) {
    size_t doubled = *size ? 2 * *size : 64;
    if (used < *size)
        return array;
    array = reallocarray(array, doubled, each);
    if (array)
        *size = doubled;
    return array;
}

static int find_contents(merge *m, const img_entry *e, img_id parent) {
    img_id id = 0;
    if (e->flags & IMG_ENTRY_REDIRECT)
        id = redirected(m, e, parent);
    else if (parent)
        id = img_tree_lookup(m->tree, parent, m->index->pool + e->name, e->name_len);
    const img_node *node = id ? img_node_at(m->tree, id) : NULL;
    data *copies = with_room(m->copies, m->n_copies, &m->copies_size, sizeof *copies);
    if (!copies)
        return fail(m, e, ENOMEM, "out of memory");
    m->copies = copies;
    data *copy = &m->copies[m->n_copies++];
    *copy = (data){.layer = IMG_LAYER_UPPER, .size = e->size};
    if (!node || !S_ISREG(node->mode))
        return 0;
    *copy = (data){.size = node->size,
                   .blocks = node->blocks,
                   .n_extents = node->n_extents,
                   .layer = node->layer,
                   .flags = node->flags & (IMG_NODE_SPARSE | IMG_NODE_BLOCKS)};
    if (node->flags & IMG_NODE_SPARSE)
        copy->extents = node->u.extents;
    else
        copy->archive_data = node->u.archive_data;
    return 0;
}

static int find_names(merge *m, uint32_t i) {
    const img_entry *e = &m->index->entries[i];
    const char *path = m->index->pool + e->first_extent;
    img_id id;
    if (img_tree_resolve(m->tree, path, e->n_extents, false, &id) < 0)
        return 0;
    const img_node *node = img_node_at(m->tree, id);
    if (node->nlink < 2 || (node->mode & S_IFMT) != (e->mode & S_IFMT))
        return 0;
    names_left *left = with_room(m->left, m->n_left, &m->left_size, sizeof *left);
    if (!left)
        return fail(m, e, ENOMEM, "out of memory");
    m->left = left;
    m->left[m->n_left++] = (names_left){i, id};
    img_tree_remember(m->tree, id, 1);
    return 0;
}

/* Looks up all nodes of the layers below, before the first change of the tree. */
static int find_all(merge *m) {
    m->below[0] = m->index->entries[0].flags & IMG_ENTRY_OPAQUE ? 0 : IMG_ROOT;
    for (uint32_t i = 1; i < m->index->head.n_entries; i++) {
        const img_entry *e = &m->index->entries[i];
        img_id parent = m->below[e->archive_header];
        if (img_interrupted(1, m->err) < 0)
            return -1;
        if (e->kind == IMG_DIR)
            find_directory(m, i, parent);
        else if (e->flags & IMG_ENTRY_METACOPY && find_contents(m, e, parent) < 0)
            return -1;
        if (e->flags & IMG_ENTRY_ORIGIN && find_names(m, i) < 0)
            return -1;
    }
    return 0;
}

/* Moves the directories that redirects name into the root, under names with a NUL, which no path
 * can have.  If two redirects name one directory, the second one gets none. */
static int park_redirected(merge *m) {
    for (uint32_t i = 1; i < m->index->head.n_entries; i++) {
        const img_entry *e = &m->index->entries[i];
        img_id id = m->below[i];
        if (e->kind != IMG_DIR || !(e->flags & IMG_ENTRY_REDIRECT) || !id)
            continue;
        uint32_t d = img_node_at(m->tree, id)->names;
        char name[16];
        int n = snprintf(name, sizeof name, "%c%u", '\0', id);
        if (img_dentry_at(m->tree, d)->name[0] == '\0')
            m->below[i] = 0;
        else if (img_tree_move(m->tree, d, IMG_ROOT, name, (size_t)n, false) < 0)
            return fail(m, e, ENOMEM, "out of memory");
    }
    return 0;
}

/* ---- applying the entries ----------------------------------------------------------------- */

static void drop(merge *m, img_id parent, const img_entry *e) {
    uint32_t d = img_tree_dentry(m->tree, parent, m->index->pool + e->name, e->name_len);
    if (d)
        img_tree_drop_subtree(m->tree, d, false);
}

static void set_directory(merge *m, img_id id, const img_entry *e) {
    img_attributes a = img_entry_attributes(e);
    img_set_directory(m->tree, img_node_at(m->tree, id), &a, m->layer, m->index->pool + e->xattrs,
                      img_entry_xattr_bytes(m->index, e));
}

static int put_new(merge *m, uint32_t i, img_id parent) {
    const img_entry *e = &m->index->entries[i];
    img_id id = e->kind == IMG_HARDLINK ? m->here[e->archive_data]
                                        : img_entry_new_node(m->tree, m->index, e, m->layer);
    if (!id)
        return fail(m, e, ENOMEM, "out of memory");
    int result = img_tree_add_name(m->tree, parent, m->index->pool + e->name, e->name_len, id, 0);
    if (result < 0) {
        (void)img_tree_release(m->tree, id);
        return fail(m, e, -result, result == -EMLINK ? "too many links" : "out of memory");
    }
    m->here[i] = id;
    return 0;
}

static int put_directory(merge *m, uint32_t i, img_id parent) {
    const img_entry *e = &m->index->entries[i];
    const char *name = m->index->pool + e->name;
    img_id below = m->below[i], there = img_tree_lookup(m->tree, parent, name, e->name_len);
    if (e->flags & IMG_ENTRY_REDIRECT && below) {
        drop(m, parent, e);
        uint32_t d = img_node_at(m->tree, below)->names;
        if (img_tree_move(m->tree, d, parent, name, e->name_len, false) < 0)
            return fail(m, e, ENOMEM, "out of memory");
    } else if (!below || below != there) {
        if (there)
            drop(m, parent, e);
        return put_new(m, i, parent);
    }
    m->here[i] = below;
    set_directory(m, below, e);
    return 0;
}

static void set_contents(merge *m, img_id id, const data *copy) {
    img_node *node = img_node_at(m->tree, id);
    node->layer = copy->layer;
    if (node->size > copy->size)
        node->size = copy->size; /* not more than the contents that can be read */
    node->n_extents = copy->n_extents;
    node->flags = (uint16_t)((node->flags & ~(IMG_NODE_SPARSE | IMG_NODE_BLOCKS)) | copy->flags);
    node->blocks = copy->blocks;
    if (copy->flags & IMG_NODE_SPARSE)
        node->u.extents = copy->extents;
    else
        node->u.archive_data = copy->archive_data;
}

/* Applies the whiteouts of a directory, whose entries begin at i.  They are applied before its
 * other entries, because they hide names of the layers below and never a name of this layer. */
static void put_whiteouts(merge *m, uint64_t i, img_id parent) {
    const img_entry *entries = m->index->entries;
    uint64_t dir = entries[i].archive_header;
    for (; i < m->index->head.n_entries && entries[i].archive_header == dir; i++)
        if (entries[i].kind == IMG_WHITEOUT)
            drop(m, parent, &entries[i]);
}

static int put_entry(merge *m, uint32_t i, size_t *copies) {
    const img_entry *e = &m->index->entries[i];
    img_id parent = m->here[e->archive_header];
    if (i == 1 || e[-1].archive_header != e->archive_header)
        put_whiteouts(m, i, parent);
    if (e->kind == IMG_WHITEOUT)
        return 0;
    if (e->kind == IMG_DIR)
        return put_directory(m, i, parent);
    drop(m, parent, e);
    if (put_new(m, i, parent) < 0)
        return -1;
    if (e->flags & IMG_ENTRY_METACOPY)
        set_contents(m, m->here[i], &m->copies[(*copies)++]);
    return 0;
}

/* Removes the names in the root, except the parked ones. */
static void empty_root(merge *m) {
    const img_dir *dir = img_node_at(m->tree, IMG_ROOT)->u.dir;
    for (uint32_t i = dir ? dir->used : 0; i-- > 0;) {
        uint32_t d = i < dir->used ? dir->slots[i].dentry : 0;
        if (d && img_dentry_at(m->tree, d)->name[0] != '\0')
            img_tree_drop_subtree(m->tree, d, false);
    }
}

static int put_all(merge *m) {
    size_t copies = 0;
    const img_entry *root = &m->index->entries[0];
    m->here[0] = IMG_ROOT;
    if (root->flags & IMG_ENTRY_OPAQUE)
        empty_root(m);
    set_directory(m, IMG_ROOT, root);
    for (uint32_t i = 1; i < m->index->head.n_entries; i++)
        if (img_interrupted(1, m->err) < 0 || put_entry(m, i, &copies) < 0)
            return -1;
    return 0;
}

static int move_names(merge *m, const names_left *left) {
    char name[IMG_NAME_MAX];
    for (uint32_t d; (d = img_node_at(m->tree, left->below)->names);) {
        const img_dentry *dentry = img_dentry_at(m->tree, d);
        img_id parent = dentry->parent;
        size_t len = dentry->name_len;
        memcpy(name, dentry->name, len);
        img_tree_drop_name(m->tree, d, false);
        if (img_tree_add_name(m->tree, parent, name, len, m->here[left->entry], 0) < 0)
            return fail(m, &m->index->entries[left->entry], ENOMEM, "out of memory");
    }
    return 0;
}

/* Moves the names of all names_left.  After an error, it only releases the nodes. */
static int move_all_names(merge *m, int result) {
    for (size_t i = 0; i < m->n_left; i++) {
        if (result == 0)
            result = move_names(m, &m->left[i]);
        img_node_at(m->tree, m->left[i].below)->lookups--; /* not atomic: no other thread uses it */
        (void)img_tree_release(m->tree, m->left[i].below);
    }
    return result;
}

/* ---- the layer ---------------------------------------------------------------------------- */

/* The number of descriptors to keep: a quarter of the process's limit, from which the descriptors
 * of the layers' roots are subtracted first. */
static uint32_t kept_files(uint32_t n_layers) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur / 4 > MOST_FILES + n_layers)
        return MOST_FILES;
    uint32_t soft = (uint32_t)limit.rlim_cur;
    uint32_t quarter = soft > n_layers ? (soft - n_layers) / 4 : 0;
    return quarter < FEWEST_FILES ? FEWEST_FILES : quarter;
}

static int add_slot(merge *m, int fd) {
    img_tree *tree = m->tree;
    m->err->offset = 0;
    m->err->member[0] = '\0';
    if (img_tree_count_members(tree, m->index, m->err) < 0)
        return -1;
    if (m->index->n_files > UINT32_MAX - tree->n_files)
        return fail(m, NULL, E2BIG, "too many files in all layers");
    img_layer *grown = realloc(tree->layers, (tree->n_layers + 1) * sizeof *grown);
    if (!grown)
        return fail(m, NULL, ENOMEM, "out of memory");
    tree->layers = grown;
    m->layer = (uint16_t)tree->n_layers;
    grown[tree->n_layers++] = (img_layer){m->index, fd, 0, NULL, tree->n_files};
    tree->n_files += m->index->n_files;
    img_fds_free(tree->files); /* it is empty; the limit depends on the number of layers */
    tree->files = img_fds_new(kept_files(tree->n_layers));
    return tree->files ? 0 : fail(m, NULL, ENOMEM, "out of memory");
}

int img_tree_add_directory(img_tree *tree, const img_index *index, int fd, img_error *err) {
    merge m = {.tree = tree, .index = index, .err = err};
    size_t n = (size_t)index->head.n_entries;
    int result = add_slot(&m, fd);
    m.below = calloc(n, sizeof *m.below);
    m.here = calloc(n, sizeof *m.here);
    if (result == 0 && (!m.below || !m.here))
        result = fail(&m, NULL, ENOMEM, "out of memory");
    if (result == 0)
        result = find_all(&m);
    if (result == 0)
        result = park_redirected(&m);
    if (result == 0)
        result = put_all(&m);
    result = move_all_names(&m, result);
    free(m.below);
    free(m.here);
    free(m.copies);
    free(m.left);
    return result;
}
