/* dirslots.h: the names of one directory, in the order in which a listing has them.
 *
 * Law: each name has a cookie, its position in the listing.  Cookies ascend, and no cookie is given
 * twice in the life of a directory (until 2^32 names were made in it).  So a listing can go on
 * after any change.  Only a name that was removed and comes back may get its old cookie:
 * img_gone_name.
 *
 * The functions that take a tree need its write lock ("W" in tree.h).
 */
#ifndef IMG_DIRSLOTS_H
#define IMG_DIRSLOTS_H

#include <stdint.h>

struct img_tree;
struct img_node;
struct img_dentry;

typedef struct img_slot {
    uint32_t cookie;
    uint32_t dentry; /* 0: the name was removed; the next compaction drops the slot */
} img_slot;

typedef struct img_dir {
    uint32_t live;        /* dentries with a node */
    uint32_t used, size;  /* slots filled, slots allocated; ascending by cookie */
    uint32_t holes;       /* slots with dentry 0 */
    uint32_t next_cookie; /* the first cookie is 3: 1 and 2 are "." and ".." */
    img_slot *slots;
} img_dir;

/* The cookie of a name that was removed.  A program may rename each entry away and back while it
 * reads the directory: a name that comes back soon gets its old cookie, behind the reader, so that
 * the listing ends. */
typedef struct img_gone_name {
    uint32_t parent; /* nodeid of the directory; 0: none */
    uint32_t hash, cookie;
} img_gone_name;

#define IMG_GONE_NAMES 256u

/* The position of the first slot with a higher cookie; a listing goes from there to dir->used. */
uint32_t img_dir_seek(const img_dir *dir, uint32_t cookie);

/* Makes sure that img_dir_insert has a slot in the directory node.  -ENOMEM */
int img_dir_reserve(struct img_tree *tree, struct img_node *node);
/* Gives the dentry d a slot and a cookie. */
void img_dir_insert(struct img_tree *tree, img_dir *dir, uint32_t d);
/* Takes the dentry out of its slot, and remembers its cookie. */
void img_dir_remove(struct img_tree *tree, img_dir *dir, const struct img_dentry *dentry);

/* The memory that the directory takes. */
uint64_t img_dir_bytes(const img_dir *dir);
void img_dir_free(img_dir *dir);

#endif
