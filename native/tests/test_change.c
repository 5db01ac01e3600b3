/* Tests changes of an upper in a temporary directory: what each does to the disk and to the tree,
 * what it declines, descriptors, orphans; then all changes from several threads at once. */
#define _GNU_SOURCE
#include "check.h"
#include "tree/tree_check.h"
#include "tree/xattrs.h"
#include "upper/changeattr.h"
#include "upper/changedata.h"
#include "upper/changemake.h"
#include "upper/changename.h"
#include "upper/changexattr.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

static char base[] = "/tmp/imgmount-change-XXXXXX";
static img_tree *tree;
static img_upper *upper;
static const img_caller somebody = {.uid = 5, .gid = 987654321};
static img_upper_options options;
static img_maker us;

static void start(unsigned max_fds) {
    memcpy(base + sizeof base - 7, "XXXXXX", 6);
    CHECK(mkdtemp(base));
    int fd = open(base, O_RDONLY | O_DIRECTORY);
    CHECK(fd >= 0 && mkdirat(fd, "upper", 0755) == 0 && mkdirat(fd, "work", 0755) == 0);
    tree = img_tree_new();
    options = (img_upper_options){.upper_fd = openat(fd, "upper", O_RDONLY | O_DIRECTORY),
                                  .work_fd = openat(fd, "work", O_RDONLY | O_DIRECTORY),
                                  .owners = true,
                                  .max_fds = max_fds};
    (void)close(fd);
    img_node_at(tree, IMG_ROOT)->flags |= IMG_NODE_UPPER;
    upper = img_upper_new(tree, &options);
    CHECK(tree && upper);
    us = (img_maker){.uid = geteuid(), .gid = getegid()};
}

static void finish(void) {
    img_error err = {0};
    if (img_tree_check(tree, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.message);
        abort();
    }
    img_upper_free(upper);
    img_tree_free(tree);
    (void)close(options.upper_fd);
    (void)close(options.work_fd);
    char command[64];
    (void)snprintf(command, sizeof command, "rm -rf %s", base); /* paths of any length */
    CHECK(system(command) == 0);
}

/* ---- short forms -------------------------------------------------------------------------- */

static int make_as(img_id parent, const char *name, uint32_t mode, img_maker who, img_id *out) {
    img_new what = {.mode = mode, .target = "there", .target_len = 5};
    what.rdev = S_ISBLK(mode) ? 0x801 : 0;
    img_upper_lock(upper);
    int result = img_make(upper, parent, name, strlen(name), &what, &who, out);
    img_upper_unlock(upper);
    return result;
}

static img_id make(img_id parent, const char *name, uint32_t mode) {
    img_id id = 0;
    CHECK(make_as(parent, name, mode, us, &id) == 0 && id);
    return id;
}

static int take(int (*how)(img_upper *, img_id, const char *, size_t), img_id parent,
                const char *name) {
    img_upper_lock(upper);
    int result = how(upper, parent, name, strlen(name));
    img_upper_unlock(upper);
    return result;
}

static int link_to(img_id id, img_id parent, const char *name) {
    img_upper_lock(upper);
    int result = img_link(upper, id, parent, name, strlen(name));
    img_upper_unlock(upper);
    return result;
}

static int rename_as(img_id from, const char *name, img_id to, const char *new_name,
                     unsigned flags) {
    img_upper_lock(upper);
    int result = img_rename(upper, from, name, strlen(name), to, new_name, strlen(new_name), flags);
    img_upper_unlock(upper);
    return result;
}

static int set(img_id id, img_set what) {
    img_upper_lock(upper);
    int result = img_setattr(upper, id, &what);
    img_upper_unlock(upper);
    return result;
}

/* A node that is as one of a layer. */
static img_id below(img_id parent, const char *name, uint32_t mode) {
    img_attributes a = {.mode = mode, .mtime_s = 5};
    img_id id = img_tree_new_node(tree, &a, 0);
    CHECK(id && img_tree_add_name(tree, parent, name, strlen(name), id, IMG_NAME_LOWER) == 0);
    return id;
}

static const img_node *node_of(img_id id) {
    return img_tree_node(tree, id);
}

static img_id named(img_id parent, const char *name) {
    return img_tree_lookup(tree, parent, name, strlen(name));
}

static void known(img_id id) {
    img_tree_remember(tree, id, 1);
}

static struct stat on_disk(const char *path) {
    struct stat st = {0};
    (void)fstatat(options.upper_fd, path, &st, AT_SYMLINK_NOFOLLOW);
    return st; /* st_mode 0: there is no object */
}

static bool whiteout(const char *path) {
    struct stat st = on_disk(path);
    return S_ISCHR(st.st_mode) && st.st_rdev == 0;
}

static bool orphaned(img_id id) {
    char name[IMG_ORPHAN_BYTES];
    img_upper_orphan(id, name);
    return faccessat(options.work_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static uint32_t entries_of_work(void) {
    struct stat st;
    uint32_t n = 0;
    for (img_id id = 1; id < 64; id++)
        n += orphaned(id);
    for (unsigned i = 0; i < 64; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "c%u", i);
        n += fstatat(options.work_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
    }
    return n;
}

/* ---- descriptors -------------------------------------------------------------------------- */

static int some_fd(void) {
    int fd = memfd_create("some", MFD_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static bool is_open(int fd) {
    return fcntl(fd, F_GETFD) >= 0;
}

static void test_descriptors(void) {
    img_fds *fds = img_fds_new(16);
    CHECK(img_fds_pin(fds, 7) == -1);
    int seven = some_fd(), late = some_fd();
    CHECK(img_fds_put(fds, 7, seven, true) == seven);
    CHECK(img_fds_put(fds, 7, late, true) == seven); /* two threads opened it at once */
    img_fds_close_dropped(fds);
    CHECK(!is_open(late) && is_open(seven));
    img_fds_drop(fds, 7);
    img_fds_close_dropped(fds);
    CHECK(is_open(seven) && img_fds_pin(fds, 7) == -1); /* pinned twice */
    int again = some_fd();
    CHECK(img_fds_put(fds, 7, again, true) == again);
    img_fds_unpin(fds, 7);
    img_fds_unpin(fds, 7);
    CHECK(is_open(seven));
    img_fds_unpin(fds, 7);
    CHECK(!is_open(seven) && img_fds_pin(fds, 7) == again);
    for (uint32_t id = 100; id < 115; id++)
        CHECK(img_fds_put(fds, id, some_fd(), false) >= 0);
    CHECK(img_fds_pin(fds, 100) >= 0); /* 16: full, 7 and 100 are pinned */
    int more = some_fd();
    CHECK(img_fds_put(fds, 200, more, false) == more);
    CHECK(img_fds_pin(fds, 101) == -1 && img_fds_pin(fds, 102) >= 0);
    CHECK(img_fds_shrink(fds) && img_fds_pin(fds, 103) == -1 && img_fds_pin(fds, 100) >= 0);
    for (uint32_t id = 300; id < 320; id++) {
        int fd = some_fd(), kept = img_fds_put(fds, id, fd, true);
        CHECK(kept == fd || kept == -EMFILE);
    }
    CHECK(img_fds_put(fds, 400, some_fd(), true) == -EMFILE && !img_fds_shrink(fds));
    img_fds_free(fds);
    CHECK(!is_open(again) && !is_open(more));
    fds = img_fds_new(16);
    int one = some_fd();
    CHECK(img_fds_put(fds, 1, one, false) == one && img_fds_pin_new(fds, 1, 60000) == one);
    img_fds_unpin(fds, 1);
    CHECK(img_fds_pin_new(fds, 1, -1) == -1 && img_fds_pin(fds, 1) == -1); /* too old: dropped */
    img_fds_close_dropped(fds);
    CHECK(!is_open(one));
    img_fds_free(fds);
}

static void test_the_process_limit_is_obeyed(void) {
    struct rlimit before, small;
    CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
    small = (struct rlimit){256, before.rlim_max};
    CHECK(setrlimit(RLIMIT_NOFILE, &small) == 0);
    start(4096);
    char name[16];
    for (int i = 0; i < 300; i++) {
        (void)snprintf(name, sizeof name, "f%d", i);
        img_id id = make(IMG_ROOT, name, S_IFREG | 0644);
        CHECK(img_write(upper, id, 0, name, strlen(name), false, NULL) == (ssize_t)strlen(name));
    }
    for (int i = 0; i < 300; i++) {
        (void)snprintf(name, sizeof name, "f%d", i);
        img_id id = named(IMG_ROOT, name);
        char data[16] = "";
        int fd = img_upper_pin(upper, id);
        CHECK(fd >= 0 && fd < 128 && pread(fd, data, sizeof data, 0) > 0 && !strcmp(data, name));
        img_upper_unpin(upper, id);
    }
    finish();
    CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
}

static void test_paths_of_any_length(void) {
    start(64);
    img_id here = IMG_ROOT, top = 0;
    char name[200];
    memset(name, 'd', sizeof name - 1);
    name[sizeof name - 1] = 0;
    for (int i = 0; i < 60; i++) { /* 12,000 bytes */
        here = make(here, name, S_IFDIR | 0755);
        top = top ? top : here;
    }
    img_id file = make(here, "file", S_IFREG | 0644);
    for (int i = 0; i < 2; i++) {
        for (img_id id = 1; id < 70; id++)
            img_upper_drop(upper, id);
        CHECK(img_write(upper, file, 0, "deep", 4, false, NULL) == 4);
        CHECK(rename_as(IMG_ROOT, i ? "e" : name, IMG_ROOT, i ? "f" : "e", 0) == 0);
    }
    CHECK(img_upper_pin(upper, 4000) == -ESTALE);
    CHECK(img_tree_parent(tree, top) == IMG_ROOT && on_disk("f").st_mode);
    finish();
}

static void test_the_depth_is_limited(void) {
    start(64);
    img_id here = IMG_ROOT, half = 0;
    for (unsigned i = 0; i < IMG_UPPER_DEPTH_MAX; i++) {
        here = make(here, "d", S_IFDIR | 0755);
        half = i == IMG_UPPER_DEPTH_MAX / 2 ? here : half;
    }
    img_id made, o = make(IMG_ROOT, "o", S_IFDIR | 0755);
    CHECK(make_as(here, "e", S_IFDIR | 0755, us, &made) == -ENAMETOOLONG);
    (void)make(o, "o", S_IFDIR | 0755);
    CHECK(rename_as(o, "o", here, "x", 0) == -ENAMETOOLONG);
    CHECK(rename_as(IMG_ROOT, "o", half, "o", 0) == 0); /* a subtree is not measured */
    CHECK(rename_as(half, "d", IMG_ROOT, "p", 0) == 0 && make(here, "e", S_IFDIR | 0755));
    finish();
}

static void test_a_slot_used_again_has_its_own_descriptor(void) {
    start(64);
    img_id first = make(IMG_ROOT, "a", S_IFREG | 0644);
    CHECK(img_write(upper, first, 0, "first", 5, false, NULL) == 5);
    int fd = img_upper_pin(upper, first);
    CHECK(take(img_unlink, IMG_ROOT, "a") == 0 && !node_of(first));
    img_id second = make(IMG_ROOT, "b", S_IFREG | 0644);
    CHECK(second == first && is_open(fd)); /* still pinned */
    CHECK(node_of(second)->size == 0 && img_write(upper, second, 0, "2", 1, false, NULL) == 1);
    char data[8] = "";
    CHECK(pread(fd, data, 8, 0) == 5);
    img_upper_unpin(upper, first);
    CHECK(img_upper_pin(upper, second) >= 0 && on_disk("b").st_size == 1);
    img_upper_unpin(upper, second);
    finish();
}

/* ---- making ------------------------------------------------------------------------------- */

static void test_every_kind_is_made(void) {
    start(64);
    static const uint32_t kinds[] = {S_IFREG | 0640, S_IFDIR | 0711,  S_IFLNK | 0777,
                                     S_IFIFO | 0600, S_IFSOCK | 0755, S_IFBLK | 0660};
    char name[] = "k0";
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++, name[1]++) {
        if (S_ISBLK(kinds[i]) && geteuid() != 0)
            continue;
        img_id id = make(IMG_ROOT, name, kinds[i]);
        struct stat st = on_disk(name);
        const img_node *node = node_of(id);
        CHECK(st.st_mode == kinds[i] && node->mode == kinds[i] && node->flags & IMG_NODE_UPPER);
        CHECK(node->mtime_s == st.st_mtim.tv_sec && node->uid == st.st_uid);
        CHECK(!S_ISBLK(kinds[i]) || node->rdev == 0x801);
        CHECK(!S_ISLNK(kinds[i]) || (node->size == 5 && !memcmp(node->u.target, "there", 5)));
    }
    struct stat root = on_disk(".");
    CHECK(node_of(IMG_ROOT)->mtime_s == root.st_mtim.tv_sec);
    CHECK(node_of(IMG_ROOT)->mtime_ns == (uint32_t)root.st_mtim.tv_nsec);
    CHECK(entries_of_work() == 0);
    finish();
}

static void test_what_cannot_be_made(void) {
    start(64);
    img_id id, lower = below(IMG_ROOT, "lower", S_IFDIR | 0755);
    char longest[257];
    memset(longest, 'n', 256);
    longest[256] = 0;
    CHECK(make_as(IMG_ROOT, "lower", S_IFREG | 0644, us, &id) == -EEXIST);
    CHECK(make_as(IMG_ROOT, longest, S_IFREG | 0644, us, &id) == -ENAMETOOLONG);
    CHECK(make_as(IMG_ROOT, longest + 1, S_IFREG | 0644, us, &id) == 0);
    CHECK(make_as(IMG_ROOT, "a/b", S_IFREG | 0644, us, &id) == -EINVAL);
    CHECK(make_as(IMG_ROOT, "white", S_IFCHR, us, &id) == IMG_DECLINED);
    CHECK(make_as(lower, "x", S_IFREG | 0644, us, &id) == IMG_DECLINED);
    CHECK(make_as(4000, "x", S_IFREG | 0644, us, &id) == -ESTALE);
    img_id dir = make(IMG_ROOT, "dir", S_IFDIR | 0755);
    known(dir);
    CHECK(take(img_rmdir, IMG_ROOT, "dir") == 0);
    CHECK(make_as(dir, "x", S_IFREG | 0644, us, &id) == -ENOENT);
    img_forget(tree, upper, dir, 1);
    dir = make(IMG_ROOT, "acl", S_IFDIR | 0755);
    img_node *node = img_node_at(tree, dir);
    CHECK(img_tree_set_xattr(tree, node, "system.posix_acl_default", 24, "x", 1) == 0);
    CHECK(make_as(dir, "x", S_IFREG | 0644, us, &id) == IMG_DECLINED);
    CHECK(make_as(dir, "x", S_IFLNK | 0777, us, &id) == 0);
    upper->options.read_only = true;
    CHECK(make_as(IMG_ROOT, "x", S_IFREG | 0644, us, &id) == -EROFS);
    CHECK(take(img_unlink, IMG_ROOT, "lower") == -EROFS);
    CHECK(img_write(upper, id, 0, "", 0, false, NULL) == -EROFS);
    CHECK(set(id, (img_set){.what = IMG_SET_MODE}) == -EROFS);
    finish();
}

/* Makes symlinks with the longest target until there is no more room: their number. */
static unsigned fill(img_id dir, int *last) {
    char target[4095], name[16];
    img_id id;
    memset(target, 't', sizeof target);
    img_new link = {.mode = S_IFLNK | 0777, .target = target, .target_len = sizeof target};
    for (unsigned n = 0;; n++) {
        CHECK(n < 100);
        int len = snprintf(name, sizeof name, "s%u", n);
        *last = img_make(upper, dir, name, (size_t)len, &link, &us, &id);
        if (*last < 0)
            return n;
    }
}

static int set_xattr(img_id id, const char *value, size_t len) {
    bool copy_up;
    return img_set_xattr(upper, id, "user.a", 6, value, len, 0, false, &copy_up);
}

/* What users make the daemon keep in memory is limited, at either door and before the upper is
 * changed; what needs no room goes on. */
static void test_values_are_limited(void) {
    start(64);
    int last;
    img_id file = make(IMG_ROOT, "file", S_IFREG | 0644), lower = below(IMG_ROOT, "lower", 0100644);
    img_id dir = make(IMG_ROOT, "dir", S_IFDIR | 0755), id;
    static char value[4096];
    img_upper_lock(upper);
    CHECK(set_xattr(file, value, 2000) == 0);
    const uint64_t others = IMG_VALUES_FIRST - 100000;
    tree->value_bytes += others;
    unsigned made = fill(dir, &last); /* each target takes 4095 bytes, and gives 1024 */
    CHECK(last == -ENOSPC && made > 30 && made < 36);
    CHECK(tree->value_bytes <= IMG_VALUES_FIRST + tree->n_nodes * IMG_VALUES_EACH);
    CHECK(set_xattr(lower, value, 100) == IMG_DECLINED);
    CHECK(set_xattr(lower, value, sizeof value) == -ENOSPC);
    CHECK(set_xattr(file, value, 2000) == 0 && set_xattr(file, NULL, 0) == 0);
    tree->n_dentries += IMG_NAMES_MAX;
    CHECK(img_make_nameless(upper, dir, 0644, &us, &id) == -ENOSPC);
    img_upper_unlock(upper);
    CHECK(make_as(dir, "f", S_IFREG | 0644, us, &id) == -ENOSPC);
    CHECK(link_to(file, dir, "l") == -ENOSPC);
    tree->n_dentries -= IMG_NAMES_MAX;
    CHECK(make_as(dir, "short", S_IFLNK | 0777, us, &id) == 0);
    tree->value_bytes -= others;
    finish();
}

static void test_owner_group_and_umask(void) {
    start(64);
    img_id id;
    img_maker who = us;
    who.umask = 027;
    CHECK(make_as(IMG_ROOT, "masked", S_IFREG | 0666, who, &id) == 0);
    CHECK(node_of(id)->mode == (S_IFREG | 0640) && on_disk("masked").st_mode == node_of(id)->mode);
    if (geteuid() == 0) {
        who = (img_maker){.uid = 1234, .gid = 5678};
        CHECK(make_as(IMG_ROOT, "theirs", S_IFREG | 04755, who, &id) == 0);
        struct stat st = on_disk("theirs");
        CHECK(st.st_uid == 1234 && st.st_gid == 5678 && st.st_mode == (S_IFREG | 04755));
        CHECK(node_of(id)->uid == 1234 && node_of(id)->mode == st.st_mode);
        CHECK(make_as(IMG_ROOT, "link", S_IFLNK | 0777, who, &id) == 0);
        CHECK(on_disk("link").st_uid == 1234);
        img_id team = make(IMG_ROOT, "team", S_IFDIR | 0755);
        CHECK(set(team, (img_set){.what = IMG_SET_GID, .gid = 77}) == 0);
        CHECK(set(team, (img_set){.what = IMG_SET_MODE, .mode = 02775}) == 0);
        CHECK(node_of(make(team, "f", S_IFREG | 0644))->gid == 77);
        CHECK(node_of(make(team, "d", S_IFDIR | 0755))->mode == (S_IFDIR | 02755));
        CHECK(make_as(team, "g", S_IFDIR | 0755, who, &id) == 0);
        CHECK(on_disk("team/g").st_gid == 77 && on_disk("team/g").st_mode == (S_IFDIR | 02755));
    }
    upper->options.owners = false;
    who = (img_maker){.uid = us.uid + 1, .gid = us.gid};
    CHECK(make_as(IMG_ROOT, "n", S_IFREG | 0644, who, &id) == IMG_DECLINED);
    CHECK(make_as(IMG_ROOT, "n", S_IFREG | 0444, us, &id) == IMG_DECLINED);
    CHECK(make_as(IMG_ROOT, "n", S_IFREG | 0644, us, &id) == 0);
    CHECK(set(id, (img_set){.what = IMG_SET_MODE}) == IMG_DECLINED);
    CHECK(entries_of_work() == 0);
    finish();
}

/* ---- removing ----------------------------------------------------------------------------- */

static void test_unlink(void) {
    start(64);
    img_id lower = below(IMG_ROOT, "lower", S_IFREG | 0644), dir = make(IMG_ROOT, "d", S_IFDIR);
    CHECK(take(img_unlink, IMG_ROOT, "none") == -ENOENT);
    CHECK(take(img_unlink, IMG_ROOT, "d") == -EISDIR);
    known(lower);
    CHECK(take(img_unlink, IMG_ROOT, "lower") == 0 && whiteout("lower"));
    CHECK(!named(IMG_ROOT, "lower") && node_of(lower) && !orphaned(lower));
    img_forget(tree, upper, lower, 1);
    CHECK(!node_of(lower));

    img_id again = make(IMG_ROOT, "lower", S_IFREG | 0644); /* over the whiteout */
    CHECK(S_ISREG(on_disk("lower").st_mode));
    CHECK(take(img_unlink, IMG_ROOT, "lower") == 0 && whiteout("lower") && !node_of(again));
    again = make(IMG_ROOT, "lower", S_IFREG | 0644);
    known(again);
    CHECK(img_write(upper, again, 0, "kept", 4, false, NULL) == 4);
    img_upper_drop(upper, again);
    CHECK(take(img_unlink, IMG_ROOT, "lower") == 0 && whiteout("lower") && orphaned(again));
    CHECK(img_write(upper, again, 4, "!", 1, false, NULL) == 1 && node_of(again)->size == 5);
    CHECK(set(again, (img_set){.what = IMG_SET_SIZE, .size = 2}) == 0);
    CHECK(link_to(again, dir, "back") == 0 && !orphaned(again) && on_disk("d/back").st_size == 2);
    CHECK(link_to(again, IMG_ROOT, "lower") == 0 && on_disk("lower").st_nlink == 2);
    CHECK(take(img_unlink, dir, "back") == 0 && !orphaned(again));
    CHECK(take(img_unlink, IMG_ROOT, "lower") == 0 && orphaned(again));
    img_forget(tree, upper, again, 1);
    CHECK(!orphaned(again) && !node_of(again) && entries_of_work() == 0);
    finish();
}

static void test_rmdir(void) {
    start(64);
    img_id dir = make(IMG_ROOT, "d", S_IFDIR | 0755), file = make(dir, "f", S_IFREG | 0644);
    (void)below(IMG_ROOT, "lower", S_IFDIR | 0755);
    CHECK(take(img_rmdir, IMG_ROOT, "none") == -ENOENT);
    CHECK(take(img_rmdir, dir, "f") == -ENOTDIR);
    CHECK(take(img_rmdir, IMG_ROOT, "d") == -ENOTEMPTY);
    CHECK(take(img_rmdir, IMG_ROOT, "lower") == IMG_DECLINED);
    known(dir);
    known(file);
    CHECK(take(img_unlink, dir, "f") == 0 && take(img_rmdir, IMG_ROOT, "d") == 0);
    CHECK(!on_disk("d").st_mode && img_sync(upper, dir, false) == 0);
    CHECK(set(dir, (img_set){.what = IMG_SET_MODE, .mode = 0700}) == 0);
    CHECK(node_of(dir)->mode == (S_IFDIR | 0700));
    img_forget(tree, upper, file, 1);
    img_forget(tree, upper, dir, 1);
    CHECK(tree->n_nodes == 2 && entries_of_work() == 0);
    /* whiteouts that are in the upper, but not in the tree */
    (void)make(IMG_ROOT, "d", S_IFDIR | 0755);
    CHECK(mknodat(options.upper_fd, "d/x", S_IFCHR, 0) == 0);
    CHECK(take(img_rmdir, IMG_ROOT, "d") == IMG_DECLINED && named(IMG_ROOT, "d"));
    finish();
}

/* ---- rename ------------------------------------------------------------------------------- */

static void test_rename(void) {
    start(64);
    img_id a = make(IMG_ROOT, "a", S_IFREG | 0644), d = make(IMG_ROOT, "d", S_IFDIR | 0755);
    img_id lower = below(IMG_ROOT, "lower", S_IFREG | 0644);
    img_id lower_dir = below(IMG_ROOT, "ld", S_IFDIR | 0755);
    CHECK(rename_as(IMG_ROOT, "none", d, "x", 0) == -ENOENT);
    CHECK(rename_as(IMG_ROOT, "a", IMG_ROOT, "d", 0) == -EISDIR);
    CHECK(rename_as(IMG_ROOT, "d", IMG_ROOT, "a", 0) == -ENOTDIR);
    CHECK(rename_as(IMG_ROOT, "a", IMG_ROOT, "d", RENAME_NOREPLACE) == -EEXIST);
    CHECK(rename_as(IMG_ROOT, "a", d, "x", RENAME_EXCHANGE) == IMG_DECLINED);
    CHECK(rename_as(IMG_ROOT, "lower", d, "x", 0) == IMG_DECLINED);
    CHECK(rename_as(IMG_ROOT, "a", lower_dir, "x", 0) == IMG_DECLINED);
    CHECK(rename_as(IMG_ROOT, "d", IMG_ROOT, "ld", 0) == IMG_DECLINED);
    CHECK(rename_as(IMG_ROOT, "ld", IMG_ROOT, "x", 0) == IMG_DECLINED);
    img_id e = make(IMG_ROOT, "e", S_IFDIR | 0755);
    CHECK(rename_as(IMG_ROOT, "d", IMG_ROOT, "e", 0) == IMG_DECLINED); /* replaces a directory */
    CHECK(rename_as(IMG_ROOT, "a", d, "b", RENAME_NOREPLACE) == 0 && named(d, "b") == a);
    CHECK(on_disk("d/b").st_mode && !on_disk("a").st_mode);
    CHECK(rename_as(IMG_ROOT, "d", e, "d", 0) == 0 && on_disk("e/d/b").st_mode);
    CHECK(rename_as(IMG_ROOT, "e", d, "e", 0) == -EINVAL); /* into itself */
    CHECK(img_write(upper, a, 0, "1", 1, false, NULL) == 1);

    known(lower); /* over a name of the layers, and back */
    CHECK(rename_as(d, "b", IMG_ROOT, "lower", 0) == 0 && named(IMG_ROOT, "lower") == a);
    CHECK(node_of(lower) && !orphaned(lower));
    CHECK(rename_as(IMG_ROOT, "lower", IMG_ROOT, "out", 0) == 0 && whiteout("lower"));
    CHECK(rename_as(IMG_ROOT, "out", IMG_ROOT, "lower", RENAME_NOREPLACE) == 0);
    CHECK(on_disk("lower").st_size == 1);
    img_forget(tree, upper, lower, 1);

    img_id b = make(d, "b", S_IFREG | 0644); /* over a file with lookups */
    known(a);
    known(b);
    CHECK(rename_as(d, "b", IMG_ROOT, "lower", 0) == 0 && orphaned(a));
    char data[4];
    int fd = img_upper_pin(upper, a);
    CHECK(fd >= 0 && pread(fd, data, 4, 0) == 1);
    img_upper_unpin(upper, a);
    img_forget(tree, upper, a, 1);
    CHECK(link_to(b, d, "b2") == 0 && rename_as(d, "b2", IMG_ROOT, "lower", 0) == 0);
    CHECK(named(d, "b2") == b && node_of(b)->nlink == 2); /* names of one file */
    CHECK(rename_as(d, "b2", IMG_ROOT, "lower", RENAME_NOREPLACE) == -EEXIST);
    CHECK(link_to(d, IMG_ROOT, "dir") == -EPERM && link_to(b, d, "b2") == -EEXIST);
    CHECK(link_to(lower_dir, d, "x") == -EPERM && entries_of_work() == 0);
    finish();
}

/* ---- attributes and data ------------------------------------------------------------------ */

static void test_setattr(void) {
    start(64);
    img_id lower = below(IMG_ROOT, "lower", S_IFREG | 0644),
           f = make(IMG_ROOT, "f", S_IFREG | 0644);
    img_set same = {.what = IMG_SET_MTIME | IMG_SET_CTIME, .mtime_s = 5};
    CHECK(set(lower, same) == 0);
    same.mtime_ns = 1;
    CHECK(set(lower, same) == IMG_DECLINED && set(f, same) == 0);
    CHECK(on_disk("f").st_mtim.tv_sec == 5 && node_of(f)->mtime_ns == 1);
    CHECK(set(f, (img_set){.what = IMG_SET_MTIME_NOW | IMG_SET_ATIME, .atime_s = 9}) == 0);
    CHECK(node_of(f)->mtime_s > 5 && node_of(f)->atime_s == 9);
    CHECK(set(IMG_ROOT, (img_set){.what = IMG_SET_SIZE}) == -EINVAL);
    CHECK(set(f, (img_set){.what = IMG_SET_SIZE, .size = 1 << 20}) == 0);
    CHECK(on_disk("f").st_size == 1 << 20 && node_of(f)->size == 1 << 20);
    CHECK(set(f, (img_set){.what = IMG_SET_SIZE, .size = UINT64_MAX}) == -EFBIG);
    CHECK(node_of(f)->size == 1 << 20);

    CHECK(set(f, (img_set){.what = IMG_SET_MODE, .mode = 06755}) == 0);
    CHECK(set(f, (img_set){.what = IMG_SET_SIZE, .size = 3}) == 0);
    CHECK(node_of(f)->mode == (S_IFREG | 06755));
    CHECK(set(f, (img_set){.what = IMG_SET_SIZE | IMG_KILL_SUIDGID, .size = 3}) == 0);
    CHECK(node_of(f)->mode == (S_IFREG | 0755) && on_disk("f").st_mode == node_of(f)->mode);
    CHECK(set(f, (img_set){.what = IMG_SET_MODE, .mode = 06745}) == 0);
    const img_caller member = {.uid = 5, .gid = node_of(f)->gid};
    CHECK(img_write(upper, f, 0, "x", 1, false, &member) == 1); /* set-gid without x: locking */
    CHECK(node_of(f)->mode == (S_IFREG | 02745) && on_disk("f").st_mode == node_of(f)->mode);
    CHECK(img_write(upper, f, 0, "x", 1, false, &somebody) == 1);
    CHECK(node_of(f)->mode == (S_IFREG | 0745) && on_disk("f").st_mode == node_of(f)->mode);

    img_id link = make(IMG_ROOT, "l", S_IFLNK | 0777);
    CHECK(set(link, (img_set){.what = IMG_SET_MTIME, .mtime_s = 7}) == 0);
    CHECK(on_disk("l").st_mtim.tv_sec == 7);
    if (geteuid() == 0) {
        CHECK(set(link, (img_set){.what = IMG_SET_UID, .uid = 5}) == 0);
        CHECK(on_disk("l").st_uid == 5 && on_disk("f").st_uid == 0);
        static const char capability[20] = {1, 0, 0, 2, 0, 4};
        int fd = openat(options.upper_fd, "f", O_RDWR);
        img_node *node = img_node_at(tree, f);
        for (int i = 0; i < 3; i++) {
            CHECK(fsetxattr(fd, "security.capability", capability, 20, 0) == 0);
            CHECK(img_tree_set_xattr(tree, node, "security.capability", 19, capability, 20) == 0);
            if (i == 0)
                CHECK(img_write(upper, f, 0, "x", 1, false, NULL) == 1);
            else
                CHECK(set(f, (img_set){.what = i == 1 ? IMG_SET_SIZE : IMG_SET_UID,
                                       .size = node->size}) == 0);
            CHECK(!node->xattr_bytes && fgetxattr(fd, "security.capability", NULL, 0) < 0);
        }
        CHECK(set(f, (img_set){.what = IMG_SET_MODE, .mode = 04755}) == 0);
        CHECK(set(f, (img_set){.what = IMG_SET_GID, .gid = 9}) == 0);
        CHECK(node->mode == (S_IFREG | 0755) && node->gid == 9);
        (void)close(fd);
    }
    known(lower);
    CHECK(take(img_unlink, IMG_ROOT, "lower") == 0);
    CHECK(set(lower, same) == 0 && node_of(lower)->mtime_ns == 1 && !orphaned(lower));
    CHECK(set(lower, (img_set){.what = IMG_SET_SIZE}) == IMG_DECLINED);
    img_forget(tree, upper, lower, 1);
    CHECK(entries_of_work() == 0);
    finish();
}

static void test_the_kernel_owns_the_mtime_of_what_it_writes(void) {
    start(64);
    img_id f = make(IMG_ROOT, "f", S_IFREG | 0644);
    CHECK(set(f, (img_set){.what = IMG_SET_MTIME, .mtime_s = 5, .mtime_ns = 6}) == 0);
    CHECK(img_write(upper, f, 0, "data", 4, false, NULL) == 4);
    CHECK(img_allocate(upper, f, 0, 0, 8192, NULL) == 0 && node_of(f)->size == 8192);
    CHECK(img_allocate(upper, f, FALLOC_FL_KEEP_SIZE, 8192, 8192, NULL) == 0);
    CHECK(node_of(f)->size == 8192 && node_of(f)->blocks == (uint64_t)on_disk("f").st_blocks);
    CHECK(set(f, (img_set){.what = IMG_SET_MODE, .mode = 0600}) == 0);
    CHECK(node_of(f)->mtime_s == 5 && node_of(f)->mtime_ns == 6);
    CHECK(on_disk("f").st_mtim.tv_sec == 5 && on_disk("f").st_mtim.tv_nsec == 6);
    CHECK(node_of(f)->ctime_s == on_disk("f").st_ctim.tv_sec);
    CHECK(img_sync(upper, f, true) == 0 && img_sync(upper, IMG_ROOT, false) == 0);
    finish();
}

static void test_copies(void) {
    start(64);
    int archive = memfd_create("archive", MFD_CLOEXEC);
    CHECK(pwrite(archive, "0123456789", 10, 100) == 10);
    tree->layers = calloc(1, sizeof *tree->layers);
    static const img_index tar; /* only read: that it is not of a directory */
    tree->layers[0] = (img_layer){.index = &tar, .fd = archive, .base = 50};
    tree->n_layers = 1;
    img_id lower = below(IMG_ROOT, "lower", S_IFREG | 0644),
           f = make(IMG_ROOT, "f", S_IFREG | 0644);
    img_node_at(tree, lower)->size = 10;
    img_node_at(tree, lower)->u.archive_data = 50;
    CHECK(img_write(upper, lower, 0, "x", 1, false, NULL) == IMG_WRITE_DECLINED);
    CHECK(img_allocate(upper, lower, 0, 0, 1, &somebody) == IMG_DECLINED);
    CHECK(img_copy_range(upper, f, 0, lower, 0, 1, NULL) == IMG_WRITE_DECLINED);
    CHECK(img_copy_range(upper, lower, 3, f, 5, 100, NULL) == 7 && node_of(f)->size == 12);
    CHECK(img_copy_range(upper, f, 5, f, 0, 4, NULL) == 4);
    char data[16] = "";
    int fd = img_upper_pin(upper, f);
    CHECK(pread(fd, data, 16, 0) == 12 && !memcmp(data, "3456\0003456789", 12));
    img_upper_unpin(upper, f);
    CHECK(img_copy_range(upper, lower, 10, f, 0, 4, NULL) == 0);
    CHECK(ftruncate(archive, 105) == 0); /* an archive that shrinks */
    ssize_t cut = img_copy_range(upper, lower, 0, f, 0, 10, NULL);
    CHECK(cut == 5 || cut == -EIO);
    CHECK(img_copy_range(upper, lower, 6, f, 0, 4, NULL) == -EIO);
    CHECK(img_write(upper, f, INT64_MAX, "xy", 2, false, NULL) == -EFBIG);
    (void)close(archive);
    finish();
}

/* ---- threads ------------------------------------------------------------------------------ */

enum { FILES = 12, ROUNDS = 1500 };
static atomic_bool finished;
static atomic_uint written;

/* Changes names under `change`, as the fast path and Python do. */
static void *changer(void *argument) {
    unsigned state = (unsigned)(uintptr_t)argument * 2654435761u | 1;
    for (int i = 0; i < ROUNDS; i++) {
        state ^= state << 13, state ^= state >> 17, state ^= state << 5;
        char name[8], other[8];
        (void)snprintf(name, sizeof name, "%u", state % FILES);
        (void)snprintf(other, sizeof other, "%u", (state >> 8) % FILES);
        while (!img_upper_trylock(upper, 5))
            continue;
        img_id id = 0;
        img_new what = {.mode = (state >> 16) % 5 ? S_IFREG | 0644 : S_IFDIR | 0755};
        switch ((state >> 20) % 5) {
        case 0:
            (void)img_unlink(upper, IMG_ROOT, name, strlen(name));
            (void)img_rmdir(upper, IMG_ROOT, name, strlen(name));
            break;
        case 1:
            (void)img_rename(upper, IMG_ROOT, name, strlen(name), IMG_ROOT, other, strlen(other),
                             0);
            break;
        case 2:
            (void)pthread_rwlock_rdlock(&tree->lock);
            id = named(IMG_ROOT, name);
            if (id)
                img_tree_remember(tree, id, 1);
            (void)pthread_rwlock_unlock(&tree->lock);
            if (id)
                (void)img_link(upper, id, IMG_ROOT, other, strlen(other));
            break;
        default:
            if (img_make(upper, IMG_ROOT, name, strlen(name), &what, &us, &id) == 0)
                known(id);
        }
        img_upper_unlock(upper);
        if (id)
            img_forget(tree, upper, id, 1);
    }
    return NULL;
}

/* Reads, writes and sets attributes without a lock, as the kernel does for nodes with lookups. */
static void *user(void *argument) {
    unsigned state = (unsigned)(uintptr_t)argument * 2246822519u | 1;
    while (!atomic_load(&finished)) {
        state ^= state << 13, state ^= state >> 17, state ^= state << 5;
        char name[8];
        (void)snprintf(name, sizeof name, "%u", state % FILES);
        (void)pthread_rwlock_rdlock(&tree->lock);
        img_id id = named(IMG_ROOT, name);
        bool file = id && S_ISREG(node_of(id)->mode);
        if (id)
            img_tree_remember(tree, id, 1);
        (void)pthread_rwlock_unlock(&tree->lock);
        if (!id)
            continue;
        if (file) {
            uint64_t at = state % 65536;
            ssize_t n = img_write(upper, id, at, "data", 4, false, &somebody);
            /* Before the lookup was counted it may have lost its name: then there is no object. */
            CHECK(n == 4 || n == -ESTALE || n == -ENOENT);
            atomic_fetch_add(&written, n == 4);
            (void)pthread_rwlock_rdlock(&tree->lock);
            CHECK(n != 4 || node_of(id)->size >= at + 4);
            (void)pthread_rwlock_unlock(&tree->lock);
        }
        CHECK(img_sync(upper, id, true) <= 0);
        img_forget(tree, upper, id, 1);
    }
    return NULL;
}

static void test_threads(void) {
    start(16);
    pthread_t threads[5];
    for (uintptr_t i = 0; i < 5; i++)
        CHECK(pthread_create(&threads[i], NULL, i < 2 ? changer : user, (void *)(i + 1)) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    atomic_store(&finished, true);
    for (int i = 2; i < 5; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(atomic_load(&written) > 0);
    for (int i = 0; i < FILES; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "%d", i);
        img_id id = named(IMG_ROOT, name);
        struct stat st = on_disk(name);
        CHECK(!id == !st.st_mode);
        CHECK(!id || (node_of(id)->mode == st.st_mode && !node_of(id)->lookups));
        CHECK(!id || !S_ISREG(st.st_mode) ||
              (node_of(id)->size == (uint64_t)st.st_size && node_of(id)->nlink == st.st_nlink));
    }
    CHECK(entries_of_work() == 0);
    finish();
}

/* The threads that wait serve everybody, and any user can meet ENOSPC at an xattr. */
static void test_one_thread_at_a_time_awaits_a_release(void) {
    start(10);
    CHECK(!img_upper_await_release(upper, false)); /* nothing was unlinked */
    img_id id = make(IMG_ROOT, "f", S_IFREG | 0644);
    known(id);
    CHECK(take(img_unlink, IMG_ROOT, "f") == 0);
    upper->awaited = true; /* as if another thread waited */
    CHECK(!img_upper_await_release(upper, false));
    upper->awaited = false;
    CHECK(img_upper_await_release(upper, true));
    CHECK(!img_upper_await_release(upper, true)); /* it rests */
    img_forget(tree, upper, id, 1);
    finish();
}

int main(void) {
    (void)umask(0);
    test_descriptors();
    test_the_process_limit_is_obeyed();
    test_paths_of_any_length();
    test_the_depth_is_limited();
    test_a_slot_used_again_has_its_own_descriptor();
    test_every_kind_is_made();
    test_what_cannot_be_made();
    test_values_are_limited();
    test_owner_group_and_umask();
    test_unlink();
    test_rmdir();
    test_rename();
    test_setattr();
    test_the_kernel_owns_the_mtime_of_what_it_writes();
    test_copies();
    test_threads();
    test_one_thread_at_a_time_awaits_a_release();
    return 0;
}
