/* layerfile.h: opening what stands in a directory layer, beneath the layer's root and nowhere else.
 *
 * Paths are resolved by beneath.h, which follows no symlink.
 * Errors: negative errno values.
 */
#ifndef IMG_LAYERFILE_H
#define IMG_LAYERFILE_H

#include "index/index.h"

/* The root of a directory layer, O_DIRECTORY. With the privilege it is opened as overlayfs opens
 * its layers, through a mount of its own: read-only, without atime, without what is mounted in it
 * (be it the very mount that shows it). */
int img_layer_open_root(const char *path);

/* A file of a directory layer by the pool offset of its img_file_record: readable, surely the
 * regular file that was scanned, with the owner and mode it had then, without touching its atime
 * where we may. -EIO when there is none (any more). */
int img_layer_open_file(int root, const img_index *index, uint64_t record);

#endif
