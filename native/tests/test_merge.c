/* Random layers are stacked under sanitizers: the tree keeps its invariants whatever a layer has,
 * or the layer is refused with a reason.  The meaning of layers is tested in Python. */
#include "tree/merge.h"
#include "tree/tree_check.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define ENTRIES 40
#define LAYERS 6

static uint32_t state = 88172645u;
static uint32_t draw(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state % below;
}

static const char *const names[] = {
    "a",         "b",     "c",     ".wh.a", ".wh.b", ".wh.c", "d", "e", ".wh..wh..opq",
    ".wh..wh.x", ".wh.d", ".wh.e", ".wh.",  "f"};
static const char *const links[] = {"a", "../b", "/a/b", "b/../c", "/", "..", "a/b/c", "./x/../d"};

typedef struct layer {
    img_index index;
    img_entry entries[ENTRIES];
    char pool[64 * ENTRIES + 64];
    uint32_t used;
} layer;

static uint32_t pooled(layer *l, const char *text, size_t len) {
    uint32_t at = l->used;
    assert(at + len < sizeof l->pool);
    memcpy(l->pool + at, text, len);
    l->used += (uint32_t)len;
    return at;
}

static void random_entry(layer *l, img_entry *e) {
    static const uint32_t types[] = {0, S_IFREG, S_IFDIR, S_IFLNK, 0, S_IFCHR, S_IFBLK, S_IFIFO};
    char dir[32] = "";
    for (uint32_t depth = draw(4); depth; depth--) {
        if (dir[0])
            strcat(dir, "/");
        strcat(dir, names[draw(100) ? draw(3) : 5]);
    }
    const char *name = names[draw(200) ? draw(12) : 12 + draw(2)];
    e->kind = (uint8_t)(1 + draw(7));
    e->mode = types[e->kind] ? types[e->kind] | 0644 : 0;
    e->dir_len = (uint16_t)strlen(dir);
    e->dir = pooled(l, dir, e->dir_len);
    e->name_len = (uint16_t)strlen(name);
    e->name = pooled(l, name, e->name_len);
    if (e->kind == IMG_SYMLINK || e->kind == IMG_HARDLINK) {
        const char *link = e->kind == IMG_SYMLINK ? links[draw(8)] : names[draw(3)];
        e->link_len = (uint16_t)strlen(link);
        e->link = pooled(l, link, e->link_len);
    }
}

static layer *random_layer(void) {
    layer *l = calloc(1, sizeof *l);
    assert(l);
    for (uint32_t i = 0; i < ENTRIES; i++)
        random_entry(l, &l->entries[i]);
    l->index.entries = l->entries;
    l->index.pool = l->pool;
    l->index.head.n_entries = draw(ENTRIES);
    l->index.head.pool_bytes = l->used;
    return l;
}

int main(void) {
    uint32_t stacked = 0, refused = 0;
    for (int round = 0; round < 4000; round++) {
        layer *layers[LAYERS] = {NULL};
        img_tree *tree = img_tree_new();
        img_error err = {0};
        bool follow = draw(2);
        for (int i = 0; i < LAYERS; i++) {
            layers[i] = random_layer();
            if (img_tree_add_layer(tree, &layers[i]->index, -1, 0, NULL, follow, &err) < 0) {
                assert(err.code && err.message[0]);
                refused++;
                break;
            }
            stacked++;
            if (img_tree_check(tree, &err) < 0) {
                (void)fprintf(stderr, "round %d, layer %d: %s\n", round, i, err.message);
                abort();
            }
        }
        img_tree_free(tree);
        for (int i = 0; i < LAYERS; i++)
            free(layers[i]);
    }
    assert(stacked > 1000 && refused > 100);
    return 0;
}
