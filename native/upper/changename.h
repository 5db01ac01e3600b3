/* changename.h: removes, adds and moves names (rules: change.h). */
#ifndef IMG_CHANGENAME_H
#define IMG_CHANGENAME_H

#include "upper/change.h"
#include "upper/upperdir.h"

/* unlink(2). If the layers have the name, a whiteout is left. A file that loses its last name while
 * the kernel knows it (lookups) becomes an orphan in the same step.
 * -ENOENT, -EISDIR, -EROFS. Declined: the directory is not in the upper. */
int img_unlink(img_upper *upper, img_id parent, const char *name, size_t len);

/* rmdir(2). -ENOENT, -ENOTDIR, -ENOTEMPTY, -EROFS.
 * Declined: the layers have the name, or whiteouts are in the directory. */
int img_rmdir(img_upper *upper, img_id parent, const char *name, size_t len);

/* link(2); a file without a name (O_TMPFILE, or open and unlinked) gets one again.
 * -EEXIST, -EPERM (a directory), -ENOENT (the directory was removed), -EROFS, -ENAMETOOLONG.
 * Declined: the file or the directory is not in the upper. */
int img_link(img_upper *upper, img_id id, img_id parent, const char *name, size_t len);

/* renameat2(2) with flags 0 or RENAME_NOREPLACE; onto a hardlink of itself it does nothing.
 * -ENOENT, -EEXIST, -EISDIR, -ENOTDIR, -ENOTEMPTY, -EROFS, -ENAMETOOLONG.
 * Declined: other flags; the source or one of the directories is not in the upper; a directory that
 * merges with a layer's, that replaces a directory, or that gets a name which the layers have. */
int img_rename(img_upper *upper, img_id parent, const char *name, size_t len, img_id to,
               const char *new_name, size_t new_len, unsigned flags);

#endif
