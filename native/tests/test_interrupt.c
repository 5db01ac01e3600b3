/* Every long computation of the core asks whether to end, and ends with EINTR if so.  The tests
 * count questions, not seconds.  And work that is the product of two numbers of an archive has a
 * limit. */
#define _GNU_SOURCE /* memfd_create */

#include "base/interrupt.h"
#include "check.h"
#include "dir/dirscan.h"
#include "index/indexbuild.h"
#include "tar/scanfd.h"
#include "tar/tarscan.h"
#include "tree/content.h"
#include "tree/merge.h"
#include "tree/mergedir.h"
#include "tree/mergewalk.h"
#include "tree/tree_check.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MEMBERS = 2000 };

typedef struct asked {
    unsigned questions, yes_at; /* 0: never */
} asked;

static bool count(void *asker) {
    asked *a = asker;
    return ++a->questions == a->yes_at;
}

static void listen_to(asked *a, unsigned yes_at) {
    *a = (asked){0, yes_at};
    img_interrupt_ask(count, a, 0);
}

static void stop_listening(void) {
    img_interrupt_ask(NULL, NULL, 0);
}

/* ---- inputs ---- */

static int tar_of_members(void) {
    int fd = memfd_create("tar", 0);
    unsigned char block[512];
    CHECK(fd >= 0);
    for (unsigned i = 0; i < MEMBERS; i++) {
        memset(block, 0, sizeof block);
        snprintf((char *)block, 100, "m%u", i);
        memcpy(block + 100, "0000644", 7);
        memset(block + 148, ' ', 8);
        block[156] = '0';
        unsigned sum = 0;
        for (unsigned k = 0; k < sizeof block; k++)
            sum += block[k];
        snprintf((char *)block + 148, 8, "%06o", sum);
        CHECK(write(fd, block, sizeof block) == (ssize_t)sizeof block);
    }
    return fd;
}

static img_entry entry_of(img_builder *b, img_kind kind, const char *dir, const char *name,
                          const char *link) {
    static const uint32_t types[] = {
        [IMG_FILE] = S_IFREG, [IMG_DIR] = S_IFDIR, [IMG_SYMLINK] = S_IFLNK, [IMG_HARDLINK] = 0};
    img_error err;
    img_entry e = {.kind = (uint8_t)kind,
                   .mode = types[kind] | 0755,
                   .dir_len = (uint16_t)strlen(dir),
                   .name_len = (uint16_t)strlen(name),
                   .link_len = (uint16_t)strlen(link)};
    CHECK(img_builder_intern(b, dir, strlen(dir), &e.dir, &err) == 0);
    CHECK(img_builder_text(b, name, strlen(name), &e.name, &err) == 0);
    CHECK(img_builder_intern(b, link, strlen(link), &e.link, &err) == 0);
    return e;
}

static void put(img_builder *b, img_kind kind, const char *dir, const char *name,
                const char *link) {
    img_error err;
    img_entry e = entry_of(b, kind, dir, name, link);
    CHECK(img_builder_entry(b, &e, &err) == 0);
}

static img_index *take(img_builder *b) {
    img_error err;
    img_index *index = img_builder_take(b, 0, &err);
    CHECK(index);
    return index;
}

/* ---- each computation ends ---- */

static void test_scan(void) {
    img_error err = {0};
    asked a;
    int fd = tar_of_members();
    uint64_t length = (uint64_t)MEMBERS * 512;
    listen_to(&a, 0);
    img_index *index = img_scan_fd(fd, 0, length, &err);
    CHECK(index && index->head.n_entries == MEMBERS && a.questions >= 4);
    listen_to(&a, 2);
    CHECK(!img_scan_fd(fd, 0, length, &err) && err.code == EINTR && a.questions == 2);

    int kept = memfd_create("index", 0);
    listen_to(&a, 1);
    CHECK(img_index_write(index, kept, 0, &err) < 0 && err.code == EINTR);
    stop_listening();
    CHECK(lseek(kept, 0, SEEK_SET) == 0 && img_index_write(index, kept, 0, &err) == 0);
    listen_to(&a, 0);
    img_index *loaded = img_index_read(kept, 0, &err);
    CHECK(loaded && a.questions > MEMBERS / IMG_STEPS_PER_LOOK);
    listen_to(&a, a.questions - 1); /* in the middle of the checks of its entries */
    CHECK(!img_index_read(kept, 0, &err) && err.code == EINTR);
    stop_listening();
    img_index_free(loaded);
    img_index_free(index);
    (void)close(kept);
    (void)close(fd);
}

static void test_merge(void) {
    img_error err = {0};
    asked a;
    char name[16];
    img_builder b;
    img_builder_init(&b);
    for (unsigned i = 0; i < MEMBERS; i++) {
        snprintf(name, sizeof name, "n%u", i);
        put(&b, IMG_FILE, i % 2 ? "a/b" : "c", name, "");
    }
    img_index *index = take(&b);
    img_tree *tree = img_tree_new();
    listen_to(&a, 0);
    CHECK(img_tree_add_layer(tree, index, -1, 0, NULL, false, &err) == 0);
    unsigned all = a.questions; /* the questions for members and for walks to their directories */
    CHECK(all > 2 * MEMBERS / IMG_STEPS_PER_LOOK);
    img_tree_free(tree);
    for (unsigned at = 1; at <= all; at += all / 5) {
        tree = img_tree_new();
        listen_to(&a, at);
        CHECK(img_tree_add_layer(tree, index, -1, 0, NULL, false, &err) < 0 && err.code == EINTR);
        CHECK(a.questions == at);
        img_tree_free(tree);
    }
    stop_listening();
    img_index_free(index);
}

static void test_directory(void) {
    img_error err = {0};
    asked a;
    char base[] = "/tmp/imgmount-interrupt-XXXXXX", name[16];
    CHECK(mkdtemp(base));
    int root = open(base, O_RDONLY | O_DIRECTORY);
    for (unsigned i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "f%u", i);
        int fd = openat(root, name, O_CREAT | O_WRONLY, 0600);
        CHECK(fd >= 0 && close(fd) == 0);
    }
    img_dirscan scan = {0};
    listen_to(&a, 0);
    img_index *index = img_scan_directory(root, &scan, &err);
    CHECK(index && a.questions > 300);
    for (unsigned at = 1; at <= 300; at += 50) { /* some of them while names are sorted */
        listen_to(&a, at);
        CHECK(!img_scan_directory(root, &scan, &err) && err.code == EINTR && a.questions == at);
    }
    img_tree *tree = img_tree_new();
    listen_to(&a, 2);
    CHECK(img_tree_add_directory(tree, index, root, &err) < 0 && err.code == EINTR);
    stop_listening();
    img_tree_free(tree);
    img_index_free(index);
    for (unsigned i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "f%u", i);
        CHECK(unlinkat(root, name, 0) == 0);
    }
    CHECK(close(root) == 0 && rmdir(base) == 0);
}

static void test_copy(void) {
    asked a;
    int from = memfd_create("from", 0), to = memfd_create("to", 0);
    const uint64_t size = 40 << 20;
    CHECK(ftruncate(from, (off_t)size) == 0);
    img_content content = {.size = size, .fd = from, .n_extents = 1};
    listen_to(&a, 3);
    CHECK(img_content_copy(&content, to, UINT64_MAX) == -EINTR && a.questions == 3);
    stop_listening();
    (void)close(from);
    (void)close(to);
}

/* ---- products ---- */

/* A path that fills a symlink's target. */
static void deep_path(char *path, size_t bytes) {
    for (size_t i = 0; i + 2 < bytes; i += 2)
        memcpy(path + i, "d/", 3);
}

/* A chain of symlinks of thousands of steps each, which each of many members goes through. */
static void test_links_times_members(void) {
    img_error err = {0};
    char target[IMG_SYMLINK_BYTES_MAX + 1], dir[64], name[16];
    img_builder b;
    img_builder_init(&b);
    put(&b, IMG_DIR, "", "d", "");
    for (size_t i = 0; i + 5 < sizeof target - 4; i += 5)
        memcpy(target + i, "../d/", 6);
    for (unsigned i = 0; i < 38; i++) {
        char link[IMG_SYMLINK_BYTES_MAX + 1];
        snprintf(name, sizeof name, "L%u", i);
        snprintf(link, sizeof link, "%.*s../L%u", 4080, target, i + 1);
        put(&b, IMG_SYMLINK, "", name, i < 37 ? link : "d");
    }
    for (unsigned i = 0; i < 1500; i++) { /* two directories in turn, because the last is cached */
        snprintf(dir, sizeof dir, "L0/x%u", i % 2);
        snprintf(name, sizeof name, "f%u", i);
        put(&b, IMG_FILE, dir, name, "");
    }
    img_index *index = take(&b);
    img_tree *tree = img_tree_new();
    tree->walk_steps = IMG_WALK_STEPS_MAX - 1000000; /* as if earlier layers took the others */
    CHECK(img_tree_add_layer(tree, index, -1, 0, NULL, false, &err) < 0 && err.code == E2BIG);
    CHECK(strstr(err.message, "steps, the limit"));
    CHECK(tree->walk_steps == IMG_WALK_STEPS_MAX + IMG_WALK_STEPS_EACH * index->head.n_entries + 1);
    img_tree_free(tree);
    img_index_free(index);
}

/* Symlinks in many directories have one long target, whose directories have no members. */
static void test_targets_times_members(void) {
    img_error err = {0};
    char target[IMG_SYMLINK_BYTES_MAX], dir[32];
    img_builder b;
    img_builder_init(&b);
    deep_path(target, sizeof target);
    for (unsigned i = 0; i < 200; i++) {
        snprintf(dir, sizeof dir, "p%u", i);
        put(&b, IMG_SYMLINK, dir, "s", target);
        snprintf(dir, sizeof dir, "p%u/s", i);
        put(&b, IMG_FILE, dir, "f", "");
    }
    img_index *index = take(&b);
    img_tree *tree = img_tree_new();
    tree->n_implied = IMG_IMPLIED_MAX - 20000;
    CHECK(img_tree_add_layer(tree, index, -1, 0, NULL, false, &err) < 0 && err.code == E2BIG);
    CHECK(strstr(err.message, "directories without a member"));
    CHECK(tree->n_implied == IMG_IMPLIED_MAX + IMG_IMPLIED_EACH * index->head.n_entries + 1);
    img_tree_free(tree);
    img_index_free(index);
}

/* A manifest may have one layer thousands of times. */
static void test_layers_times_members(void) {
    img_error err = {0};
    img_index index = {.head = {.n_entries = IMG_ENTRIES_MAX}};
    img_tree *tree = img_tree_new();
    for (unsigned i = 0; i < IMG_MERGED_MAX / IMG_ENTRIES_MAX; i++)
        CHECK(img_tree_count_members(tree, &index, &err) == 0);
    CHECK(img_tree_count_members(tree, &index, &err) < 0 && err.code == E2BIG);
    img_tree_free(tree);
}

/* Hard links in the root, whose directory takes no step, to a target that comes late. */
static void test_later_links_take_steps(void) {
    img_error err = {0};
    char name[16];
    img_builder b;
    img_builder_init(&b);
    for (unsigned i = 0; i < MEMBERS; i++) {
        snprintf(name, sizeof name, "l%u", i);
        put(&b, IMG_HARDLINK, "", name, "f");
    }
    put(&b, IMG_FILE, "", "f", "");
    img_index *index = take(&b);
    img_tree *tree = img_tree_new();
    CHECK(img_tree_add_layer(tree, index, -1, 0, NULL, false, &err) == 0);
    CHECK(tree->walk_steps >= MEMBERS);
    img_tree_free(tree);
    img_index_free(index);
}

/* Many whiteouts in a directory behind a long symlink do not walk, or store its path, each. */
static void test_links_times_whiteouts(void) {
    img_error err = {0};
    char target[IMG_SYMLINK_BYTES_MAX], name[16];
    img_builder b;
    img_builder_init(&b);
    deep_path(target, sizeof target);
    put(&b, IMG_SYMLINK, "", "s", target);
    for (unsigned i = 0; i < MEMBERS; i++) {
        snprintf(name, sizeof name, ".wh.%u", i);
        put(&b, IMG_FILE, "s", name, "");
    }
    img_index *index = take(&b);
    img_tree *tree = img_tree_new();
    CHECK(img_tree_add_layer(tree, index, -1, 0, NULL, false, &err) == 0);
    CHECK(tree->walk_steps < 2 * sizeof target && img_tree_check(tree, &err) == 0);
    img_tree_free(tree);
    img_index_free(index);
}

int main(void) {
    test_scan();
    test_merge();
    test_directory();
    test_copy();
    test_links_times_members();
    test_targets_times_members();
    test_layers_times_members();
    test_links_times_whiteouts();
    test_later_links_take_steps();
    return 0;
}
