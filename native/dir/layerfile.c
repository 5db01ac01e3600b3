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
#include <unistd.h>

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

/* True if fd is the file that was scanned and its owner and mode are the same.  The daemon checks
 * permissions with the owner and mode of the scan.  So a user who owns a directory of the layer
 * must not be able to move a secret file of root to a name that the tree shows as readable. */
static bool is_the_scanned(int fd, const img_file_record *record) {
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_mode != record->mode ||
        st.st_uid != record->uid || st.st_gid != record->gid)
        return false;
    bool same = st.st_ino == record->ino && major(st.st_dev) == record->dev_major &&
                minor(st.st_dev) == record->dev_minor;
    return same || !inodes_last(fd);
}

int img_layer_open_file(int root, const img_index *index, uint64_t at) {
    char path[IMG_PATH_BYTES_MAX + IMG_NAME_MAX + 2];
    img_file_record record;
    memcpy(&record, index->pool + at, sizeof record);
    size_t len = record.dir_len;
    memcpy(path, index->pool + record.dir, len);
    if (len)
        path[len++] = '/';
    memcpy(path + len, index->pool + at + sizeof record, record.name_len);
    path[len + record.name_len] = 0;
    /* O_NONBLOCK: if the name is a fifo now, opening it must not wait */
    const int flags = O_RDONLY | O_NONBLOCK | O_NOCTTY;
    int fd = img_open_beneath(root, path, flags | O_NOATIME, 0);
    if (fd == -EPERM)
        fd = img_open_beneath(root, path, flags, 0);
    if (fd == -ENOENT || fd == -ELOOP || fd == -ENOTDIR || fd == -ENXIO)
        return -EIO; /* another process removed or replaced it after the scan */
    if (fd == -EAGAIN)
        return -EBUSY; /* another process has a lease, and O_NONBLOCK is set */
    if (fd >= 0 && !is_the_scanned(fd, &record)) {
        (void)close(fd);
        return -EIO;
    }
    return fd;
}
