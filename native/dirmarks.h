/* dirmarks.h: what the xattrs of an object in a directory layer say, to overlayfs and to the user.
 *
 * Law: one object, no tree.  Obeyed and hidden, <P> being `trusted.overlay.` or `user.overlay.`:
 *
 *   <P>opaque = "y"       nothing of the layers below shows in this directory
 *   <P>whiteout           on an empty file: its name is a whiteout
 *   <P>redirect = PATH    where the layers below have it
 *   <P>metacopy           the contents are those that the layers below have
 *   <P>overlay.NAME       a user's own xattr <P>NAME, shown as that
 *   <P>*                  overlayfs' other bookkeeping, hidden
 *   user.containers.override_stat, user.fuseoverlayfs.override_stat = "uid:gid:mode[:type]"
 *                         who owns it and what it is, where `user.overlay.` is obeyed; type is dir,
 *                         file, symlink, pipe, socket, block-MAJOR-MINOR or char-MAJOR-MINOR
 *   user.fuseoverlayfs.*  likewise: opaque is obeyed, all are hidden
 *
 * Which <P> a layer uses its root says, where it has an xattr of one of them: a user's own
 * `user.overlay.x` in a layer that was written as `trusted.overlay.` is data.  A root that says
 * nothing leaves both obeyed.
 * Sources: kernel Documentation/filesystems/overlayfs.rst; containers/storage pkg/idtools;
 * fuse-overlayfs(1).
 */
#ifndef IMG_DIRMARKS_H
#define IMG_DIRMARKS_H

#include "error.h"
#include "xattrset.h"

#include <stdbool.h>
#include <stdint.h>

enum { IMG_MARKS_TRUSTED = 1, IMG_MARKS_USER = 2 };

typedef struct img_dirmarks {
    img_xattr_set xattrs; /* the user's */
    bool opaque, whiteout, metacopy;
    bool owned; /* uid, gid, mode and rdev are those to show; mode may lack a type */
    uint32_t uid, gid, mode, rdev_major, rdev_minor;
    char redirect[4096];
    size_t redirect_len; /* 0: none */
} img_dirmarks;

void img_dirmarks_free(img_dirmarks *marks);

/* The prefixes to obey in the layer whose root is open as fd: IMG_MARKS_* together. */
unsigned img_dirmarks_prefixes(int fd);

/* Reads those of name in the directory fd, never through a symlink; what was there is replaced.
 * What cannot be read (no right to, no xattrs here) is not there. E2BIG, ENOMEM, EIO. */
int img_dirmarks_read(img_dirmarks *marks, int fd, const char *name, unsigned prefixes,
                      img_error *err);

#endif
