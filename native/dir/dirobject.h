/* dirobject.h: the attributes of one object of a directory layer, from its stat and its marks.
 *
 * Law: one object, no tree.  An entry gets the attributes of stat(2), unless a mark (dirmarks.h)
 * has others.
 */
#ifndef IMG_DIROBJECT_H
#define IMG_DIROBJECT_H

#include "dir/dirmarks.h"
#include "index/index.h"

#include <stdbool.h>

struct statx;

/* statx(2) of name in the directory fd, or of fd itself if name is "".  Symlinks are not followed.
 * 0, or a negative errno. */
int img_object_look(int fd, const char *name, struct statx *st);

/* True if the object is a whiteout: a character device 0:0, or an empty file with the xattr. */
bool img_object_is_whiteout(const img_dirmarks *marks, const struct statx *st);

/* Sets mode, kind, owner, device number and times of the entry. */
void img_object_attributes(const img_dirmarks *marks, const struct statx *st, img_entry *entry);

#endif
