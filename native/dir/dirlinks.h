/* dirlinks.h: finds the names of one object in a directory layer: its hard links.
 *
 * Law: a table from an object (device and inode) to the entry of its first name.  Ownership: a
 * zeroed struct is an empty table; img_dirlinks_free frees it.
 */
#ifndef IMG_DIRLINKS_H
#define IMG_DIRLINKS_H

#include <stddef.h>
#include <stdint.h>

struct statx;

typedef struct img_dirlink {
    uint64_t ino;
    uint32_t major, minor;
    uint32_t entry; /* 0: a free slot, because entry 0 is the root, which has one name */
} img_dirlink;

typedef struct img_dirlinks {
    img_dirlink *slots; /* open addressing, a power of two, at most half full */
    size_t n, size;
} img_dirlinks;

/* Sets *first to the entry of the object's first name.  If this name is the first, its entry is
 * kept for the object and *first is 0.  -1: out of memory. */
int img_dirlinks_entry(img_dirlinks *links, const struct statx *st, uint32_t entry,
                       uint32_t *first);

void img_dirlinks_free(img_dirlinks *links);

#endif
