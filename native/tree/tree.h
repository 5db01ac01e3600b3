/* tree.h: the merged file tree in memory: nodes (inodes), dentries (names), directories.
 *
 * Law: only the tree has the shape and the attributes of what is mounted.  It depends neither on
 * tar nor on FUSE.
 *
 * Identity.  A nodeid is the number of a slot: it stays while the node lives; 1 is the root, 0 is
 * "none".  A node without names and lookup count is freed, and its slot may be used again.  A file
 * handle may live longer, so it names a node by nodeid and generation.
 *
 * Generations.  A node from a layer has the tree's generation, which is the same whenever the
 * daemon stacks the same layers in the same way.  A node that is made after the seal gets the next
 * number of a count, which starts at a random number at each mount.  So within one mount no two
 * nodes of a slot have the same generation.  A node of another mount has the same generation with a
 * probability of 1 in 2^32.
 *
 * Inode numbers.  st_ino of a node from a layer is its nodeid, which is the same at the next mount
 * of these layers.  st_ino of a node that only the upper has is the inode number of the upper
 * object plus IMG_INO_UPPER.
 *
 * Names.  A dentry is one name in one directory.  The flag IMG_NAME_LOWER belongs to the name, not
 * to the node.  It means that the layers have this name in this directory, so that removing it must
 * leave a whiteout.  (It is also set if the upper has a needless whiteout there, which it keeps.)
 * A dentry with node 0 is a whiteout: lookups and listings skip it.
 *
 * Directories list their dentries by cookie (dirslots.h), so a listing can go on after any change.
 *
 * Memory: names, link targets and xattrs of a layer's entries point into the layer's img_index,
 * which must outlive the tree.  Names, targets and xattrs that are set later are
 * malloc'ed and owned by the tree.  Any user who may write to a mount can have the tree keep them,
 * so changes ask img_tree_has_room first.
 *
 * Threads: the comment of each function has "R" (the caller holds at least the read lock) or "W"
 * (the write lock).  No function does I/O, so the lock is always held for a short time; the only
 * callback is tree->freed.
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
#define IMG_LAYER_UPPER 0xffffu /* node.layer of a node that is not from a layer */
#define IMG_LAYERS_MAX 0xfff0u
#define IMG_MERGED_MAX (1u << 25) /* members of all layers, some of which may be the same layer */

/* What changes may make the tree keep.  The targets and xattrs that it owns ("values") have
 * IMG_VALUES_FIRST bytes and IMG_VALUES_EACH more for each node, but IMG_VALUES_MAX at most: 10
 * million files may have 400 bytes each, and one user cannot fill the memory with few large ones.
 * A name has at most 255 bytes, so the names are limited by number. */
#define IMG_VALUES_FIRST (UINT64_C(32) << 20)
#define IMG_VALUES_EACH UINT64_C(1024) /* an ACL, a label and an IMA signature of 512 bytes */
#define IMG_VALUES_MAX (UINT64_C(4) << 30)
#define IMG_NODES_MAX (1u << 26)
#define IMG_NAMES_MAX (1u << 26)

enum {
    IMG_NODE_USED = 1,
    IMG_NODE_UPPER = 2,     /* it has an object in the upper directory */
    IMG_NODE_IMPLIED = 4,   /* a directory without a member of its own: it is only in paths */
    IMG_NODE_SPARSE = 8,    /* the file has u.extents, else u.archive_data */
    IMG_NODE_OWN_BODY = 16, /* u.target is malloc'ed */
    IMG_NODE_OWN_XATTRS = 32,
    IMG_NODE_META = 64,        /* with IMG_NODE_UPPER: metacopy, a file's data are in a layer */
    IMG_NODE_HAS_MEMBER = 128, /* merge.c: the layer has a member in this directory, or below */
    IMG_NODE_BLOCKS = 1024     /* a file of a layer whose `blocks` is set: in a directory layer it
                                  is st_blocks of the file on the host, else the blocks that the
                                  extents of a sparse file take */
};

/* Added to the inode number of an upper object, so that st_ino is beyond all nodeids. */
#define IMG_INO_UPPER (UINT64_C(1) << 32)

enum { IMG_NAME_LOWER = 1, IMG_NAME_OWNED = 2 };

/* xattrs: packed records u16 name_len | u32 value_len | name | value, as in index.h */
typedef struct img_node {
    uint64_t size;
    uint64_t lookups; /* atomic: the kernel's lookup count; img_tree_remember */
    uint64_t ino;     /* st_ino; 0: the nodeid */
    uint64_t object;  /* with IMG_NODE_UPPER: st_ino of the upper object; 0: not known */
    union {
        uint64_t rdev;   /* devices */
        uint64_t blocks; /* files with data in the upper, and IMG_NODE_BLOCKS: 512-byte units */
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
    uint32_t pages;      /* atomic: whether the kernel may have pages of it (fast/push.c) */
    uint32_t generation; /* 0: the tree's; img_node_generation */
    uint32_t born; /* with `object`: a hash of its time of birth (upper/identity.h); 0: not known */
    const char *xattrs;
    union {
        img_dir *dir;              /* directory; NULL while it has no names */
        const char *target;        /* symlink, size bytes, no NUL */
        uint64_t archive_data;     /* file of a layer: img_entry.archive_data */
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
    int fd;              /* borrowed: the archive, or the directory */
    uint64_t base;       /* where the uncompressed tar starts in fd */
    uint32_t first_file; /* directory: this plus a number of its index (index.h) is unique */
} img_layer;

typedef struct img_tree {
    pthread_rwlock_t lock;
    img_chunks nodes, dentries;
    uint32_t *buckets;
    uint32_t n_buckets, n_dentries; /* a power of two; hashed dentries */
    uint32_t n_nodes;
    uint64_t seed;            /* secret, so that an attacker cannot choose a name's bucket */
    uint32_t generation;      /* of nodes from layers; random unless it is set */
    uint32_t last_generation; /* of the last node made after the seal */
    bool sealed;
    uint64_t heap_bytes;  /* malloc'ed beside the chunks and buckets */
    uint64_t value_bytes; /* of these, the bytes of targets and xattrs */
    img_layer *layers;
    uint32_t n_layers;
    uint32_t n_files;    /* index->n_files of all directory layers */
    uint64_t n_merged;   /* members of all layers */
    uint64_t walk_steps; /* mergewalk.h: steps taken to find the members' directories */
    uint64_t n_implied;  /* mergewalk.h: directories made that have no member of their own */
    /* Descriptors of directory layers' files (see img_layer.first_file); NULL: no such layer. */
    struct img_fds *files;
    /* Called under W for each node with IMG_NODE_UPPER that is freed, because its slot may be used
     * again.  It must take no lock that a caller of this module may hold.  NULL: not called. */
    void (*freed)(void *watcher, img_id id);
    void *watcher;
    bool static_nlink;    /* directories show one link (option static_nlink of fuse-overlayfs) */
    img_owner_map owners; /* how the stored ids of nodes are shown */
    img_gone_name gone_names[IMG_GONE_NAMES]; /* by hash; the name removed last counts */
} img_tree;

typedef struct img_attributes {
    uint64_t size, rdev;
    int64_t mtime_s, atime_s, ctime_s;
    uint32_t mtime_ns, atime_ns, ctime_ns;
    uint32_t mode, uid, gid;
} img_attributes;

img_tree *img_tree_new(void); /* a root directory 0755 root:root, times 0 */
void img_tree_free(img_tree *tree);
uint64_t img_tree_bytes(const img_tree *tree); /* R. all memory except that of the indexes */

/* R. Whether a change may add that many bytes of values, and a node and a name.  A tree that an
 * upper was laid over may have more already: an upper is never refused. */
bool img_tree_has_room(const img_tree *tree, uint64_t more);

static inline img_node *img_node_at(const img_tree *tree, img_id id) {
    return img_chunks_at(&tree->nodes, id, sizeof(img_node));
}
static inline img_dentry *img_dentry_at(const img_tree *tree, uint32_t d) {
    return img_chunks_at(&tree->dentries, d, sizeof(img_dentry));
}

/* R. NULL if there is no such node. */
img_node *img_tree_node(const img_tree *tree, uint64_t id);

/* R. st_ino and d_ino of a node. */
static inline uint64_t img_node_ino(const img_node *node, img_id id) {
    return node->ino ? node->ino : id;
}

/* R. Distinguishes the node from earlier and later nodes with the same nodeid. */
static inline uint32_t img_node_generation(const img_tree *tree, const img_node *node) {
    return node->generation ? node->generation : tree->generation;
}

/* R. True if a file's data are in the upper; else they are in a layer, or there are none. */
static inline bool img_node_data_in_upper(const img_node *node) {
    return (node->flags & (IMG_NODE_UPPER | IMG_NODE_META)) == IMG_NODE_UPPER;
}
bool img_is_dir(const img_node *node);

/* R. The number of links to show; 0 for a directory that was removed but is still open. */
static inline uint32_t img_node_links(const img_tree *tree, img_id id, const img_node *node) {
    if (!node->names && id != IMG_ROOT)
        return 0;
    return tree->static_nlink && img_is_dir(node) ? 1 : node->nlink;
}

/* R. The dentry of that name, also if it is a whiteout; 0: none. */
uint32_t img_tree_dentry(const img_tree *tree, img_id parent, const char *name, size_t len);
/* R. The node of that name; 0: none. */
img_id img_tree_lookup(const img_tree *tree, img_id parent, const char *name, size_t len);
/* R. Raises the lookup count, because the kernel gets the node `count` times more.  The node lives
 * until the kernel forgets it as often. */
static inline void img_tree_remember(const img_tree *tree, img_id id, uint64_t count) {
    __atomic_fetch_add(&img_node_at(tree, id)->lookups, count, __ATOMIC_RELAXED);
}
/* R. The parent of a directory; the root's is the root. */
img_id img_tree_parent(const img_tree *tree, img_id dir);
/* R. Finds the node of a path from the root; symlinks are resolved inside the root.  follow: the
 * last name is resolved too if it is a symlink.  -ENOENT, -ENOTDIR, -ELOOP (more than 40 symlinks),
 * -ENAMETOOLONG. */
int img_tree_resolve(const img_tree *tree, const char *path, size_t len, bool follow, img_id *out);

/* W. A new node without names; 0: out of memory.  A directory starts with nlink 2. */
img_id img_tree_new_node(img_tree *tree, const img_attributes *attributes, uint16_t layer);
/* W. Gives node a (further) name, which replaces a whiteout if there is one.  -EEXIST, -ENOMEM,
 * -EMLINK.  A name inside a layer's index is not copied; any other name is. */
int img_tree_add_name(img_tree *tree, img_id parent, const char *name, size_t len, img_id node,
                      uint16_t flags);
/* W. Removes the name and lowers nlink; frees the node if it has no other name and no lookup count.
 * mark: a name that the layers have becomes a whiteout. */
void img_tree_drop_name(img_tree *tree, uint32_t dentry, bool mark);
/* W. Drops the name and everything below it. */
void img_tree_drop_subtree(img_tree *tree, uint32_t dentry, bool mark);
/* W. Drops all names in a directory, whiteouts included. */
void img_tree_drop_children(img_tree *tree, img_id dir);
/* W. Moves the node of a dentry to another name, whose old node must be removed before.  -ENOMEM */
int img_tree_move(img_tree *tree, uint32_t dentry, img_id parent, const char *name, size_t len,
                  bool mark);
/* W. Exchanges the nodes of two names. */
void img_tree_exchange(img_tree *tree, uint32_t a, uint32_t b);
/* W. Frees the node if it has neither names nor lookup count.  True: it was freed. */
bool img_tree_release(img_tree *tree, img_id id);

/* W. Counts the members of a layer before it is added.  E2BIG: too many layers or members. */
int img_tree_count_members(img_tree *tree, const img_index *index, img_error *err);

/* W. Gives a symlink its target, copied. -ENOMEM */
int img_tree_set_target(img_tree *tree, img_node *node, const char *target, size_t len);

/* W. Makes a file of the upper a metacopy (IMG_NODE_META) with the data of another node, whose data
 * are in a layer. */
void img_tree_share_data(img_tree *tree, img_id node, img_id source);

/* W. Makes a directory of the upper opaque: the layers' directory does not show any more, and the
 * upper directory has all names that are left. */
void img_tree_set_opaque(img_tree *tree, img_id dir);

/* W. Ends the adding of layers: all present names become names of the layers (IMG_NAME_LOWER), and
 * each later node gets a generation of its own. */
void img_tree_seal(img_tree *tree);

#endif
