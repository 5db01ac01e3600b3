/* tree.h: the merged file tree in memory: nodes (inodes), dentries (names), directories.
 *
 * Law: shape and attributes live here and nowhere else; this file knows neither tar nor FUSE.
 *
 * Identity.  A nodeid is a slot number: stable while the node lives, 1 is the root, 0 is "none".
 * A node is freed, and its slot may serve again, when it has no name and no lookup count: what is
 * kept longer than that (a file handle) names a node by nodeid and generation.  The generation of
 * what the layers gave is the tree's, which may be the same whenever the same layers are stacked in
 * the same way; a node made after the seal gets the next one of a count that starts anywhere, so no
 * slot has one twice, nor after a remount, but by a chance of 1 to 2^32.
 * st_ino is the nodeid of what a layer gave, which the same layers give again at the next mount;
 * of what only the upper has it is the upper object's own number beyond 2^32 (IMG_INO_UPPER).
 *
 * Names.  A dentry is one name in one directory.  Flag IMG_NAME_LOWER belongs to the place, not to
 * the node: the layers below the upper have that name there, so taking it away must leave a mark
 * (or the upper has a mark there that hides nothing of these layers, and is to keep it).
 * A dentry with node 0 is that mark (a whiteout): lookups and listings pass over it.
 *
 * Directories list their dentries by cookie, ascending and never given twice in a directory's life
 * (until 2^32 names have been made in it), so a listing may go on after any change.  Only a name
 * that comes back may get the cookie it had: img_place.
 *
 * Memory: names, link targets and xattrs of layer entries point into the img_index they came from,
 * which must outlive the tree; what is made later is malloc'ed and owned by the tree.
 *
 * Threads: every function says "R" (caller holds at least the read lock) or "W" (the write lock).
 * Nothing here does I/O, so holding the lock is always short; the one call back is tree->freed.
 * Errors: negative errno values.
 */
#ifndef IMG_TREE_H
#define IMG_TREE_H

#include "index/index.h"
#include "tree/chunks.h"
#include "tree/dirslots.h"
#include "tree/idmap.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint32_t img_id;

#define IMG_ROOT 1u
#define IMG_LAYER_UPPER 0xffffu /* node.layer of what no layer gave */
#define IMG_LAYERS_MAX 0xfff0u
#define IMG_MERGED_MAX (1u << 25) /* members of all layers: an image may name one layer often */

enum {
    IMG_NODE_USED = 1,
    IMG_NODE_UPPER = 2,     /* its object exists in the upper directory */
    IMG_NODE_IMPLIED = 4,   /* a directory no entry gave: only a path went through it */
    IMG_NODE_SPARSE = 8,    /* u.extents, else u.archive_data */
    IMG_NODE_OWN_BODY = 16, /* u.target is malloc'ed */
    IMG_NODE_OWN_XATTRS = 32,
    IMG_NODE_HOLDS = 128, /* merge.c: a directory with a member of the layer somewhere below it */
    IMG_NODE_META = 64,   /* with IMG_NODE_UPPER: attributes alone; a file's data are the layer's */
    IMG_NODE_BLOCKS = 1024 /* a layer's file: blocks holds what a directory layer's stat says, or
                              what a sparse file's extents take */
};

/* Added to the inode number of an upper object: beyond all nodeids. */
#define IMG_INO_UPPER (UINT64_C(1) << 32)

enum { IMG_NAME_LOWER = 1, IMG_NAME_OWNED = 2 };

/* xattrs: packed records u16 name_len | u32 value_len | name | value, as in index.h */
typedef struct img_node {
    uint64_t size;
    uint64_t lookups; /* atomic: how often the kernel was told of it; img_tree_remember */
    uint64_t ino;     /* st_ino; 0: the nodeid */
    uint64_t object;  /* with IMG_NODE_UPPER: st_ino of that object; 0: not known */
    union {
        uint64_t rdev;   /* devices */
        uint64_t blocks; /* regular files with data in the upper, and IMG_NODE_BLOCKS: 512-byte
                            units */
    };
    int64_t mtime_s, atime_s, ctime_s;
    uint32_t mtime_ns, atime_ns, ctime_ns;
    uint32_t mode, uid, gid;
    uint32_t nlink; /* files: visible names; directories: 2 + subdirectories */
    uint32_t names; /* first dentry; further ones by link_next */
    uint32_t xattr_bytes;
    uint32_t n_extents;
    uint16_t layer; /* index of the layer it came from, or IMG_LAYER_UPPER */
    uint16_t flags;
    uint32_t pages;      /* atomic: whether the kernel may hold its pages; fast/push.c */
    uint32_t generation; /* 0: the tree's; img_node_generation */
    const char *xattrs;
    union {
        img_dir *dir;              /* directory; NULL while it has no names */
        const char *target;        /* symlink, size bytes, no NUL */
        uint64_t archive_data;     /* file of a layer: as img_entry has it */
        const img_extent *extents; /* sparse file of a layer */
    } u;
} img_node;

typedef struct img_dentry {
    const char *name;
    img_id parent, node;
    uint32_t hash_next, link_next, link_prev; /* link_prev 0: the node's first name */
    uint32_t cookie, hash;
    uint16_t name_len;
    uint16_t flags;
} img_dentry;

typedef struct img_layer {
    const img_index *index;
    int fd;        /* borrowed: the archive, or the directory */
    uint64_t base; /* where the uncompressed tar starts in fd */
    uint32_t
        first_file; /* of a directory: img_file_record.number plus this is unique in the tree */
} img_layer;

typedef struct img_tree {
    pthread_rwlock_t lock;
    img_chunks nodes, dentries;
    uint32_t *buckets;
    uint32_t n_buckets, n_dentries; /* a power of two; hashed dentries */
    uint32_t n_nodes;
    uint64_t seed;            /* hostile names must not choose their bucket */
    uint32_t generation;      /* of what the layers gave; random unless somebody knows the layers */
    uint32_t last_generation; /* of the last node made after the seal */
    bool sealed;
    uint64_t heap_bytes; /* malloc'ed beside the chunks and buckets */
    img_layer *layers;
    uint32_t n_layers;
    uint32_t n_files;      /* of all directory layers */
    uint64_t n_merged;     /* members of all layers */
    uint64_t walk_steps;   /* mergewalk.h: that finding their directories took */
    uint64_t n_implied;    /* directories that were made for them */
    struct img_fds *files; /* their descriptors, by that unique number; NULL: no such layer */
    /* Told, under W, of each node with IMG_NODE_UPPER that is freed: its slot may serve again. It
     * may take no lock that is held over calls of this file. NULL: nobody asks. */
    void (*freed)(void *watcher, img_id id);
    void *watcher;
    bool static_nlink;    /* directories show one link, as fuse-overlayfs' option has it */
    img_owner_map owners; /* how the ids of nodes, which are stored ones, are shown */
    img_gone_name gone_names[IMG_GONE_NAMES]; /* by hash; the last to go counts */
} img_tree;

typedef struct img_attributes {
    uint64_t size, rdev;
    int64_t mtime_s, atime_s, ctime_s;
    uint32_t mtime_ns, atime_ns, ctime_ns;
    uint32_t mode, uid, gid;
} img_attributes;

img_tree *img_tree_new(void); /* a root directory 0755 root:root, times 0 */
void img_tree_free(img_tree *tree);
uint64_t img_tree_bytes(const img_tree *tree); /* R: all memory, names in the indexes apart */

static inline img_node *img_node_at(const img_tree *tree, img_id id) {
    return img_chunks_at(&tree->nodes, id, sizeof(img_node));
}
static inline img_dentry *img_dentry_at(const img_tree *tree, uint32_t d) {
    return img_chunks_at(&tree->dentries, d, sizeof(img_dentry));
}

/* R. NULL when no such node lives. */
img_node *img_tree_node(const img_tree *tree, uint64_t id);

/* R. st_ino and d_ino of a node. */
static inline uint64_t img_node_ino(const img_node *node, img_id id) {
    return node->ino ? node->ino : id;
}

/* R. What tells a node from those that had its nodeid before, and will have it. */
static inline uint32_t img_node_generation(const img_tree *tree, const img_node *node) {
    return node->generation ? node->generation : tree->generation;
}

/* R. Whether a file's bytes stand in the upper; else they are a layer's, or there are none. */
static inline bool img_node_data_is_up(const img_node *node) {
    return (node->flags & (IMG_NODE_UPPER | IMG_NODE_META)) == IMG_NODE_UPPER;
}
bool img_is_dir(const img_node *node);

/* The links to show: none of a directory that was removed but is open. */
static inline uint32_t img_node_links(const img_tree *tree, img_id id, const img_node *node) {
    if (!node->names && id != IMG_ROOT)
        return 0;
    return tree->static_nlink && img_is_dir(node) ? 1 : node->nlink;
}

/* R. The dentry of that name, whiteouts included; 0 when there is none. */
uint32_t img_tree_dentry(const img_tree *tree, img_id parent, const char *name, size_t len);
/* R. The node of that name; 0 when there is none. */
img_id img_tree_lookup(const img_tree *tree, img_id parent, const char *name, size_t len);
/* R. The kernel is told of the node once more (count times): it lives until that is taken back. */
static inline void img_tree_remember(const img_tree *tree, img_id id, uint64_t count) {
    __atomic_fetch_add(&img_node_at(tree, id)->lookups, count, __ATOMIC_RELAXED);
}
/* R. The directory a directory stands in; the root's is the root. */
img_id img_tree_parent(const img_tree *tree, img_id dir);
/* R. Walks a root-relative path; symlinks resolve inside the root, the last one only if asked.
 * -ENOENT, -ENOTDIR, -ELOOP (more than 40 links), -ENAMETOOLONG. */
int img_tree_resolve(const img_tree *tree, const char *path, size_t len, bool follow, img_id *out);

/* W. A new node without names; 0 when memory is short. Directories start with nlink 2. */
img_id img_tree_new_node(img_tree *tree, const img_attributes *attributes, uint16_t layer);
/* W. Gives node a (further) name, in place of a whiteout if one is there. -EEXIST, -ENOMEM,
 * -EMLINK.  A name inside a layer's index is kept as a pointer, any other is copied. */
int img_tree_add_name(img_tree *tree, img_id parent, const char *name, size_t len, img_id node,
                      uint16_t flags);
/* W. Takes the name away and lowers nlink; frees the node if that was its last hold. With mark, a
 * name that layers have below stays as a whiteout. */
void img_tree_drop_name(img_tree *tree, uint32_t dentry, bool mark);
/* W. Drops the name and everything below it. */
void img_tree_drop_subtree(img_tree *tree, uint32_t dentry, bool mark);
/* W. Drops all names in a directory, whiteouts included. */
void img_tree_drop_children(img_tree *tree, img_id dir);
/* W. Moves a dentry's node to another place: the target's old node must be gone already. -ENOMEM */
int img_tree_move(img_tree *tree, uint32_t dentry, img_id parent, const char *name, size_t len,
                  bool mark);
/* W. Exchanges the nodes of two names. */
void img_tree_exchange(img_tree *tree, uint32_t a, uint32_t b);
/* W. Frees the node if it has neither names nor lookups. True when it did. */
bool img_tree_release(img_tree *tree, img_id id);

/* W. Before a layer is put on: counts its members. E2BIG beyond a limit of layers or members. */
int img_tree_count_members(img_tree *tree, const img_index *index, img_error *err);

/* W. Gives a symlink its target, copied. -ENOMEM */
int img_tree_set_target(img_tree *tree, img_node *node, const char *target, size_t len);

/* W. A file of the upper that is attributes alone (IMG_NODE_META) has the data of another node,
 * which a layer gave or which has them from a layer. */
void img_tree_share_data(img_tree *tree, img_id node, img_id source);

/* W. A directory that was merged with the layers' is the upper's alone from here on: its object is
 * opaque, and holds all that it shows. */
void img_tree_set_opaque(img_tree *tree, img_id dir);

/* W. Says that all names now standing are the layers' (IMG_NAME_LOWER): no layer comes after, and
 * each node made from here on gets a generation of its own. */
void img_tree_seal(img_tree *tree);

#endif
