/* clonemount.h: opens a directory through a mount of its own, on which nothing else is mounted.
 *
 * The owner of a directory may mount a FUSE file system on it, and that file system can let every
 * access hang or fail.  A clone of the mount (open_tree(2)) does not have the mounts below it.  No
 * mount is put on the clone later either: the caller closes the clone's descriptor once it has
 * opened a file in the clone, and from then on the clone is in no namespace and no peer group.  The
 * clone lasts as long as any descriptor of a file in it is open.  rename(2) and link(2) work within
 * one clone, not between two.
 */
#ifndef IMG_CLONEMOUNT_H
#define IMG_CLONEMOUNT_H

#include <stdbool.h>

/* Returns an O_PATH descriptor of path below dir ("" is dir itself) in a mount of its own.
 * for_reading: that mount is read-only and does not update atime.  Negative errno: no privilege
 * (-EPERM), a kernel before Linux 5.2 (-ENOSYS), or a mount that may not be cloned without the
 * mounts in it (-EINVAL). */
int img_clone_mount(int dir, const char *path, bool for_reading);

#endif
