/* tree_check.h: proves that a tree is consistent (for tests and fuzzing). */
#ifndef IMG_TREE_CHECK_H
#define IMG_TREE_CHECK_H

#include "base/error.h"
#include "tree/tree.h"

/* R. Walks the whole tree and checks the invariants of tree.h. 0, or -1 with err set to the first
 * invariant that is broken (EUCLEAN). */
int img_tree_check(const img_tree *tree, img_error *err);

#endif
