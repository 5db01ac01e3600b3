/* beneath.h: names that strangers chose, resolved below a descriptor and nowhere else.
 *
 * Law: the one place that turns a path of several names into a descriptor where others may change
 * the directories meanwhile.  A system call of its caller then gets a descriptor and at most one
 * name, and follows no symlink.  Nothing here knows of images or uppers.
 *
 * By openat2(2); where the kernel has none (before Linux 5.6) or an old seccomp filter forbids it,
 * name by name with O_NOFOLLOW, with the same results.  Paths may be longer than PATH_MAX.
 * O_CLOEXEC is always set.  Any thread may call.  Errors: negative errno values.
 */
#ifndef IMG_BENEATH_H
#define IMG_BENEATH_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

/* Opens what stands at path below dir, "" being dir itself.  -ELOOP for a symlink anywhere in path,
 * the last name included (but O_PATH | O_NOFOLLOW opens that link itself), so for magic links of
 * procfs too; -EXDEV for an absolute path and for any "..". */
int img_open_beneath(int dir, const char *path, int flags, mode_t mode);

/* Opens what path names to a process whose root directory is root: symlinks are followed inside it,
 * also the last unless O_NOFOLLOW says otherwise, and ".." ends there.  -ELOOP for magic links, for
 * more than 40 links, and for a path that takes more steps than any honest one. */
int img_open_in_root(int root, const char *path, int flags, mode_t mode);

/* What system calls that take no descriptor take for the very object behind fd, be it a symlink or
 * opened with O_PATH: they must follow the last name. */
#define IMG_FD_PATH_BYTES (sizeof "/proc/self/fd/2147483647")
void img_fd_path(int fd, char *out);
/* And for one name in the directory fd: they must not follow it. The name has no "/". */
#define IMG_NAME_IN_BYTES (IMG_FD_PATH_BYTES + NAME_MAX + 1)
void img_name_in(int fd, const char *name, char *out);

/* For tests: as if openat2 were not there. */
void img_beneath_step_by_step(bool on);

#endif
