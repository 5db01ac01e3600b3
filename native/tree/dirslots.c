#include "tree/dirslots.h"

#include "tree/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_COOKIE 3u

uint64_t img_dir_bytes(const img_dir *dir) {
    return sizeof *dir + dir->size * sizeof *dir->slots;
}

void img_dir_free(img_dir *dir) {
    free(dir->slots);
    free(dir);
}

uint32_t img_dir_seek(const img_dir *dir, uint32_t cookie) {
    uint32_t low = 0, high = dir->used;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (dir->slots[mid].cookie <= cookie)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static void compact(img_dir *dir) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < dir->used; i++)
        if (dir->slots[i].dentry)
            dir->slots[kept++] = dir->slots[i];
    dir->used = kept;
    dir->holes = 0;
}

/* After 2^32 names in a directory, cookies start again; a running listing may see a name twice. */
static void renumber(img_tree *tree, img_dir *dir) {
    compact(dir);
    memset(tree->gone_names, 0, sizeof tree->gone_names);
    dir->next_cookie = FIRST_COOKIE;
    for (uint32_t i = 0; i < dir->used; i++) {
        dir->slots[i].cookie = dir->next_cookie++;
        img_dentry_at(tree, dir->slots[i].dentry)->cookie = dir->slots[i].cookie;
    }
}

int img_dir_reserve(img_tree *tree, img_node *node) {
    img_dir *dir = node->u.dir;
    if (!dir) {
        dir = calloc(1, sizeof *dir);
        if (!dir)
            return -ENOMEM;
        dir->next_cookie = FIRST_COOKIE;
        node->u.dir = dir;
        tree->heap_bytes += sizeof *dir;
    }
    if (dir->next_cookie == UINT32_MAX)
        renumber(tree, dir);
    if (dir->used < dir->size)
        return 0;
    if (dir->holes > dir->used / 2) {
        compact(dir);
        return 0;
    }
    uint32_t size = dir->size ? dir->size + dir->size / 2 + 1 : 4;
    img_slot *slots = realloc(dir->slots, size * sizeof *slots);
    if (!slots)
        return -ENOMEM;
    tree->heap_bytes += (size - dir->size) * sizeof *slots;
    dir->slots = slots;
    dir->size = size;
    return 0;
}

static img_gone_name *gone_name(img_tree *tree, const img_dentry *dentry) {
    return &tree->gone_names[dentry->hash % IMG_GONE_NAMES];
}

/* The slot that the name had before, if it still exists and is empty. */
static img_slot *old_slot(img_tree *tree, const img_dir *dir, const img_dentry *dentry) {
    const img_gone_name *gone = gone_name(tree, dentry);
    if (gone->parent != dentry->parent || gone->hash != dentry->hash)
        return NULL;
    uint32_t at = img_dir_seek(dir, gone->cookie - 1);
    if (at == dir->used || dir->slots[at].cookie != gone->cookie || dir->slots[at].dentry)
        return NULL;
    return &dir->slots[at];
}

void img_dir_insert(img_tree *tree, img_dir *dir, uint32_t d) {
    img_dentry *dentry = img_dentry_at(tree, d);
    img_slot *slot = old_slot(tree, dir, dentry);
    if (slot) {
        dir->holes--;
    } else {
        slot = &dir->slots[dir->used++];
        slot->cookie = dir->next_cookie++;
    }
    slot->dentry = d;
    dentry->cookie = slot->cookie;
}

void img_dir_remove(img_tree *tree, img_dir *dir, const img_dentry *dentry) {
    *gone_name(tree, dentry) = (img_gone_name){dentry->parent, dentry->hash, dentry->cookie};
    dir->slots[img_dir_seek(dir, dentry->cookie - 1)].dentry = 0;
    dir->holes++;
    while (dir->used && !dir->slots[dir->used - 1].dentry) {
        dir->used--;
        dir->holes--;
    }
}
