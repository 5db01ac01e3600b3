#define _GNU_SOURCE /* O_PATH, O_NOATIME, memrchr */
#include "layerfile.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PIECE 4000u /* PATH_MAX holds for one system call */

/* Its own mount as a descriptor, or -1: no privilege, an old kernel, a mount that may not be had
 * without what is mounted in it. */
static int private_mount(const char *path) {
    long fd = syscall(SYS_open_tree, AT_FDCWD, path, (unsigned)OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (fd < 0)
        return -1;
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME,
                              .attr_clr = MOUNT_ATTR__ATIME};
    (void)syscall(SYS_mount_setattr, (int)fd, "", AT_EMPTY_PATH, &attr, sizeof attr);
    return (int)fd;
}

int img_layer_open_root(const char *path) {
    const int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    int mount = private_mount(path);
    int fd = mount >= 0 ? openat(mount, ".", flags) : open(path, flags);
    int code = errno;
    if (mount >= 0)
        (void)close(mount);
    return fd < 0 ? -code : fd;
}

/* A path that one system call can take; NUL-terminated. */
static int open_piece(int dir, const char *path, int flags) {
    static bool too_old; /* a benign race: it only ever becomes true */
    if (!__atomic_load_n(&too_old, __ATOMIC_RELAXED)) {
        struct open_how how = {.flags = (unsigned)flags,
                               .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
        long fd = syscall(SYS_openat2, dir, path, &how, sizeof how);
        if (fd >= 0 || (errno != ENOSYS && errno != EPERM && errno != EAGAIN))
            return fd < 0 ? -errno : (int)fd;
        if (errno == ENOSYS)
            __atomic_store_n(&too_old, true, __ATOMIC_RELAXED);
    }
    int fd = openat(dir, path, flags);
    return fd < 0 ? -errno : fd;
}

int img_layer_open(int root, const char *path, size_t len, int flags) {
    char piece[PIECE + 1];
    int dir = root, fd;
    for (;;) {
        const char *cut = len > PIECE ? memrchr(path, '/', PIECE) : path + len;
        if (!cut) {
            fd = -ENAMETOOLONG;
            break;
        }
        size_t n = (size_t)(cut - path);
        memcpy(piece, n ? path : ".", n ? n : 1);
        piece[n ? n : 1] = '\0';
        bool last = n == len;
        fd = open_piece(dir, piece, (last ? flags : O_PATH | O_DIRECTORY) | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || last)
            break;
        if (dir != root)
            (void)close(dir);
        dir = fd;
        path = cut + 1;
        len -= n + 1;
    }
    if (dir != root)
        (void)close(dir);
    return fd;
}

int img_layer_open_file(int root, const img_index *index, uint64_t at) {
    char path[IMG_PATH_BYTES_MAX + IMG_NAME_MAX + 2];
    img_file_record record;
    struct stat st;
    memcpy(&record, index->pool + at, sizeof record);
    size_t len = record.dir_len;
    memcpy(path, index->pool + record.dir, len);
    if (len)
        path[len++] = '/';
    memcpy(path + len, index->pool + at + sizeof record, record.name_len);
    len += record.name_len;
    /* O_NONBLOCK: a fifo in its place must not hang us */
    const int flags = O_RDONLY | O_NONBLOCK | O_NOCTTY;
    int fd = img_layer_open(root, path, len, flags | O_NOATIME);
    if (fd == -EPERM)
        fd = img_layer_open(root, path, len, flags);
    if (fd == -ENOENT || fd == -ELOOP || fd == -ENOTDIR || fd == -ENXIO)
        return -EIO; /* somebody took it away under us */
    if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) {
        (void)close(fd);
        return -EIO;
    }
    return fd;
}
