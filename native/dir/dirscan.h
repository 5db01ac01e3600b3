/* dirscan.h: a directory as a layer: its index, read from the file system as it stands now.
 *
 * Law: what is there and what it says of itself; what that means to the layers below is
 * mergedir.h's.  Contents are not read; layerfile.h opens them when they are wanted.
 *
 * Entries: the root first, then each directory's, by name, side by side; so the same directory
 * gives the same index whatever order its file system lists it in.  Names of one object (the same
 * device and inode, in this layer) after its first are IMG_HARDLINK.  Whiteouts are IMG_WHITEOUT,
 * be they a character device 0:0, an empty file with the xattr, or a name `.wh.X`; an opaque
 * directory has IMG_ENTRY_OPAQUE, be it by xattr or by `.wh..wh..opq` in it; aufs' other
 * `.wh..wh.*` are left out.  Without IMG_MARKS_NAMES such names are those of files.
 *
 * Another file system mounted in it shows as a directory without anything in it, as overlayfs has
 * it; a directory that may not be read likewise (scan.unreadable counts those).
 */
#ifndef IMG_DIRSCAN_H
#define IMG_DIRSCAN_H

#include "base/error.h"
#include "index/index.h"

typedef struct img_dirscan {
    unsigned obeyed;            /* IMG_MARKS_* of dirmarks.h */
    uint64_t unreadable;        /* out: directories that may not be read */
    char first_unreadable[256]; /* out: one of them, cut */
    uint64_t disobeyed;         /* out: objects with marks of a user's that were taken as data */
    char first_disobeyed[256];  /* out: one of them, cut */
} img_dirscan;

/* fd: the layer's root, as img_layer_open_root gives it; borrowed.
 * EBADMSG, E2BIG: err->member names what; ENOMEM, EIO and what else the file system says. */
img_index *img_scan_directory(int fd, img_dirscan *scan, img_error *err);

#endif
