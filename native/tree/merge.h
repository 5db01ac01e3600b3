/* merge.h: adds the layer of a tar to a tree.
 *
 * Law: each layer is unpacked alone and then stacked.  First, the members are put into a scratch
 * directory of the same tree: the last of several members of one name wins, and a parent that is a
 * symlink of this layer is followed.  Whiteouts are collected meanwhile.  Then they are applied to
 * the layers below, whatever their position in the archive.  Then the scratch directory is laid
 * over the layers below.  Sources: OCI image-spec, layer.md "Whiteouts" and "Applying Changesets".
 *
 *  - `.wh.X` hides X of lower layers.  `.wh..wh..opq` hides all names of its directory in lower
 *    layers.  `.wh..wh..opqX` is a whiteout of `.wh..opqX`.  Other names `.wh..wh.*` belong to aufs
 *    and are skipped, with all members below them.  `.wh.`, `.wh..` and `.wh...` are errors.  A
 *    whiteout whose directory is no directory in this layer is skipped.  A member below a directory
 *    named `.wh.X` is an ordinary member.
 *  - The target of a hardlink is looked up in the members of this layer that come before the
 *    hardlink, then in the layers below as they were before this layer, then in the rest of this
 *    layer.
 */
#ifndef IMG_MERGE_H
#define IMG_MERGE_H

#include "packed/packed.h"
#include "tree/tree.h"

/* W. Adds a layer whose uncompressed tar starts at byte base of fd or, if packed is not NULL, is
 * the address space of packed.  index, fd and packed are borrowed and must outlive the tree.
 * follow: a parent that is a symlink in a lower layer is followed, as umoci does; else a directory
 * replaces it, as overlay2 and containerd show it. After an error the tree can only be freed.
 * EBADMSG, E2BIG, ENOMEM, EINTR. */
int img_tree_add_layer(img_tree *tree, const img_index *index, int fd, uint64_t base,
                       img_packed *packed, bool follow, img_error *err);

#endif
