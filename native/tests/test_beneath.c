/* Untrusted paths are resolved by openat2 and name by name: each case both ways, with one result.
 * tests/native/test_beneath.py has more cases. */
#define _GNU_SOURCE
#include "base/beneath.h"

#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int top; /* paths are resolved below this directory; its parent has a file "secret" */

static int kind(int fd) {
    struct stat st;
    if (fd < 0)
        return fd;
    CHECK(fstat(fd, &st) == 0);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    CHECK(close(fd) == 0);
    return (int)(st.st_mode & S_IFMT);
}

static int beneath(const char *path, int flags) {
    return kind(img_open_beneath(top, path, flags, 0600));
}

static int in_root(const char *path, int flags) {
    return kind(img_open_in_root(top, path, flags, 0600));
}

static void build(void) {
    char place[] = "/tmp/beneath-XXXXXX";
    CHECK(mkdtemp(place) && chdir(place) == 0);
    CHECK(mkdir("top", 0700) == 0 && mkdir("top/d", 0700) == 0 && mkdir("top/d/e", 0700) == 0);
    CHECK(close(creat("secret", 0600)) == 0 && close(creat("top/d/e/file", 0600)) == 0);
    CHECK(symlink("../secret", "top/out") == 0 && symlink("/d/e", "top/d/in") == 0);
    CHECK(symlink("..", "top/up") == 0 && symlink("d", "top/dir") == 0);
    CHECK(symlink("round", "top/round") == 0);
    top = open("top", O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(top >= 0);
}

static void take_down(void) {
    const char *files[] = {"top/round", "top/dir", "top/up",  "top/d/in", "top/out", "top/d/e/file",
                           "top/d/e",   "top/d",   "top/new", "top",      "secret"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        CHECK(remove(files[i]) == 0);
    char here[PATH_MAX];
    CHECK(getcwd(here, sizeof here) && rmdir(here) == 0);
    CHECK(close(top) == 0);
}

static void test_beneath(void) {
    CHECK(beneath("", O_RDONLY) == S_IFDIR);
    CHECK(beneath("d//e/./file", O_RDWR) == S_IFREG);
    CHECK(beneath("d/e/", O_PATH) == S_IFDIR);
    CHECK(beneath("d/e/file/", O_PATH) == -ENOTDIR);
    CHECK(beneath("out", O_RDONLY) == -ELOOP);
    CHECK(beneath("out", O_RDONLY | O_NOFOLLOW | O_DIRECTORY) == -ELOOP);
    CHECK(beneath("out", O_PATH) == -ELOOP);
    CHECK(beneath("out", O_PATH | O_NOFOLLOW) == S_IFLNK);
    CHECK(beneath("dir/e/file", O_RDONLY) == -ELOOP);
    CHECK(beneath("dir/", O_PATH | O_NOFOLLOW) == -ELOOP);
    CHECK(beneath("..", O_PATH) == -EXDEV && beneath("d/../d", O_PATH) == -EXDEV);
    CHECK(beneath("/d", O_PATH) == -EXDEV);
    CHECK(beneath("d/..e", O_PATH) == -ENOENT && beneath("d/e..", O_PATH) == -ENOENT);
    CHECK(beneath("out", O_WRONLY | O_CREAT) == -ELOOP);
    CHECK(beneath("out", O_WRONLY | O_CREAT | O_EXCL) == -EEXIST);
}

static void test_in_root(void) {
    CHECK(in_root("/d/in/file", O_RDONLY) == S_IFREG);
    CHECK(in_root("up/up/d/../dir/in/../e/file", O_RDONLY) == S_IFREG);
    CHECK(in_root("../../d/e", O_PATH) == S_IFDIR);
    CHECK(in_root("out", O_RDONLY) == -ENOENT);
    CHECK(in_root("out", O_PATH | O_NOFOLLOW) == S_IFLNK);
    CHECK(in_root("out", O_RDONLY | O_NOFOLLOW) == -ELOOP);
    CHECK(in_root("dir", O_PATH) == S_IFDIR);
    CHECK(in_root("dir", O_PATH | O_NOFOLLOW) == S_IFLNK);
    CHECK(in_root("dir/", O_PATH | O_NOFOLLOW) == S_IFDIR);
    CHECK(in_root("round", O_RDONLY) == -ELOOP);
    CHECK(in_root("round/x", O_RDONLY) == -ELOOP);
    CHECK(in_root("d/e/file/..", O_PATH) == -ENOTDIR);
}

static void test_magic_links(void) {
    char path[64];
    int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(proc >= 0);
    CHECK(kind(img_open_in_root(proc, "self/status", O_RDONLY, 0)) == S_IFREG);
    CHECK(kind(img_open_in_root(proc, "self/root/etc", O_PATH, 0)) == -ELOOP);
    (void)snprintf(path, sizeof path, "self/fd/%d/d", top);
    CHECK(kind(img_open_in_root(proc, path, O_PATH, 0)) == -ELOOP);
    CHECK(kind(img_open_beneath(proc, "self/status", O_RDONLY, 0)) == -ELOOP);
    CHECK(close(proc) == 0);
}

/* Paths longer than PATH_MAX, and longer than the limit of steps. */
static void test_long_paths(void) {
    static char path[3 * 70000 + 16];
    for (size_t n = 0; n < 3000; n++)
        (void)memcpy(path + 2 * n, "./", 3);
    (void)strcat(path, "d/e/file");
    CHECK(beneath(path, O_RDONLY) == S_IFREG && in_root(path, O_RDONLY) == S_IFREG);
    for (size_t n = 0; n < 1200; n++)
        (void)memcpy(path + 5 * n, "d/../", 6);
    (void)strcat(path, "d/in/file");
    CHECK(in_root(path, O_RDONLY) == S_IFREG && beneath(path, O_RDONLY) == -EXDEV);
    for (size_t n = 0; n < 70000; n++)
        (void)memcpy(path + 3 * n, "../", 4);
    CHECK(in_root(path, O_PATH) == -ELOOP);
    memset(path, 'x', 5000);
    path[5000] = 0;
    CHECK(beneath(path, O_RDONLY) == -ENAMETOOLONG && in_root(path, O_RDONLY) == -ENAMETOOLONG);
}

int main(void) {
    build();
    for (int steps = 0; steps < 2; steps++) {
        img_beneath_step_by_step(steps);
        test_beneath();
        test_in_root();
        test_magic_links();
        test_long_paths();
        CHECK(in_root("/d/../up/new", O_WRONLY | O_CREAT | (steps ? 0 : O_EXCL)) == S_IFREG);
    }
    take_down();
    return 0;
}
