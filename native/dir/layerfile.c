#define _GNU_SOURCE /* O_NOATIME */
#include "dir/layerfile.h"

#include "base/beneath.h"
#include "base/clonemount.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define ACL_BYTES 4096 /* an ACL of 511 entries; a longer one counts as another one */
/* The directories on the way to a file are looked at again when the last look was longer ago.  A
 * reader who comes so soon after a directory was closed might as well have come before. */
#define LOOKED_AT_MS 20

int img_layer_open_root(const char *path) {
    const int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    int mount = img_clone_mount(AT_FDCWD, path, true);
    int fd = mount >= 0 ? openat(mount, ".", flags) : open(path, flags);
    int code = errno;
    if (mount >= 0)
        (void)close(mount);
    return fd < 0 ? -code : fd;
}

/* False if an inode may get another number after it has left the kernel's cache. */
static bool inodes_last(int fd) {
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0)
        return true;
    switch ((uint32_t)fs.f_type) {
    case FUSE_SUPER_MAGIC:
    case OVERLAYFS_SUPER_MAGIC:
    case MSDOS_SUPER_MAGIC:
    case EXFAT_SUPER_MAGIC:
    case CIFS_SUPER_MAGIC:
    case SMB2_SUPER_MAGIC:
        return false;
    default:
        return true;
    }
}

/* True if the object admits everybody whom it admitted when it was scanned: it has the same owner
 * and group, all of the bits, and the same ACL.  Every change of an ACL sets ctime. */
static bool admits(int fd, const struct stat *st, const img_index *index, const img_access *was,
                   mode_t bits) {
    if (st->st_uid != was->uid || st->st_gid != was->gid || was->mode & ~st->st_mode & bits)
        return false;
    if (st->st_ctim.tv_sec == was->ctime_s && (uint32_t)st->st_ctim.tv_nsec == was->ctime_ns)
        return true;
    char path[IMG_FD_PATH_BYTES], acl[ACL_BYTES];
    img_fd_path(fd, path); /* fgetxattr(2) refuses a descriptor opened with O_PATH */
    ssize_t n = getxattr(path, IMG_ACL_ACCESS, acl, sizeof acl);
    if (n < 0 && (errno == ENODATA || errno == EOPNOTSUPP))
        n = 0;
    return n == (ssize_t)was->acl_len && memcmp(acl, index->pool + was->acl, (size_t)n) == 0;
}

/* Whether the directory open as fd still admits those whom it admitted: 0, or -EIO. */
static int look_at_directory(int fd, const img_index *index, uint32_t at, img_access *was) {
    const mode_t search = S_IXUSR | S_IXGRP | S_IXOTH;
    struct stat st;
    memcpy(was, index->pool + at, sizeof *was);
    return fstat(fd, &st) == 0 && admits(fd, &st, index, was, search) ? 0 : -EIO;
}

/* Opens the directory of a file, with O_PATH, name by name: each directory on the way is looked at
 * before the next name is opened in it.  So nobody who exchanges names meanwhile leads past a
 * closed one.  The root itself is returned as it is. */
static int open_directory(int root, const img_index *index, const img_file_record *record) {
    uint32_t way[IMG_PATH_DEPTH_MAX + 1], n = 0; /* from the file upwards */
    char path[IMG_PATH_BYTES_MAX + 1];
    img_access was = record->access;
    while (was.above != IMG_NO_ACCESS) {
        way[n++] = was.above;
        memcpy(&was, index->pool + was.above, sizeof was);
    }
    memcpy(path, index->pool + record->dir, record->dir_len);
    path[record->dir_len] = 0;
    int fd = root;
    char *rest = path, *name;
    int result = look_at_directory(fd, index, way[--n], &was);
    while (result == 0 && n && (name = strsep(&rest, "/"))) {
        int next = img_open_beneath(fd, name, O_PATH | O_DIRECTORY, 0);
        if (fd != root)
            (void)close(fd);
        fd = next;
        result = fd < 0 ? fd : look_at_directory(fd, index, way[--n], &was);
    }
    if (result < 0 && fd >= 0 && fd != root)
        (void)close(fd);
    return result < 0 ? result : fd;
}

/* True if fd is the file that was scanned, and still admits those whom it admitted.  The daemon
 * checks permissions with the owner and mode of the scan.  So a user who owns a directory of the
 * layer must not be able to move a secret file of root to a name that the tree shows as readable.
 */
static bool is_the_scanned(int fd, const img_index *index, const img_file_record *record) {
    const mode_t read = S_IRUSR | S_IRGRP | S_IROTH;
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
        !admits(fd, &st, index, &record->access, read))
        return false;
    bool same = st.st_ino == record->ino && major(st.st_dev) == record->dev_major &&
                minor(st.st_dev) == record->dev_minor;
    return same || !inodes_last(fd);
}

/* Opens a name for reading; O_NONBLOCK: if it is a fifo now, that must not wait. */
static int open_name(int above, const char *name) {
    const int flags = O_RDONLY | O_NONBLOCK | O_NOCTTY;
    int fd = img_open_beneath(above, name, flags | O_NOATIME, 0);
    return fd == -EPERM ? img_open_beneath(above, name, flags, 0) : fd;
}

/* Opens the name of a record in its directory, which `kept` has for a while after it was reached.
 */
static int open_recorded(int root, const img_index *index, const img_file_record *record,
                         const char *name, img_fds *kept, uint32_t first) {
    img_access above;
    memcpy(&above, index->pool + record->access.above, sizeof above);
    uint32_t key = first + above.number;
    int dir = img_fds_pin_new(kept, key, LOOKED_AT_MS);
    if (dir >= 0) {
        int fd = open_name(dir, name);
        img_fds_unpin(kept, key);
        return fd;
    }
    dir = open_directory(root, index, record);
    int fd = dir < 0 ? dir : open_name(dir, name);
    if (dir >= 0 && dir != root)
        (void)img_fds_put(kept, key, dir, false);
    img_fds_close_dropped(kept);
    return fd;
}

int img_layer_open_file(int root, const img_index *index, uint64_t at, img_fds *kept,
                        uint32_t first) {
    char name[IMG_NAME_MAX + 1];
    img_file_record record;
    memcpy(&record, index->pool + at, sizeof record);
    memcpy(name, index->pool + at + sizeof record, record.name_len);
    name[record.name_len] = 0;
    int fd = open_recorded(root, index, &record, name, kept, first);
    if (fd == -ENOENT || fd == -ELOOP || fd == -ENOTDIR || fd == -ENXIO)
        return -EIO; /* another process removed or replaced it after the scan */
    if (fd == -EAGAIN)
        return -EBUSY; /* another process has a lease, and O_NONBLOCK is set */
    if (fd >= 0 && !is_the_scanned(fd, index, &record)) {
        (void)close(fd);
        return -EIO;
    }
    return fd;
}
