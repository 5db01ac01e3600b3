/* merge.h: one more layer onto a tree, as "each layer unpacked alone, then stacked" has it.
 *
 * A layer is first unpacked alone into a scratch directory of the same tree (last entry wins,
 * symlinks of this layer are followed for parents), its whiteouts being put aside; then the
 * whiteouts are applied to what lies below, whatever their place in the archive; then the scratch
 * is laid over it.  Sources: OCI image-spec, layer.md "Whiteouts" and "Applying Changesets".
 *
 *  - `.wh.X` hides X of lower layers; `.wh..wh..opq` all names of its directory in lower layers;
 *    `.wh..wh..opqX` is a whiteout of `.wh..opqX`; other `.wh..wh.*` are aufs' own and skipped,
 *    with all below them.  `.wh.`, `.wh..` and `.wh...` are errors.  What stands below a name that
 *    is a whiteout has no place to show and is skipped.
 *  - A hardlink's target is looked up in this layer so far, then in the layers below as they were
 *    before this layer, then in what the rest of this layer brings.
 */
#ifndef IMG_MERGE_H
#define IMG_MERGE_H

#include "tree/tree.h"

/* W. Adds a layer whose uncompressed tar starts at byte base of fd; index and fd are borrowed and
 * must outlive the tree.  follow: a parent that is a symlink in a lower layer is followed, as umoci
 * does, instead of being replaced by a directory, as overlay2 and containerd show it.
 * After an error the tree is only fit to be freed.  EBADMSG, E2BIG, ENOMEM. */
int img_tree_add_layer(img_tree *tree, const img_index *index, int fd, uint64_t base, bool follow,
                       img_error *err);

#endif
