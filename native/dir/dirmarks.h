/* dirmarks.h: separates the xattrs of an object in a directory layer into marks and data.
 *
 * Law: one object, no tree.  A mark changes how the object is shown, and is hidden; an xattr that
 * is data is shown.  The caller decides which kinds of marks a layer has (`obeyed`, from
 * fusemount/layer/marks.py); all other xattrs are data.  The marks, <P> being `trusted.overlay.`
 * with IMG_MARKS_TRUSTED and `user.overlay.` with IMG_MARKS_USER:
 *
 *   <P>opaque = "y"          directory: it shows nothing of the layers below
 *   <P>whiteout              empty file: its name is a whiteout
 *   <P>redirect = PATH       the object's path in the layers below
 *   <P>metacopy              file: its contents are in the layers below
 *   <P>overlay.NAME          data: an xattr <P>NAME that the user set; shown under that name
 *   <P>imgmount.special = "block-MAJOR-MINOR" or "char-MAJOR-MINOR"
 *                            empty file: it is shown as this device
 *   <P>imgmount.set_id = "4000", "2000" or "6000"
 *                            no directory: set-id bits that the object's mode lacks
 *   <P>imgmount.capability   the object's security.capability, unless it has a real one
 *   <P>imgmount.override_stat    data: the xattr user.containers.override_stat that the user set
 *   <P>imgmount.times = "atime mtime", in ns
 *                            directory: its times
 *   <P>imgmount.origin = PATH    no directory: the path in the layers below that was copied up
 *   <P>imgmount.held = "mode atime mtime capability", mode in octal, times in ns, capability in
 *                            hexadecimal or "-"; no directory: the attributes to show
 *   <P>*                     other marks of overlayfs, hidden
 *   user.containers.override_stat, user.fuseoverlayfs.override_stat = "uid:gid:mode[:type]"
 *                            with IMG_MARKS_OWNER: the object's owner, mode and type; type is dir,
 *                            file, symlink, pipe, socket, block-MAJOR-MINOR or char-MAJOR-MINOR
 *   user.fuseoverlayfs.*     with IMG_MARKS_USER: opaque is obeyed, all are hidden
 *
 * A mark whose value breaks its format has no effect.  The marks of imgmount are those that
 * fusemount/rootfs/objects.py writes, because an upper may be a layer of the next mount.
 * Sources: kernel Documentation/filesystems/overlayfs.rst; containers/storage pkg/idtools;
 * fuse-overlayfs(1).
 */
#ifndef IMG_DIRMARKS_H
#define IMG_DIRMARKS_H

#include "base/error.h"
#include "index/xattrset.h"

#include <stdbool.h>
#include <stdint.h>

/* Kinds of marks. */
enum {
    IMG_MARKS_TRUSTED = 1, /* `trusted.overlay.` */
    IMG_MARKS_USER = 2,    /* `user.overlay.` */
    IMG_MARKS_OWNER = 4,   /* owners in `user.` xattrs */
    IMG_MARKS_NAMES = 8,   /* names that begin with `.wh.` (dirscan.h) */
};
/* Further facts that the marks on a layer's root show. */
enum {
    IMG_MARKS_UPPER = 16,     /* overlayfs or imgmount wrote it: a name `.wh.x` is a file */
    IMG_MARKS_USERXATTR = 32, /* trusted.overlay.imgmount.userxattr: root obeys `user.` here */
};

enum { IMG_HELD_CAPABILITY_MAX = 64 };

typedef struct img_dirmarks {
    img_xattr_set xattrs; /* the data */
    bool opaque, whiteout, metacopy;
    bool owned; /* override_stat: uid, gid, mode and rdev are set; mode may lack a type */
    uint32_t uid, gid, mode, rdev_major, rdev_minor;
    uint32_t special; /* S_IFCHR or S_IFBLK, with special_major and special_minor; 0: none */
    uint32_t special_major, special_minor;
    uint32_t set_id; /* bits of 06000 */
    bool timed;      /* times: atime_ns and mtime_ns are set, for a directory */
    bool held;       /* held: held_mode, atime_ns and mtime_ns are set, for other objects */
    uint32_t held_mode;
    int64_t atime_ns, mtime_ns;
    unsigned char capability[IMG_HELD_CAPABILITY_MAX]; /* of held */
    size_t capability_len;                             /* 0: none */
    bool capable;   /* the object has a real security.capability */
    bool disobeyed; /* an xattr of the user would be a mark if it were obeyed; it is data */
    char redirect[4096];
    size_t redirect_len; /* 0: none */
    char origin[4096];
    size_t origin_len; /* 0: none */
} img_dirmarks;

void img_dirmarks_free(img_dirmarks *marks);

/* The kinds of marks that are on the root of a layer, open as fd: the union of IMG_MARKS_*. */
unsigned img_dirmarks_of_root(int fd);

/* Replaces *marks by the marks of the object `name` in the directory fd.  Symlinks are not
 * followed.  An xattr that cannot be read (no permission, a file system without xattrs) is ignored.
 * E2BIG, ENOMEM, EIO. */
int img_dirmarks_read(img_dirmarks *marks, int fd, const char *name, unsigned obeyed,
                      img_error *err);

#endif
