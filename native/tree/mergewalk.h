/* mergewalk.h: finds the directory of a member while its layer is unpacked, through symlinks.
 *
 * Law: a walk starts at the scratch directory (merge.h) and never leaves it.  Symlinks of this
 * layer are followed inside the scratch directory; with `follow`, symlinks of the layers below too.
 * ".." in the scratch directory is the scratch directory.  The walk goes on by name through
 * directories that do not exist, so that a later ".." goes back.
 *
 * Cost: each component, ".." included, is a step, which looks up a name in each of two directories.
 * A walk follows up to IMG_WALK_LINKS_MAX symlinks of up to PATH_MAX bytes, some 80,000 steps, and
 * a hostile archive can make each of its members cost so many.  So there are limits for all walks
 * of a tree together: IMG_WALK_STEPS_MAX steps, and IMG_WALK_STEPS_EACH more for each member;
 * IMG_IMPLIED_MAX new directories without a member of their own, and IMG_IMPLIED_EACH more for each
 * member (a directory takes some 300 bytes).  Real archives take as many steps as their paths are
 * deep, and imply one or two directories for a member.  E2BIG beyond.
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

/* here and below: the deepest directories on the path that exist, in the scratch and in the layers
 * below; beyond_here and beyond_below: how many components of the path come after them.  canon: the
 * path without symlinks, "/a/b", or "". */
typedef struct img_walk {
    img_id here, below;
    uint32_t beyond_here, beyond_below;
    size_t here_len; /* the first here_len bytes of canon are the path of here */
    size_t canon_len;
    char canon[IMG_WALK_BYTES];
} img_walk;

/* Counts a step of the work that a layer's members make.  -1: E2BIG, there were too many; EINTR. */
int img_walk_step(const img_walker *walker);
/* R. -1: EBADMSG (a loop of links), E2BIG, EINTR. */
int img_walk_to(const img_walker *walker, img_walk *walk, const char *path, size_t len);

/* R. The directory in the layers below that the walk ended at; 0: none. */
static inline img_id img_walk_below(const img_walk *walk) {
    return walk->beyond_below ? 0 : walk->below;
}

/* R. True if the walk went on by name at a name that exists and is no directory. */
bool img_walk_blocked(const img_walker *walker, const img_walk *walk);

/* W. Makes the directories that the walk passed by name; they replace objects that are no
 * directories.  walk->here is then the last one.  E2BIG, ENOMEM. */
int img_walk_make(const img_walker *walker, img_walk *walk);

#endif
