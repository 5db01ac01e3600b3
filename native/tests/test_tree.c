/* The tree without layers, under sanitizers: names, cookies, whiteouts, slots that are used again,
 * and random changes with the invariants checked after each; then readers in other threads beside a
 * writer. */
#include "tree/merge.h"
#include "tree/tree_check.h"
#include "tree/xattrs.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const img_attributes a_file = {.mode = S_IFREG | 0644};
static const img_attributes a_dir = {.mode = S_IFDIR | 0755};

static void proved(const img_tree *tree) {
    img_error err = {0};
    if (img_tree_check(tree, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.message);
        abort();
    }
}

static img_id make(img_tree *tree, img_id parent, const char *name, const img_attributes *what) {
    img_id id = img_tree_new_node(tree, what, IMG_LAYER_UPPER);
    assert(id && img_tree_add_name(tree, parent, name, strlen(name), id, 0) == 0);
    return id;
}

static uint32_t named(const img_tree *tree, img_id parent, const char *name) {
    return img_tree_dentry(tree, parent, name, strlen(name));
}

static void test_names_and_links(void) {
    img_tree *tree = img_tree_new();
    img_id dir = make(tree, IMG_ROOT, "dir", &a_dir), file = make(tree, dir, "a", &a_file);
    assert(img_tree_add_name(tree, dir, "b", 1, file, 0) == 0);
    assert(img_tree_add_name(tree, dir, "b", 1, file, 0) == -EEXIST);
    assert(img_node_at(tree, file)->nlink == 2 && img_node_at(tree, IMG_ROOT)->nlink == 3);
    assert(img_tree_lookup(tree, dir, "b", 1) == file && !img_tree_lookup(tree, dir, "c", 1));
    img_tree_drop_name(tree, named(tree, dir, "a"), false);
    assert(img_node_at(tree, file)->nlink == 1);
    img_node_at(tree, file)->lookups = 1;
    img_tree_drop_name(tree, named(tree, dir, "b"), false);
    assert(img_tree_node(tree, file)); /* its lookup count keeps it */
    img_node_at(tree, file)->lookups = 0;
    assert(img_tree_release(tree, file) && !img_tree_node(tree, file));
    assert(make(tree, dir, "again", &a_file) == file); /* the slot is used again */
    proved(tree);
    img_tree_free(tree);
}

static void test_whiteouts_stay_where_layers_have_a_name(void) {
    img_tree *tree = img_tree_new();
    img_id dir = make(tree, IMG_ROOT, "dir", &a_dir);
    (void)make(tree, dir, "lower", &a_file);
    img_tree_seal(tree);
    img_tree_drop_name(tree, named(tree, dir, "lower"), true);
    assert(named(tree, dir, "lower") && !img_tree_lookup(tree, dir, "lower", 5));
    assert(img_node_at(tree, dir)->u.dir->live == 0);
    (void)make(tree, dir, "lower", &a_file);
    assert(img_dentry_at(tree, named(tree, dir, "lower"))->flags & IMG_NAME_LOWER);
    assert(img_tree_move(tree, named(tree, dir, "lower"), IMG_ROOT, "moved", 5, true) == 0);
    assert(!(img_dentry_at(tree, named(tree, IMG_ROOT, "moved"))->flags & IMG_NAME_LOWER));
    proved(tree);
    img_tree_drop_subtree(tree, named(tree, IMG_ROOT, "dir"), false);
    proved(tree);
    img_tree_free(tree);
}

static void test_cookies_go_on_after_any_change(void) {
    img_tree *tree = img_tree_new();
    char name[16];
    for (int i = 0; i < 1000; i++) {
        (void)snprintf(name, sizeof name, "%d", i);
        (void)make(tree, IMG_ROOT, name, &a_file);
    }
    const img_dir *dir = img_node_at(tree, IMG_ROOT)->u.dir;
    uint32_t cookie = 0, seen = 0;
    while (img_dir_seek(dir, cookie) < dir->used) {
        img_slot slot = dir->slots[img_dir_seek(dir, cookie)];
        cookie = slot.cookie;
        if (!slot.dentry)
            continue;
        seen++;
        /* remove the name just listed; for each of the first thousand, add one at the end */
        img_tree_drop_name(tree, slot.dentry, false);
        if (seen <= 1000) {
            (void)snprintf(name, sizeof name, "n%u", seen);
            (void)make(tree, IMG_ROOT, name, &a_file);
        }
    }
    assert(seen == 2000 && dir->live == 0 && dir->used == 0);
    proved(tree);
    img_tree_free(tree);
}

/* Each name is renamed away and back while the directory is listed, as some programs do. */
static void test_a_name_that_comes_back_has_its_old_cookie(void) {
    img_tree *tree = img_tree_new();
    char name[16];
    for (int i = 0; i < 100; i++) {
        (void)snprintf(name, sizeof name, "%d", i);
        (void)make(tree, IMG_ROOT, name, &a_file);
    }
    const img_dir *dir = img_node_at(tree, IMG_ROOT)->u.dir;
    uint32_t cookie = 0, seen = 0;
    for (; img_dir_seek(dir, cookie) < dir->used; seen++) {
        assert(seen < 100);
        img_slot slot = dir->slots[img_dir_seek(dir, cookie)];
        cookie = slot.cookie;
        (void)snprintf(name, sizeof name, "%u", seen);
        assert(img_tree_move(tree, slot.dentry, IMG_ROOT, "away", 4, false) == 0);
        assert(img_tree_move(tree, named(tree, IMG_ROOT, "away"), IMG_ROOT, name, strlen(name),
                             false) == 0);
        assert(img_dentry_at(tree, named(tree, IMG_ROOT, name))->cookie == cookie);
    }
    assert(seen == 100 && dir->live == 100);
    proved(tree);
    img_tree_free(tree);
}

static void test_xattrs(void) {
    img_tree *tree = img_tree_new();
    img_node *root = img_node_at(tree, IMG_ROOT);
    uint32_t len;
    assert(img_tree_set_xattr(tree, root, "user.a", 6, "1", 1) == 0);
    assert(img_tree_set_xattr(tree, root, "user.b", 6, "", 0) == 0);
    assert(img_tree_set_xattr(tree, root, "user.a", 6, "22", 2) == 0);
    assert(memcmp(img_node_xattr(root, "user.a", 6, &len), "22", 2) == 0 && len == 2);
    assert(img_node_xattr(root, "user.b", 6, &len) && len == 0);
    assert(img_tree_set_xattr(tree, root, "user.c", 6, NULL, 0) == -ENODATA);
    assert(img_tree_set_xattr(tree, root, "user.a", 6, NULL, 0) == 0);
    assert(!img_node_xattr(root, "user.a", 6, &len));
    img_tree_free(tree);
}

static void test_paths_stay_inside_the_root(void) {
    img_tree *tree = img_tree_new();
    img_id dir = make(tree, IMG_ROOT, "dir", &a_dir), file = make(tree, dir, "f", &a_file), id = 0;
    const img_attributes a_link = {.mode = S_IFLNK | 0777};
    img_id link = make(tree, IMG_ROOT, "link", &a_link), loop = make(tree, dir, "loop", &a_link);
    assert(img_tree_set_target(tree, img_node_at(tree, link), "../../dir/", 10) == 0);
    assert(img_tree_set_target(tree, img_node_at(tree, loop), "/dir/loop", 9) == 0);
    assert(img_tree_resolve(tree, "/link/f", 7, true, &id) == 0 && id == file);
    assert(img_tree_resolve(tree, "../link/../dir/./f", 18, true, &id) == 0 && id == file);
    assert(img_tree_resolve(tree, "link", 4, false, &id) == 0 && id == link);
    assert(img_tree_resolve(tree, "link", 4, true, &id) == 0 && id == dir);
    assert(img_tree_resolve(tree, "dir/loop", 8, true, &id) == -ELOOP);
    assert(img_tree_resolve(tree, "dir/f/x", 7, true, &id) == -ENOTDIR);
    assert(img_tree_resolve(tree, "no", 2, true, &id) == -ENOENT);
    proved(tree);
    img_tree_free(tree);
}

/* xorshift: the same numbers on every machine */
static uint32_t state = 2463534242u;
static uint32_t draw(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state % below;
}

static img_id some_dir(const img_tree *tree) {
    for (;;) {
        img_id id = 1 + draw(tree->nodes.used - 1);
        const img_node *node = img_tree_node(tree, id);
        if (node && img_is_dir(node))
            return id;
    }
}

static bool below(const img_tree *tree, img_id dir, img_id top) {
    while (dir != IMG_ROOT && dir != top)
        dir = img_tree_parent(tree, dir);
    return dir == top;
}

static void random_step(img_tree *tree) {
    char name[8];
    img_id parent = some_dir(tree), to = some_dir(tree);
    (void)snprintf(name, sizeof name, "%u", draw(12));
    uint32_t d = named(tree, parent, name);
    img_id id = d ? img_dentry_at(tree, d)->node : 0;
    switch (draw(5)) {
    case 0:
    case 1:
        if (!id)
            (void)make(tree, parent, name, draw(3) ? &a_file : &a_dir);
        break;
    case 2:
        if (id)
            img_tree_drop_subtree(tree, d, draw(2));
        break;
    case 3:
        (void)snprintf(name, sizeof name, "%u", draw(12));
        if (id && !below(tree, to, id))
            (void)img_tree_move(tree, d, to, name, strlen(name), draw(2));
        break;
    default:
        (void)snprintf(name, sizeof name, "%u", draw(12));
        if (id && !img_is_dir(img_node_at(tree, id)))
            (void)img_tree_add_name(tree, to, name, strlen(name), id, 0);
        break;
    }
}

static void test_random_walk(void) {
    for (int round = 0; round < 20; round++) {
        img_tree *tree = img_tree_new();
        for (int i = 0; i < 300; i++) {
            random_step(tree);
            proved(tree);
            if (i == 150)
                img_tree_seal(tree);
        }
        img_tree_free(tree);
    }
}

static atomic_bool finished;

static void *reader(void *argument) {
    img_tree *tree = argument;
    uint64_t live = 0;
    while (!atomic_load(&finished)) {
        (void)pthread_rwlock_rdlock(&tree->lock);
        const img_dir *dir = img_node_at(tree, IMG_ROOT)->u.dir;
        for (uint32_t i = 0; dir && i < dir->used; i++) {
            const img_dentry *dentry = img_dentry_at(tree, dir->slots[i].dentry);
            live += dir->slots[i].dentry && dentry->node && dentry->name_len < 8;
        }
        (void)pthread_rwlock_unlock(&tree->lock);
    }
    return (void *)(uintptr_t)(live != UINT64_MAX);
}

static void test_readers_beside_a_writer(void) {
    img_tree *tree = img_tree_new();
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert(pthread_create(&threads[i], NULL, reader, tree) == 0);
    for (int i = 0; i < 20000; i++) {
        (void)pthread_rwlock_wrlock(&tree->lock);
        random_step(tree);
        (void)pthread_rwlock_unlock(&tree->lock);
    }
    atomic_store(&finished, true);
    for (int i = 0; i < 2; i++)
        assert(pthread_join(threads[i], NULL) == 0);
    proved(tree);
    img_tree_free(tree);
}

/* These names would all have one hash, whatever the seed, if a step of the hash only multiplied by
 * a known odd number: the toggled top bits of two successive words would cancel (base/hash.h). */
static void test_names_cannot_be_made_to_collide(void) {
    enum { WORDS = 12, NAMES = 1 << (WORDS - 1) };
    img_tree *tree = img_tree_new();
    uint32_t most = 0, in_bucket[256] = {0};
    for (unsigned i = 0; i < NAMES; i++) {
        char name[WORDS * 8 + 1] = {0};
        memset(name, 'A', WORDS * 8);
        for (unsigned word = 0; word < WORDS - 1; word++)
            if (i >> word & 1) {
                name[word * 8 + 7] ^= '\x80';
                name[word * 8 + 11] ^= '\x80';
                name[word * 8 + 15] ^= '\x80';
            }
        (void)make(tree, IMG_ROOT, name, &a_file);
        uint32_t here = ++in_bucket[img_dentry_at(tree, named(tree, IMG_ROOT, name))->hash & 255];
        most = here > most ? here : most;
    }
    assert(most < 8 * NAMES / 256); /* eight times the mean */
    img_tree_free(tree);
}

int main(void) {
    test_names_and_links();
    test_whiteouts_stay_where_layers_have_a_name();
    test_cookies_go_on_after_any_change();
    test_a_name_that_comes_back_has_its_old_cookie();
    test_xattrs();
    test_names_cannot_be_made_to_collide();
    test_paths_stay_inside_the_root();
    test_random_walk();
    test_readers_beside_a_writer();
    return 0;
}
