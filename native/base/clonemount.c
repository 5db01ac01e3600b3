#define _GNU_SOURCE
#include "base/clonemount.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

int img_clone_mount(int dir, const char *path, bool for_reading) {
    const unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH;
    long fd = syscall(SYS_open_tree, dir, path, flags);
    if (fd < 0)
        return -errno;
    if (for_reading) {
        struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME,
                                  .attr_clr = MOUNT_ATTR__ATIME};
        (void)syscall(SYS_mount_setattr, (int)fd, "", AT_EMPTY_PATH, &attr, sizeof attr);
    }
    return (int)fd;
}
