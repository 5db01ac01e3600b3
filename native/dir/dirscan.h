/* dirscan.h: makes the index of a directory layer, by walking the directory on the host.
 *
 * Law: an entry has what the object and its marks contain; mergedir.h applies it to the layers
 * below.  Contents of files are not read; layerfile.h opens the files later.
 *
 * Order: the root first, then the entries of each directory together, by name.  So a directory
 * always gives the same index, in whatever order its file system lists names.  The first name of an
 * object (device and inode) is its entry; further names in the layer are IMG_HARDLINK.
 *
 * A whiteout becomes IMG_WHITEOUT: a character device 0:0, an empty file with the xattr, or a name
 * `.wh.X`.  An opaque directory gets IMG_ENTRY_OPAQUE: a directory with the xattr, or with a file
 * `.wh..wh..opq` in it.  Other names `.wh..wh.*` belong to aufs and are left out.  Without
 * IMG_MARKS_NAMES, names that begin with `.wh.` are ordinary names.
 *
 * A mount point of another file system is an empty directory in the index, as with overlayfs.  So
 * is a directory that may not be read; scan.unreadable counts these.
 */
#ifndef IMG_DIRSCAN_H
#define IMG_DIRSCAN_H

#include "base/error.h"
#include "index/index.h"

typedef struct img_dirscan {
    unsigned obeyed;            /* IMG_MARKS_* of dirmarks.h */
    uint64_t unreadable;        /* out: directories that may not be read */
    char first_unreadable[256]; /* out: one of them, cut */
    uint64_t disobeyed;         /* out: objects with marks of the user that were taken as data */
    char first_disobeyed[256];  /* out: one of them, cut */
} img_dirscan;

/* fd: the layer's root, from img_layer_open_root; borrowed.  EBADMSG, E2BIG: err->member is the
 * path of the object.  ENOMEM, EINTR, EIO and other errors of the file system. */
img_index *img_scan_directory(int fd, img_dirscan *scan, img_error *err);

#endif
