#include "tree/tree.h"

#include "base/hash.h"
#include "base/upperfds.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#define FIRST_BUCKETS 1024u

bool img_is_dir(const img_node *node) {
    return S_ISDIR(node->mode);
}

/* ---- the tree's life ---------------------------------------------------------------------- */

/* A random number from the clock: early in a boot there is no other. */
static void chance_of_clock(const img_tree *tree, uint64_t chance[2]) {
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    chance[0] = (uint64_t)(uintptr_t)tree;
    chance[1] = ((uint64_t)now.tv_sec ^ (uint64_t)now.tv_nsec) * UINT64_C(0x9e3779b97f4a7c15);
}

img_tree *img_tree_new(void) {
    img_tree *tree = calloc(1, sizeof *tree);
    if (!tree)
        return NULL;
    pthread_rwlock_init(&tree->lock, NULL);
    uint64_t chance[2];
    if (getrandom(chance, sizeof chance, GRND_NONBLOCK) != sizeof chance)
        chance_of_clock(tree, chance);
    tree->seed = chance[0];
    tree->generation = (uint32_t)chance[1];
    tree->last_generation = (uint32_t)(chance[1] >> 32);
    tree->n_buckets = FIRST_BUCKETS;
    tree->buckets = calloc(FIRST_BUCKETS, sizeof *tree->buckets);
    img_attributes root = {.mode = S_IFDIR | 0755};
    if (!tree->buckets || img_chunks_init(&tree->nodes, sizeof(img_node)) < 0 ||
        img_chunks_init(&tree->dentries, sizeof(img_dentry)) < 0 ||
        img_tree_new_node(tree, &root, IMG_LAYER_UPPER) != IMG_ROOT) {
        img_tree_free(tree);
        return NULL;
    }
    img_node_at(tree, IMG_ROOT)->flags |= IMG_NODE_IMPLIED;
    return tree;
}

bool img_tree_has_room(const img_tree *tree, uint64_t more) {
    uint64_t limit = IMG_VALUES_FIRST + tree->n_nodes * IMG_VALUES_EACH;
    if (limit > IMG_VALUES_MAX)
        limit = IMG_VALUES_MAX;
    return (!more || tree->value_bytes + more <= limit) && tree->n_nodes < IMG_NODES_MAX &&
           tree->n_dentries < IMG_NAMES_MAX;
}

static void node_clear(img_tree *tree, img_node *node) {
    if (img_is_dir(node) && node->u.dir) {
        tree->heap_bytes -= img_dir_bytes(node->u.dir);
        img_dir_free(node->u.dir);
        node->u.dir = NULL;
    }
    if (node->flags & IMG_NODE_OWN_BODY) {
        tree->heap_bytes -= node->size;
        tree->value_bytes -= node->size;
        free((char *)(uintptr_t)node->u.target);
    }
    if (node->flags & IMG_NODE_OWN_XATTRS) {
        tree->heap_bytes -= node->xattr_bytes;
        tree->value_bytes -= node->xattr_bytes;
        free((char *)(uintptr_t)node->xattrs);
    }
}

void img_tree_free(img_tree *tree) {
    if (!tree)
        return;
    for (uint32_t i = 1; i < tree->nodes.used; i++)
        if (img_node_at(tree, i)->flags & IMG_NODE_USED)
            node_clear(tree, img_node_at(tree, i));
    for (uint32_t i = 0; i < tree->n_buckets && tree->buckets; i++)
        for (uint32_t d = tree->buckets[i]; d; d = img_dentry_at(tree, d)->hash_next)
            if (img_dentry_at(tree, d)->flags & IMG_NAME_OWNED)
                free((char *)(uintptr_t)img_dentry_at(tree, d)->name);
    img_chunks_free(&tree->nodes);
    img_chunks_free(&tree->dentries);
    free(tree->buckets);
    free(tree->layers);
    img_fds_free(tree->files);
    img_id_map_free(&tree->owners.uids);
    img_id_map_free(&tree->owners.gids);
    pthread_rwlock_destroy(&tree->lock);
    free(tree);
}

uint64_t img_tree_bytes(const img_tree *tree) {
    return img_chunks_bytes(&tree->nodes) + img_chunks_bytes(&tree->dentries) +
           (uint64_t)tree->n_buckets * sizeof *tree->buckets + tree->heap_bytes;
}

/* ---- nodes -------------------------------------------------------------------------------- */

img_node *img_tree_node(const img_tree *tree, uint64_t id) {
    if (id == 0 || id >= tree->nodes.used)
        return NULL;
    img_node *node = img_node_at(tree, (img_id)id);
    return node->flags & IMG_NODE_USED ? node : NULL;
}

img_id img_tree_new_node(img_tree *tree, const img_attributes *attributes, uint16_t layer) {
    img_id id = img_chunks_take(&tree->nodes);
    if (!id)
        return 0;
    img_node *node = img_node_at(tree, id);
    node->size = attributes->size;
    node->rdev = attributes->rdev;
    node->mtime_s = attributes->mtime_s;
    node->atime_s = attributes->atime_s;
    node->ctime_s = attributes->ctime_s;
    node->mtime_ns = attributes->mtime_ns;
    node->atime_ns = attributes->atime_ns;
    node->ctime_ns = attributes->ctime_ns;
    node->mode = attributes->mode;
    node->uid = attributes->uid;
    node->gid = attributes->gid;
    node->nlink = img_is_dir(node) ? 2 : 0;
    node->layer = layer;
    node->flags = IMG_NODE_USED;
    if (tree->sealed)
        node->generation =
            ++tree->last_generation ? tree->last_generation : ++tree->last_generation;
    tree->n_nodes++;
    return id;
}

bool img_tree_release(img_tree *tree, img_id id) {
    img_node *node = img_node_at(tree, id);
    if (node->names || node->lookups || id == IMG_ROOT)
        return false;
    if (img_is_dir(node))
        img_tree_drop_children(tree, id);
    if (tree->freed && node->flags & IMG_NODE_UPPER)
        tree->freed(tree->watcher, id);
    node_clear(tree, node);
    img_chunks_give(&tree->nodes, id);
    tree->n_nodes--;
    return true;
}

int img_tree_set_target(img_tree *tree, img_node *node, const char *target, size_t len) {
    char *copy = malloc(len ? len : 1);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, target, len);
    node->u.target = copy;
    node->size = len;
    node->flags |= IMG_NODE_OWN_BODY;
    tree->heap_bytes += len;
    tree->value_bytes += len;
    return 0;
}

int img_tree_count_members(img_tree *tree, const img_index *index, img_error *err) {
    if (tree->n_layers == IMG_LAYERS_MAX)
        return img_fail(err, E2BIG, "too many layers");
    tree->n_merged += index->head.n_entries;
    if (tree->n_merged > IMG_MERGED_MAX)
        return img_fail(err, E2BIG, "more than %u members in all layers, the limit",
                        IMG_MERGED_MAX);
    return 0;
}

void img_tree_share_data(img_tree *tree, img_id id, img_id source) {
    img_node *node = img_node_at(tree, id);
    const img_node *from = img_node_at(tree, source);
    node->layer = from->layer;
    node->flags |= IMG_NODE_META | (from->flags & (IMG_NODE_SPARSE | IMG_NODE_BLOCKS));
    node->blocks = from->blocks;
    node->u = from->u;
    node->n_extents = from->n_extents;
}

/* ---- the hash of names -------------------------------------------------------------------- */

static uint32_t hash_name(const img_tree *tree, img_id parent, const char *name, size_t len) {
    return (uint32_t)img_hash(tree->seed + parent * UINT64_C(0x9e3779b97f4a7c15), name, len);
}

static void hash_insert(img_tree *tree, uint32_t d) {
    img_dentry *dentry = img_dentry_at(tree, d);
    uint32_t *bucket = &tree->buckets[dentry->hash & (tree->n_buckets - 1)];
    dentry->hash_next = *bucket;
    *bucket = d;
}

static void hash_remove(img_tree *tree, uint32_t d) {
    img_dentry *dentry = img_dentry_at(tree, d);
    uint32_t *at = &tree->buckets[dentry->hash & (tree->n_buckets - 1)];
    while (*at != d)
        at = &img_dentry_at(tree, *at)->hash_next;
    *at = dentry->hash_next;
}

/* If there is no memory to grow, that is no error: the chains get longer. */
static void hash_grow(img_tree *tree) {
    if (tree->n_dentries < tree->n_buckets || tree->n_buckets > UINT32_MAX / 2)
        return;
    uint32_t old_size = tree->n_buckets;
    uint32_t *old = tree->buckets;
    uint32_t *grown = calloc((size_t)old_size * 2, sizeof *grown);
    if (!grown)
        return;
    tree->buckets = grown;
    tree->n_buckets = old_size * 2;
    for (uint32_t i = 0; i < old_size; i++)
        for (uint32_t d = old[i], next; d; d = next) {
            next = img_dentry_at(tree, d)->hash_next;
            hash_insert(tree, d);
        }
    free(old);
}

uint32_t img_tree_dentry(const img_tree *tree, img_id parent, const char *name, size_t len) {
    uint32_t hash = hash_name(tree, parent, name, len);
    for (uint32_t d = tree->buckets[hash & (tree->n_buckets - 1)]; d;) {
        const img_dentry *dentry = img_dentry_at(tree, d);
        if (dentry->hash == hash && dentry->parent == parent && dentry->name_len == len &&
            memcmp(dentry->name, name, len) == 0)
            return d;
        d = dentry->hash_next;
    }
    return 0;
}

img_id img_tree_lookup(const img_tree *tree, img_id parent, const char *name, size_t len) {
    uint32_t d = img_tree_dentry(tree, parent, name, len);
    return d ? img_dentry_at(tree, d)->node : 0;
}

img_id img_tree_parent(const img_tree *tree, img_id dir) {
    uint32_t d = img_node_at(tree, dir)->names;
    return d ? img_dentry_at(tree, d)->parent : IMG_ROOT;
}

/* ---- names -------------------------------------------------------------------------------- */

/* True if the name p need not be copied.  Only the layer that is being added brings names, so its
 * index is enough: a search in the indexes of all layers would cost names times layers. */
static bool inside_the_index(const img_tree *tree, const char *p) {
    if (!tree->n_layers)
        return false;
    const img_index *index = tree->layers[tree->n_layers - 1].index;
    return p >= index->pool && p < index->pool + index->head.pool_bytes;
}

static void dentry_attach(img_tree *tree, uint32_t d, img_id id) {
    img_dentry *dentry = img_dentry_at(tree, d);
    img_node *node = img_node_at(tree, id);
    img_node *parent = img_node_at(tree, dentry->parent);
    dentry->node = id;
    dentry->link_next = node->names;
    dentry->link_prev = 0;
    if (node->names)
        img_dentry_at(tree, node->names)->link_prev = d;
    node->names = d;
    parent->u.dir->live++;
    if (img_is_dir(node))
        parent->nlink++;
    else
        node->nlink++;
}

static void dentry_detach(img_tree *tree, uint32_t d) {
    img_dentry *dentry = img_dentry_at(tree, d);
    img_node *node = img_node_at(tree, dentry->node);
    img_node *parent = img_node_at(tree, dentry->parent);
    if (dentry->link_prev)
        img_dentry_at(tree, dentry->link_prev)->link_next = dentry->link_next;
    else
        node->names = dentry->link_next;
    if (dentry->link_next)
        img_dentry_at(tree, dentry->link_next)->link_prev = dentry->link_prev;
    dentry->link_next = dentry->link_prev = 0;
    dentry->node = 0;
    parent->u.dir->live--;
    if (img_is_dir(node))
        parent->nlink--;
    else
        node->nlink--;
}

static void dentry_free(img_tree *tree, uint32_t d) {
    img_dentry *dentry = img_dentry_at(tree, d);
    hash_remove(tree, d);
    tree->n_dentries--;
    img_dir_remove(tree, img_node_at(tree, dentry->parent)->u.dir, dentry);
    if (dentry->flags & IMG_NAME_OWNED) {
        tree->heap_bytes -= dentry->name_len;
        free((char *)(uintptr_t)dentry->name);
    }
    img_chunks_give(&tree->dentries, d);
}

/* A new dentry without a node; 0: out of memory. */
static uint32_t dentry_new(img_tree *tree, img_id parent, const char *name, size_t len) {
    uint32_t d = img_chunks_take(&tree->dentries);
    if (!d)
        return 0;
    img_dentry *dentry = img_dentry_at(tree, d);
    img_node *node = img_node_at(tree, parent);
    if (img_dir_reserve(tree, node) < 0)
        goto no_memory;
    dentry->name = name;
    if (!inside_the_index(tree, name)) {
        char *copy = malloc(len);
        if (!copy)
            goto no_memory;
        memcpy(copy, name, len);
        dentry->name = copy;
        dentry->flags = IMG_NAME_OWNED;
        tree->heap_bytes += len;
    }
    dentry->parent = parent;
    dentry->name_len = (uint16_t)len;
    dentry->hash = hash_name(tree, parent, name, len);
    img_dir_insert(tree, node->u.dir, d);
    hash_grow(tree);
    hash_insert(tree, d);
    tree->n_dentries++;
    return d;
no_memory:
    img_chunks_give(&tree->dentries, d);
    return 0;
}

/* Finds or makes a dentry of that name without a node.  -EEXIST: the name has a node. */
static int empty_dentry(img_tree *tree, img_id parent, const char *name, size_t len,
                        uint32_t *out) {
    uint32_t d = img_tree_dentry(tree, parent, name, len);
    if (d && img_dentry_at(tree, d)->node)
        return -EEXIST;
    if (!d)
        d = dentry_new(tree, parent, name, len);
    *out = d;
    return d ? 0 : -ENOMEM;
}

int img_tree_add_name(img_tree *tree, img_id parent, const char *name, size_t len, img_id node,
                      uint16_t flags) {
    uint32_t d;
    if (img_node_at(tree, node)->nlink == UINT32_MAX ||
        img_node_at(tree, parent)->nlink == UINT32_MAX)
        return -EMLINK;
    int result = empty_dentry(tree, parent, name, len, &d);
    if (result < 0)
        return result;
    img_dentry_at(tree, d)->flags |= flags;
    dentry_attach(tree, d, node);
    return 0;
}

void img_tree_drop_name(img_tree *tree, uint32_t d, bool mark) {
    img_dentry *dentry = img_dentry_at(tree, d);
    img_id node = dentry->node;
    if (node)
        dentry_detach(tree, d);
    if (!mark || !(dentry->flags & IMG_NAME_LOWER))
        dentry_free(tree, d);
    if (node)
        (void)img_tree_release(tree, node);
}

/* The last name in a directory; 0: none.  Removing the last name never moves another one. */
static uint32_t last_name(const img_tree *tree, img_id id) {
    const img_dir *dir = img_node_at(tree, id)->u.dir;
    return dir && dir->used ? dir->slots[dir->used - 1].dentry : 0;
}

/* Walks down and up along the names in the tree.  It does not recurse, because the user decides how
 * deep directories are. */
void img_tree_drop_children(img_tree *tree, img_id id) {
    for (img_id here = id;;) {
        uint32_t d = last_name(tree, here);
        if (!d && here == id)
            return;
        if (!d) { /* the directory is empty now: drop its own name next */
            d = img_node_at(tree, here)->names;
            here = img_dentry_at(tree, d)->parent;
        }
        img_id below = img_dentry_at(tree, d)->node;
        if (below && img_is_dir(img_node_at(tree, below)) && last_name(tree, below))
            here = below;
        else
            img_tree_drop_name(tree, d, false);
    }
}

void img_tree_drop_subtree(img_tree *tree, uint32_t d, bool mark) {
    img_id id = img_dentry_at(tree, d)->node;
    if (id && img_is_dir(img_node_at(tree, id)))
        img_tree_drop_children(tree, id);
    img_tree_drop_name(tree, d, mark);
}

int img_tree_move(img_tree *tree, uint32_t from, img_id parent, const char *name, size_t len,
                  bool mark) {
    uint32_t to;
    int result = empty_dentry(tree, parent, name, len, &to);
    if (result < 0)
        return result;
    img_id id = img_dentry_at(tree, from)->node;
    dentry_detach(tree, from);
    dentry_attach(tree, to, id);
    if (!mark || !(img_dentry_at(tree, from)->flags & IMG_NAME_LOWER))
        dentry_free(tree, from);
    return 0;
}

void img_tree_exchange(img_tree *tree, uint32_t a, uint32_t b) {
    img_id in_a = img_dentry_at(tree, a)->node, in_b = img_dentry_at(tree, b)->node;
    dentry_detach(tree, a);
    dentry_detach(tree, b);
    dentry_attach(tree, a, in_b);
    dentry_attach(tree, b, in_a);
}

void img_tree_set_opaque(img_tree *tree, img_id id) {
    img_node *node = img_node_at(tree, id);
    img_dir *dir = node->u.dir;
    node->layer = IMG_LAYER_UPPER;
    for (uint32_t i = dir ? dir->used : 0; i-- > 0;) {
        uint32_t d = dir->slots[i].dentry;
        if (d && img_dentry_at(tree, d)->node)
            img_dentry_at(tree, d)->flags &= (uint16_t)~IMG_NAME_LOWER;
        else if (d)
            dentry_free(tree, d);
    }
}

/* ---- paths -------------------------------------------------------------------------------- */

int img_tree_resolve(const img_tree *tree, const char *path, size_t len, bool follow, img_id *out) {
    char rest[2 * (IMG_PATH_BYTES_MAX + IMG_LINK_BYTES_MAX)];
    if (len > IMG_PATH_BYTES_MAX)
        return -ENAMETOOLONG;
    char *at = rest + sizeof rest - len; /* the rest of the path is at the buffer's end */
    memcpy(at, path, len);
    const char *end = rest + sizeof rest;
    img_id here = IMG_ROOT;
    int links = 0;
    while (at < end) {
        char *slash = memchr(at, '/', (size_t)(end - at));
        size_t n = (size_t)((slash ? slash : end) - at);
        char *name = at;
        at += n + (slash ? 1 : 0);
        if (n == 0)
            continue;
        if (!img_is_dir(img_node_at(tree, here)))
            return -ENOTDIR;
        if (n == 1 && name[0] == '.')
            continue;
        if (n == 2 && name[0] == '.' && name[1] == '.') {
            here = img_tree_parent(tree, here);
            continue;
        }
        img_id next = img_tree_lookup(tree, here, name, n);
        if (!next)
            return -ENOENT;
        const img_node *node = img_node_at(tree, next);
        if (!S_ISLNK(node->mode) || (!slash && !follow)) {
            here = next;
            continue;
        }
        if (++links > 40)
            return -ELOOP;
        size_t room = (size_t)(at - rest);
        if (node->size + 1 > room)
            return -ENAMETOOLONG;
        if (slash)
            *--at = '/';
        at -= node->size;
        memcpy(at, node->u.target, node->size);
        if (node->size && at[0] == '/')
            here = IMG_ROOT;
    }
    *out = here;
    return 0;
}

void img_tree_seal(img_tree *tree) {
    for (uint32_t b = 0; b < tree->n_buckets; b++)
        for (uint32_t d = tree->buckets[b]; d; d = img_dentry_at(tree, d)->hash_next)
            img_dentry_at(tree, d)->flags |= IMG_NAME_LOWER;
    tree->sealed = true;
}
