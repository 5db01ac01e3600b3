/* clonemount.h: a directory through a mount of its own, on which nothing else is mounted.
 *
 * Whoever owns a directory may mount a FUSE file system on it, which hangs or refuses whoever comes
 * by.  A clone of the mount (open_tree(2)) has no such mounts.  It gets none later either: the
 * caller closes the clone's descriptor once something in it is open, and from then on the clone is
 * in no namespace and no peer group.  It lasts as long as a descriptor of anything in it.
 * rename(2) and link(2) work within one clone, not between two.
 */
#ifndef IMG_CLONEMOUNT_H
#define IMG_CLONEMOUNT_H

#include <stdbool.h>

/* O_PATH descriptor of what path is below dir, "" being dir itself, in a mount of its own.
 * for_reading: that mount is read-only and has no atime.  Negative errno: no privilege (-EPERM), a
 * kernel before Linux 5.2 (-ENOSYS), a mount that may not be had without what is mounted in it. */
int img_clone_mount(int dir, const char *path, bool for_reading);

#endif
