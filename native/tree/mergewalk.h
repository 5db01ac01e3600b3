/* mergewalk.h: the way to a directory of a layer that is being unpacked, through its symlinks.
 *
 * A walk starts at the scratch directory (merge.h); symlinks of this layer, with follow also those
 * of the layers below, lead on inside it; ".." stops at it.  What is missing is passed by name, so
 * that ".." after it goes back.
 *
 * Cost: a component is a step, of one look-up in each of two directories; ".." is one too.  One
 * walk takes IMG_WALK_LINKS_MAX links, each of PATH_MAX bytes at most, so some 80,000 steps, which
 * an archive can ask for with each of its members.  So all walks of a tree together may take
 * IMG_WALK_STEPS_MAX steps, and IMG_WALK_STEPS_EACH more for each member; and they may make
 * IMG_IMPLIED_MAX directories that have no member of their own, and IMG_IMPLIED_EACH more for each
 * member (one takes some 300 bytes).  Real archives take as many steps as their paths are deep, and
 * imply a directory or two for a member. E2BIG beyond.
 */
#ifndef IMG_MERGEWALK_H
#define IMG_MERGEWALK_H

#include "tree/tree.h"

#define IMG_WALK_LINKS_MAX 40 /* MAXSYMLINKS of Linux */
#define IMG_WALK_BYTES (IMG_PATH_BYTES_MAX + IMG_LINK_BYTES_MAX)
#define IMG_WALK_STEPS_MAX (1u << 25) /* under a second */
#define IMG_WALK_STEPS_EACH 64u
#define IMG_IMPLIED_MAX (1u << 18) /* 80 MB */
#define IMG_IMPLIED_EACH 8u

typedef struct img_walker {
    img_tree *tree;
    img_id scratch;
    uint16_t layer;
    bool follow;
    img_error *err;
} img_walker;

/* Directories that exist: here in the scratch, below in the lower tree; and how many components
 * of the path lie beyond each of them.  canon is the path without links: "/a/b", or "". */
typedef struct img_walk {
    img_id here, below;
    uint32_t beyond_here, beyond_below;
    size_t here_len; /* of canon, which leads to here */
    size_t canon_len;
    char canon[IMG_WALK_BYTES];
} img_walk;

/* R. -1: EBADMSG (a loop of links), E2BIG, EINTR. */
int img_walk_to(const img_walker *walker, img_walk *walk, const char *path, size_t len);

/* R. The directory in the lower tree that the walk ended at; 0: none. */
static inline img_id img_walk_below(const img_walk *walk) {
    return walk->beyond_below ? 0 : walk->below;
}

/* R. Whether something that is no directory stands where the walk went on by name. */
bool img_walk_blocked(const img_walker *walker, const img_walk *walk);

/* W. Makes the directories that the walk passed by name, in place of what is in the way; walk->here
 * is the last one then. E2BIG, ENOMEM. */
int img_walk_make(const img_walker *walker, img_walk *walk);

#endif
