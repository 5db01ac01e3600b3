/* beneath.h: resolves an untrusted path below a directory descriptor, and never outside it.
 *
 * Law: only this module turns a path of several names into a descriptor while other processes may
 * change the directories.  The caller's next system call then gets a descriptor and at most one
 * name, and follows no symlink.  This module does not depend on images or uppers.
 *
 * It uses openat2(2).  If the kernel has no openat2 (before Linux 5.6), or an old seccomp filter
 * forbids it, the path is opened name by name with O_NOFOLLOW; the results are the same.  A path
 * may be longer than PATH_MAX.  O_CLOEXEC is always set.  Any thread may call these functions.
 * Errors: negative errno values.
 */
#ifndef IMG_BENEATH_H
#define IMG_BENEATH_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

/* Opens path below dir; "" is dir itself.  -ELOOP if any name in path is a symlink, the last name
 * included, and therefore for magic links of procfs too; but O_PATH | O_NOFOLLOW opens a symlink
 * that is the last name.  -EXDEV for an absolute path and for any "..". */
int img_open_beneath(int dir, const char *path, int flags, mode_t mode);

/* Opens path as a process whose root directory is root would: symlinks are followed inside root
 * (the last name too, unless O_NOFOLLOW is given), and ".." in root is root.  -ELOOP for magic
 * links, for more than 40 symlinks, and for a path of more than 65536 steps. */
int img_open_in_root(int root, const char *path, int flags, mode_t mode);

/* Writes to out a path of the very object behind fd, for system calls that take no descriptor.  The
 * object may be a symlink or opened with O_PATH.  The system call must follow the last name. */
#define IMG_FD_PATH_BYTES (sizeof "/proc/self/fd/2147483647")
void img_fd_path(int fd, char *out);
/* linkat(2) of the very object behind fd: a new name in dir.  0, or a negative errno. */
int img_link_object(int fd, int dir, const char *name);
/* Writes to out a path of one name in the directory fd.  The system call must not follow the last
 * name.  The name has no "/". */
#define IMG_NAME_IN_BYTES (IMG_FD_PATH_BYTES + NAME_MAX + 1)
void img_name_in(int fd, const char *name, char *out);

/* For tests.  On: behave as if the kernel had no openat2. */
void img_beneath_step_by_step(bool on);

#endif
