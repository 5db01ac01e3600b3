/* dirmarks.h: what the xattrs of an object in a directory layer say, to overlayfs and to the user.
 *
 * Law: one object, no tree.  Obeyed and hidden, <P> being `trusted.overlay.` or `user.overlay.`:
 *
 *   <P>opaque = "y"       nothing of the layers below shows in this directory
 *   <P>whiteout           on an empty file: its name is a whiteout
 *   <P>redirect = PATH    where the layers below have it
 *   <P>metacopy           the contents are those that the layers below have
 *   <P>overlay.NAME       a user's own xattr <P>NAME, shown as that
 *   <P>imgmount.special   on an empty file: the device that the file stands for
 *   <P>imgmount.set_id    of what is no directory: set-id bits, octal, that its mode lacks
 *   <P>imgmount.capability    its security.capability, where it has no real one
 *   <P>imgmount.times     of a directory: its atime and mtime
 *   <P>imgmount.origin    of anything else: where the layers below have what was copied up
 *   <P>imgmount.held      of anything else: its mode, atime, mtime and capability
 *   <P>*                  overlayfs' other bookkeeping, hidden
 *   user.containers.override_stat, user.fuseoverlayfs.override_stat = "uid:gid:mode[:type]"
 *                         who owns it and what it is, with IMG_MARKS_OWNER; type is dir, file,
 *                         symlink, pipe, socket, block-MAJOR-MINOR or char-MAJOR-MINOR
 *   user.fuseoverlayfs.*  with IMG_MARKS_USER: opaque is obeyed, all are hidden
 *
 * Those of imgmount are those of fusemount/rootfs/objects.py, and mean the same: an upper may be
 * a layer of the next mount.  Which marks a layer's are, its caller says
 * (fusemount/layer/marks.py); all other xattrs are data.
 * Sources: kernel Documentation/filesystems/overlayfs.rst; containers/storage pkg/idtools;
 * fuse-overlayfs(1).
 */
#ifndef IMG_DIRMARKS_H
#define IMG_DIRMARKS_H

#include "base/error.h"
#include "index/xattrset.h"

#include <stdbool.h>
#include <stdint.h>

enum {                        /* what is obeyed */
       IMG_MARKS_TRUSTED = 1, /* `trusted.overlay.` */
       IMG_MARKS_USER = 2,    /* `user.overlay.` */
       IMG_MARKS_OWNER = 4,   /* owners that stand in `user.` */
       IMG_MARKS_NAMES = 8,   /* names `.wh.` (dirscan.h) */
};
enum {                            /* what a root says besides */
       IMG_MARKS_UPPER = 16,      /* overlayfs or we wrote it: a name `.wh.x` is a file's */
       IMG_MARKS_ROOTS_WORD = 32, /* root said of it that its marks are a user's */
};

enum { IMG_HELD_CAPABILITY_MAX = 64 };

typedef struct img_dirmarks {
    img_xattr_set xattrs; /* the user's */
    bool opaque, whiteout, metacopy;
    bool owned; /* uid, gid, mode and rdev are those to show; mode may lack a type */
    uint32_t uid, gid, mode, rdev_major, rdev_minor;
    uint32_t special; /* S_IFCHR or S_IFBLK, 0: none; with its own rdev */
    uint32_t special_major, special_minor;
    uint32_t set_id; /* of 06000 */
    bool timed;      /* atime_ns and mtime_ns are those of the directory */
    bool held;       /* held_mode, atime_ns and mtime_ns are those of the object that is none */
    uint32_t held_mode;
    int64_t atime_ns, mtime_ns;
    unsigned char capability[IMG_HELD_CAPABILITY_MAX];
    size_t capability_len; /* 0: none */
    bool capable;          /* it has a real capability */
    bool disobeyed;        /* a user's mark was data */
    char redirect[4096];
    size_t redirect_len; /* 0: none */
    char origin[4096];
    size_t origin_len; /* 0: none */
} img_dirmarks;

void img_dirmarks_free(img_dirmarks *marks);

/* Of what kinds the layer whose root is open as fd has marks on its root: IMG_MARKS_* together. */
unsigned img_dirmarks_said(int fd);

/* Reads those of name in the directory fd, never through a symlink; what was there is replaced.
 * What cannot be read (no right to, no xattrs here) is not there. E2BIG, ENOMEM, EIO. */
int img_dirmarks_read(img_dirmarks *marks, int fd, const char *name, unsigned obeyed,
                      img_error *err);

#endif
