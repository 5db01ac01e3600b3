/* tree_check.c: checks the invariants of tree.h by walking the whole tree. */
#include "tree/tree_check.h"

#include <errno.h>
#include <stdlib.h>

static int check_dir(const img_tree *tree, img_id id, const img_node *node, uint32_t *names,
                     img_error *err) {
    const img_dir *dir = node->u.dir;
    uint32_t live = 0, holes = 0, subdirs = 0, last = 0;
    for (uint32_t i = 0; dir && i < dir->used; i++) {
        uint32_t d = dir->slots[i].dentry;
        if (dir->slots[i].cookie <= last)
            return img_fail(err, EUCLEAN, "node %u: cookies do not ascend", id);
        last = dir->slots[i].cookie;
        if (!d) {
            holes++;
            continue;
        }
        const img_dentry *dentry = img_dentry_at(tree, d);
        if (dentry->parent != id || dentry->cookie != last)
            return img_fail(err, EUCLEAN, "node %u: slot %u holds another's dentry", id, i);
        if (img_tree_dentry(tree, id, dentry->name, dentry->name_len) != d)
            return img_fail(err, EUCLEAN, "node %u: slot %u is not hashed", id, i);
        (*names)++;
        if (!dentry->node)
            continue;
        const img_node *child = img_tree_node(tree, dentry->node);
        if (!child)
            return img_fail(err, EUCLEAN, "node %u: slot %u names a freed node", id, i);
        live++;
        subdirs += img_is_dir(child);
    }
    if (dir && (dir->live != live || dir->holes != holes))
        return img_fail(err, EUCLEAN, "node %u: %u live, %u holes counted", id, live, holes);
    if (node->nlink != 2 + subdirs)
        return img_fail(err, EUCLEAN, "node %u: nlink %u with %u subdirectories", id, node->nlink,
                        subdirs);
    return 0;
}

int img_tree_check(const img_tree *tree, img_error *err) {
    uint32_t nodes = 0, names = 0;
    for (img_id id = 1; id < tree->nodes.used; id++) {
        const img_node *node = img_tree_node(tree, id);
        if (!node)
            continue;
        nodes++;
        uint32_t links = 0, before = 0;
        for (uint32_t d = node->names; d; d = img_dentry_at(tree, d)->link_next) {
            links++;
            if (img_dentry_at(tree, d)->link_prev != before)
                return img_fail(err, EUCLEAN, "node %u: its names are not linked both ways", id);
            before = d;
            if (img_dentry_at(tree, d)->node != id)
                return img_fail(err, EUCLEAN, "node %u: its name %u means another", id, d);
        }
        if (img_is_dir(node) ? links > 1 : links != node->nlink)
            return img_fail(err, EUCLEAN, "node %u: %u names, nlink %u", id, links, node->nlink);
        if (!links && !node->lookups && id != IMG_ROOT)
            return img_fail(err, EUCLEAN, "node %u: nothing holds it", id);
        if (img_is_dir(node) && check_dir(tree, id, node, &names, err) < 0)
            return -1;
    }
    if (nodes != tree->n_nodes || names != tree->n_dentries)
        return img_fail(err, EUCLEAN, "%u nodes and %u names found, %u and %u counted", nodes,
                        names, tree->n_nodes, tree->n_dentries);
    return 0;
}
