/* Tests set-id bits and capabilities in marks: after each change it checks the object, its marks
 * and the tree, for mounts that use marks and for those that set real ones.  Runs only as root. */
#define _GNU_SOURCE
#include "check.h"
#include "upper/changeattr.h"
#include "upper/changedata.h"
#include "upper/changemake.h"
#include "upper/changename.h"
#include "upper/changexattr.h"
#include "upper/harmless.h"

#include <fcntl.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#define CAPABILITY "security.capability"
#define MARK "trusted.overlay.imgmount.capability"

static const char value[20] = {1, 0, 0, 2, 0, 4};
static const img_caller somebody = {.uid = 5, .gid = 987654321};
static char base[] = "/tmp/imgmount-harmless-XXXXXX";
static img_tree *tree;
static img_upper *upper;
static img_upper_options options;

static void start(void) {
    CHECK(mkdtemp(base));
    int fd = open(base, O_RDONLY | O_DIRECTORY);
    CHECK(fd >= 0 && mkdirat(fd, "upper", 0755) == 0 && mkdirat(fd, "work", 0755) == 0);
    tree = img_tree_new();
    options = (img_upper_options){.upper_fd = openat(fd, "upper", O_RDONLY | O_DIRECTORY),
                                  .work_fd = openat(fd, "work", O_RDONLY | O_DIRECTORY),
                                  .owners = true,
                                  .harmless_files = true,
                                  .harmless_devices = true,
                                  .max_fds = 64};
    (void)close(fd);
    img_node_at(tree, IMG_ROOT)->flags |= IMG_NODE_UPPER;
    upper = img_upper_new(tree, &options);
    CHECK(tree && upper);
}

static void finish(void) {
    char command[64];
    img_upper_free(upper);
    img_tree_free(tree);
    (void)close(options.upper_fd);
    (void)close(options.work_fd);
    (void)snprintf(command, sizeof command, "rm -rf %s", base);
    CHECK(system(command) == 0);
}

static int make(const char *name, uint32_t mode, img_id *id) {
    img_new what = {.mode = mode, .rdev = 259};
    img_maker us = {.uid = 0, .gid = 0};
    return img_make(upper, IMG_ROOT, name, strlen(name), &what, &us, id);
}

/* Whether the object has the bits `real`, its mark the bits `marked`, and the node both. */
static bool is(const char *name, img_id id, uint32_t real, uint32_t marked) {
    struct stat st;
    char place[64];
    (void)snprintf(place, sizeof place, "%s/upper/%s", base, name);
    CHECK(lstat(place, &st) == 0);
    return (st.st_mode & 07777) == real && img_harmless_bits(place) == marked &&
           (img_node_at(tree, id)->mode & 07777) == (real | marked);
}

static int chmod_to(img_id id, uint32_t mode) {
    return img_setattr(upper, id, &(img_set){.what = IMG_SET_MODE, .mode = mode});
}

static void test_modes(void) {
    img_id f;
    CHECK(make("f", S_IFREG | 04755, &f) == IMG_DECLINED);
    CHECK(make("f", S_IFCHR | 0600, &f) == IMG_DECLINED);
    CHECK(make("f", S_IFREG | 0755, &f) == 0);
    CHECK(chmod_to(f, 04755) == 0 && is("f", f, 0755, 04000));
    CHECK(chmod_to(f, 06711) == 0 && is("f", f, 0711, 06000));
    CHECK(chmod_to(f, 02750) == 0 && is("f", f, 0750, 02000));
    img_set chown = {.what = IMG_SET_GID, .gid = 9};
    CHECK(img_setattr(upper, f, &chown) == 0 && is("f", f, 0750, 0));
    CHECK(chmod_to(f, 06744) == 0 && img_setattr(upper, f, &chown) == 0);
    CHECK(is("f", f, 0744, 02000)); /* set-gid without x stays, as on disk */
    CHECK(chmod_to(f, 06777) == 0);
    CHECK(img_write(upper, f, 0, "x", 1, false, NULL) == 1 && is("f", f, 0777, 06000));
    CHECK(img_write(upper, f, 0, "x", 1, false, &somebody) == 1 && is("f", f, 0777, 0));
    CHECK(chmod_to(f, 04777) == 0 && img_allocate(upper, f, 0, 0, 9, &somebody) == 0);
    CHECK(is("f", f, 0777, 0));
    img_set cut = {.what = IMG_SET_SIZE | IMG_KILL_SUIDGID, .size = 1, .caller = somebody};
    CHECK(chmod_to(f, 04777) == 0 && img_setattr(upper, f, &cut) == 0 && is("f", f, 0777, 0));
    CHECK(chmod_to(f, 04711) == 0);
    upper->options.harmless_files = false; /* as for a mount with suid */
    CHECK(chmod_to(f, 04755) == 0 && is("f", f, 04755, 0));
    upper->options.harmless_files = true;
    CHECK(chmod_to(f, 04711) == 0 && is("f", f, 0711, 04000));
    img_id nameless;
    img_maker us = {.uid = 0, .gid = 0};
    CHECK(img_make_nameless(upper, IMG_ROOT, 04755, &us, &nameless) == 0);
    img_tree_remember(tree, nameless, 1);
    CHECK(img_link(upper, nameless, IMG_ROOT, "n", 1) == 0 && is("n", nameless, 0755, 04000));
}

static bool has(const char *name) {
    return getxattr("f", name, NULL, 0) >= 0;
}

static void test_capabilities(void) {
    bool copy_up;
    img_id f = img_dentry_at(tree, img_tree_dentry(tree, IMG_ROOT, "f", 1))->node;
    const img_node *node = img_node_at(tree, f);
    CHECK(fchdir(options.upper_fd) == 0);
    for (int how = 0; how < 4; how++) {
        CHECK(img_set_xattr(upper, f, CAPABILITY, 19, value, 20, 0, false, &copy_up) == 0);
        CHECK(has(MARK) && !has(CAPABILITY) && node->xattr_bytes);
        if (how == 0)
            CHECK(img_write(upper, f, 0, "x", 1, false, NULL) == 1);
        else if (how == 1)
            CHECK(img_setattr(upper, f, &(img_set){.what = IMG_SET_SIZE, .size = 5}) == 0);
        else if (how == 2)
            CHECK(img_setattr(upper, f, &(img_set){.what = IMG_SET_UID, .uid = 5}) == 0);
        else
            CHECK(img_set_xattr(upper, f, CAPABILITY, 19, NULL, 0, 0, false, &copy_up) == 0);
        CHECK(!has(MARK) && !has(CAPABILITY) && !node->xattr_bytes);
    }
    CHECK(img_set_xattr(upper, f, CAPABILITY, 19, value, 20, 0, false, &copy_up) == 0);
    CHECK(img_write(upper, f, 0, "x", 1, true, NULL) == 1); /* from the kernel's cache: it stays */
    CHECK(has(MARK) && !has(CAPABILITY) && node->xattr_bytes);
    upper->options.harmless_files = false;
    CHECK(img_set_xattr(upper, f, CAPABILITY, 19, value, 20, 0, false, &copy_up) == 0);
    CHECK(!has(MARK) && has(CAPABILITY));
    CHECK(chdir("/") == 0);
}

int main(void) {
    (void)umask(0);
    if (geteuid() != 0)
        return 0;
    start();
    test_modes();
    test_capabilities();
    finish();
    return 0;
}
