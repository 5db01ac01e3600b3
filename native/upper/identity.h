/* identity.h: what tells an object of the upper from all others, also from later ones.
 *
 * Law: a file system gives the inode number of a removed file to the next file, which may be
 * another user's.  So beside type and inode number the time of birth counts (statx(2),
 * STATX_BTIME), which no user can set.  Where the file system keeps no time of birth, it is 0 and
 * does not count.
 */
#ifndef IMG_IDENTITY_H
#define IMG_IDENTITY_H

#include <stdint.h>

typedef struct img_identity {
    uint32_t mode;
    uint32_t born;   /* a hash of the time of birth; 0: not known */
    uint64_t object; /* st_ino; 0: not known */
} img_identity;

/* Fills *out for a name in the directory fd, which is not followed, or for fd itself (name ""). 0,
 * or a negative errno. */
int img_identity_of(int fd, const char *name, img_identity *out);

#endif
