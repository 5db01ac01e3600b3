#define _GNU_SOURCE /* memrchr */
#include "tree/mergewalk.h"

#include "base/interrupt.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

static int too_long(const img_walker *walker) {
    return img_fail(walker->err, E2BIG, "the path through its symlinks is too long");
}

int img_walk_step(const img_walker *walker) {
    img_tree *tree = walker->tree;
    uint64_t limit = IMG_WALK_STEPS_MAX + IMG_WALK_STEPS_EACH * tree->n_merged;
    if (++tree->walk_steps > limit)
        return img_fail(walker->err, E2BIG,
                        "the ways to its layers' directories take more than %" PRIu64
                        " steps, the limit for %" PRIu64 " members",
                        limit, tree->n_merged);
    return img_interrupted(1, walker->err);
}

/* ---- steps -------------------------------------------------------------------------------- */

static void to_the_root(const img_walker *walker, img_walk *walk) {
    walk->here = walker->scratch;
    walk->below = IMG_ROOT;
    walk->beyond_here = walk->beyond_below = 0;
    walk->here_len = walk->canon_len = 0;
}

/* The parent of dir; the root's is the root. */
static img_id above(const img_tree *tree, img_id dir, img_id root) {
    return dir == root ? root : img_tree_parent(tree, dir);
}

static void step_up(const img_walker *walker, img_walk *walk) {
    if (walk->canon_len == 0)
        return;
    while (walk->canon[--walk->canon_len] != '/') {
    }
    if (walk->beyond_here)
        walk->beyond_here--;
    else
        walk->here = above(walker->tree, walk->here, walker->scratch);
    if (!walk->beyond_here)
        walk->here_len = walk->canon_len;
    if (walk->beyond_below)
        walk->beyond_below--;
    else
        walk->below = above(walker->tree, walk->below, IMG_ROOT);
}

static void enter(const img_tree *tree, img_id next, img_id *dir, uint32_t *beyond) {
    if (!*beyond && next && img_is_dir(img_node_at(tree, next)))
        *dir = next;
    else
        (*beyond)++;
}

/* Goes one step down; or sets *link to the symlink that has to be followed instead. */
static int step_down(const img_walker *walker, img_walk *walk, const char *name, size_t len,
                     img_id *link) {
    const img_tree *tree = walker->tree;
    img_id next = walk->beyond_here ? 0 : img_tree_lookup(tree, walk->here, name, len);
    img_id below = walk->beyond_below ? 0 : img_tree_lookup(tree, walk->below, name, len);
    *link = 0;
    if (next && S_ISLNK(img_node_at(tree, next)->mode))
        *link = next;
    else if (!next && walker->follow && below && S_ISLNK(img_node_at(tree, below)->mode))
        *link = below;
    if (*link)
        return 0;
    if (walk->canon_len + 1 + len > sizeof walk->canon)
        return too_long(walker);
    walk->canon[walk->canon_len++] = '/';
    memcpy(walk->canon + walk->canon_len, name, len);
    walk->canon_len += len;
    enter(tree, next, &walk->here, &walk->beyond_here);
    enter(tree, below, &walk->below, &walk->beyond_below);
    if (!walk->beyond_here)
        walk->here_len = walk->canon_len;
    return 0;
}

int img_walk_to(const img_walker *walker, img_walk *walk, const char *path, size_t len) {
    char rest[IMG_WALK_BYTES];
    const char *at = path, *end = path + len; /* moves into rest at the first symlink */
    int links = 0;
    to_the_root(walker, walk);
    while (at < end) {
        const char *slash = memchr(at, '/', (size_t)(end - at));
        const char *name = at;
        size_t n = (size_t)((slash ? slash : end) - at);
        img_id link;
        at += n + (slash ? 1 : 0);
        if (img_walk_step(walker) < 0)
            return -1;
        if (n == 0 || (n == 1 && name[0] == '.'))
            continue;
        if (n == 2 && name[0] == '.' && name[1] == '.') {
            step_up(walker, walk);
            continue;
        }
        if (step_down(walker, walk, name, n, &link) < 0)
            return -1;
        if (!link)
            continue;
        if (++links > IMG_WALK_LINKS_MAX)
            return img_fail(walker->err, EBADMSG, "its directory is a loop of symlinks");
        const img_node *node = img_node_at(walker->tree, link);
        size_t left = (size_t)(end - at);
        if (node->size + 1 + left > sizeof rest)
            return too_long(walker);
        char *start = rest + sizeof rest - left;
        memmove(start, at, left);
        *--start = '/';
        start -= node->size;
        memcpy(start, node->u.target, node->size);
        if (node->size && start[0] == '/')
            to_the_root(walker, walk);
        at = start;
        end = rest + sizeof rest;
    }
    return 0;
}

/* ---- missing directories ------------------------------------------------------------------ */

/* The first component of walk->canon that is beyond walk->here. */
static const char *first_beyond(const img_walk *walk, size_t *len) {
    const char *name = walk->canon + walk->here_len + 1, *end = walk->canon + walk->canon_len;
    const char *slash = memchr(name, '/', (size_t)(end - name));
    *len = (size_t)((slash ? slash : end) - name);
    return name;
}

bool img_walk_blocked(const img_walker *walker, const img_walk *walk) {
    size_t len;
    if (!walk->beyond_here)
        return false;
    const char *name = first_beyond(walk, &len);
    /* An object of this name is no directory, because the walk would have entered a directory. */
    return img_tree_lookup(walker->tree, walk->here, name, len) != 0;
}

static img_id make_implied(const img_walker *walker, img_id parent, const char *name, size_t len) {
    img_tree *tree = walker->tree;
    img_attributes plain = {.mode = S_IFDIR | 0755};
    uint64_t limit = IMG_IMPLIED_MAX + IMG_IMPLIED_EACH * tree->n_merged;
    if (++tree->n_implied > limit) {
        img_fail(walker->err, E2BIG,
                 "more than %" PRIu64 " directories without a member of their own, the limit for "
                 "%" PRIu64 " members",
                 limit, tree->n_merged);
        return 0;
    }
    img_id id = img_tree_new_node(tree, &plain, walker->layer);
    if (id) {
        img_node_at(tree, id)->flags |= IMG_NODE_IMPLIED;
        if (img_tree_add_name(tree, parent, name, len, id, 0) == 0)
            return id;
        (void)img_tree_release(tree, id);
    }
    img_fail(walker->err, ENOMEM, "out of memory");
    return 0;
}

int img_walk_make(const img_walker *walker, img_walk *walk) {
    img_tree *tree = walker->tree;
    while (walk->beyond_here) {
        size_t len;
        const char *name = first_beyond(walk, &len);
        uint32_t d = img_tree_dentry(tree, walk->here, name, len);
        if (d) /* it is no directory, because the walk would have gone into it */
            img_tree_drop_subtree(tree, d, false);
        walk->here = make_implied(walker, walk->here, name, len);
        if (!walk->here || img_interrupted(1, walker->err) < 0)
            return -1;
        walk->here_len += 1 + len;
        walk->beyond_here--;
    }
    return 0;
}
