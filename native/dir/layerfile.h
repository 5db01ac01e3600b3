/* layerfile.h: opens the root of a directory layer, and its files.
 *
 * Law: files are opened beneath the layer's root and never outside it: beneath.h resolves the paths
 * and follows no symlink.  Errors: negative errno values.
 */
#ifndef IMG_LAYERFILE_H
#define IMG_LAYERFILE_H

#include "base/upperfds.h"
#include "index/index.h"

/* Opens the root of a directory layer, with O_DIRECTORY.  With the privilege it is opened as
 * overlayfs opens its layers, through a mount of its own (clonemount.h), which is read-only, does
 * not update atime, and has no mounts in it: one of these could be the mount of this very layer. */
int img_layer_open_root(const char *path);

/* Opens a file of a directory layer for reading.  record: the pool offset of its img_file_record.
 * kept: descriptors of directories are kept there, under the keys first + img_access.number.
 *
 * The file is the regular file that was scanned.  It and each directory from the root down to it
 * have the same owner, group and ACL as then, and still the mode bits that let read (file) or
 * search (directories).  Directories are looked at at most every 20 ms.  The atime of the file is
 * not updated if the process may ask for that.  -EIO: there is no such file any more, or it was
 * closed. */
int img_layer_open_file(int root, const img_index *index, uint64_t record, img_fds *kept,
                        uint32_t first);

#endif
