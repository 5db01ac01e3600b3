/* interpose.c: counts a process' changes of files below one directory, and acts at the n-th.
 *
 * Law: an LD_PRELOAD library for tests.  It gets its orders from a file that the test maps, too, and
 * logs the calls there (FAULTS_CONTROL; interposer.py has the same layout).  While `armed` is set,
 * it counts and logs each call of the classes `classes` on an object below `prefix`.  At the call
 * number `at` it acts: SIGKILL before or after the call, or the call is not made and fails with
 * `error`.  After that, calls of the classes in `then` also fail with `error`.  Or it acts as a user
 * who exchanges the names `mine` and `theirs` just before the call, and, before the call number
 * `again`, exchanges them back, or removes `mine`.
 *
 * Calls of all threads and of forked children count, because the file is shared.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { MAKE = 1, DATA = 2, ATTRIBUTE = 4, XATTR = 8, NAME = 16, SYNC = 32, LOOK = 64 };
enum { NOTHING, KILL_BEFORE, KILL_AFTER, FAIL, EXCHANGE, EXCHANGE_REMOVE };
enum { LINES = 4096 };

typedef struct line {
    uint32_t class;
    int32_t error; /* 0: it succeeded; -1: it has not returned */
    char call[24];
    char object[480];
} line;

typedef struct control {
    uint32_t armed, count, at, action;
    int32_t error;
    uint32_t then, classes, hit;
    char prefix[480];
    uint32_t again;
    char mine[480], theirs[480];
    line lines[LINES];
} control;

static control *shared;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED)
        shared = at;
}

/* ---- what a call is about ----------------------------------------------------------------- */

static void path_of_fd(int fd, char *out, size_t size) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, size - 1);
    out[n > 0 ? n : 0] = 0;
    /* Of a mount of its own (rootfs/upperopen.py) the path begins at that mount's root, which is
     * the directory that is watched. */
    char rest[480];
    if (shared && (!strncmp(out, "/upper", 6) || !strncmp(out, "/work", 5))) {
        size_t len = strlen(shared->prefix);
        snprintf(rest, sizeof rest, "%s", out + (len && shared->prefix[len - 1] == '/'));
        snprintf(out, size, "%s%s", shared->prefix, rest);
    }
}

/* The path that a call means; symlinks are not resolved. */
static void path_of(int dir, const char *path, char *out, size_t size) {
    int fd, used = 0;
    if (path && sscanf(path, "/proc/self/fd/%d%n", &fd, &used) == 1 && used > 0) {
        dir = fd;
        path += used;
        path += *path == '/';
    } else if (path && *path == '/') {
        snprintf(out, size, "%s", path);
        return;
    }
    if (dir == AT_FDCWD) {
        out[0] = 0;
        return;
    }
    path_of_fd(dir, out, size);
    size_t len = strlen(out);
    if (path && *path)
        snprintf(out + len, size - len, "/%s", path);
}

static bool below(const char *path) {
    size_t len = strlen(shared->prefix);
    return len && !strncmp(path, shared->prefix, len);
}

/* ---- counting and acting ------------------------------------------------------------------ */

typedef struct step {
    line *line;
    bool fails, dies;
} step;

static void act_as_user(uint32_t number) {
    if (shared->action != EXCHANGE && shared->action != EXCHANGE_REMOVE)
        return;
    if (number == shared->at || (number == shared->again && shared->action == EXCHANGE)) {
        if (syscall(SYS_renameat2, AT_FDCWD, shared->mine, AT_FDCWD, shared->theirs,
                    RENAME_EXCHANGE) == 0)
            shared->hit = 1;
    } else if (number == shared->again) {
        (void)syscall(SYS_unlinkat, AT_FDCWD, shared->mine, 0);
    }
}

static step enter(uint32_t class, const char *call, int dir, const char *path, int to_dir,
                  const char *to) {
    step s = {0};
    char object[sizeof shared->lines[0].object / 2 - 4] = "", target[sizeof object] = "";
    int saved = errno;
    if (!shared || !__atomic_load_n(&shared->armed, __ATOMIC_ACQUIRE) || !(class & shared->classes))
        return s;
    path_of(dir, path, object, sizeof object);
    if (to)
        path_of(to_dir, to, target, sizeof target);
    errno = saved;
    if (!below(object) && !below(target))
        return s;
    uint32_t number = __atomic_add_fetch(&shared->count, 1, __ATOMIC_ACQ_REL);
    if (number <= LINES) {
        s.line = &shared->lines[number - 1];
        s.line->class = class;
        s.line->error = -1;
        snprintf(s.line->call, sizeof s.line->call, "%s", call);
        snprintf(s.line->object, sizeof s.line->object, "%s%s%s", object, to ? " -> " : "", target);
    }
    bool now = number == shared->at;
    act_as_user(number);
    if (now && shared->action >= KILL_BEFORE && shared->action <= FAIL)
        shared->hit = 1;
    if (now && shared->action == KILL_BEFORE)
        kill(getpid(), SIGKILL);
    s.dies = now && shared->action == KILL_AFTER;
    s.fails = shared->action == FAIL && shared->at &&
              (now || (number > shared->at && class & shared->then));
    return s;
}

static void leave(const step *s, bool failed) {
    if (s->dies)
        kill(getpid(), SIGKILL);
    if (s->fails)
        errno = shared->error;
    if (s->line)
        s->line->error = failed ? errno : 0;
}

#define CALL(type, name, class, dir, path, to_dir, to, parameters, arguments)                      \
    type name parameters {                                                                         \
        static type(*real) parameters;                                                             \
        if (!real)                                                                                 \
            *(void **)&real = dlsym(RTLD_NEXT, #name);                                             \
        step s = enter(class, #name, dir, path, to_dir, to);                                       \
        type result = s.fails ? (type)-1 : real arguments;                                         \
        leave(&s, result == (type)-1);                                                             \
        return result;                                                                             \
    }

/* ---- names -------------------------------------------------------------------------------- */

/* Opening for writing is no change; making a file and truncating it are. */
static uint32_t class_of_open(int flags) {
    return flags & (O_CREAT | O_TRUNC) || (flags & O_TMPFILE) == O_TMPFILE ? MAKE : LOOK;
}

static mode_t mode_of(int flags, va_list more) {
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(more, mode_t) : 0;
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...) {                                                   \
        static int (*real)(const char *, int, ...);                                                \
        if (!real)                                                                                 \
            *(void **)&real = dlsym(RTLD_NEXT, #name);                                             \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode_t mode = mode_of(flags, more);                                                        \
        va_end(more);                                                                              \
        step s = enter(class_of_open(flags), #name, AT_FDCWD, path, -1, NULL);                     \
        int result = s.fails ? -1 : real(path, flags, mode);                                       \
        leave(&s, result < 0);                                                                     \
        return result;                                                                             \
    }

#define OPENAT(name)                                                                               \
    int name(int dir, const char *path, int flags, ...) {                                          \
        static int (*real)(int, const char *, int, ...);                                           \
        if (!real)                                                                                 \
            *(void **)&real = dlsym(RTLD_NEXT, #name);                                             \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode_t mode = mode_of(flags, more);                                                        \
        va_end(more);                                                                              \
        step s = enter(class_of_open(flags), #name, dir, path, -1, NULL);                          \
        int result = s.fails ? -1 : real(dir, path, flags, mode);                                  \
        leave(&s, result < 0);                                                                     \
        return result;                                                                             \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
CALL(int, __openat_2, class_of_open(flags), dir, path, -1, NULL,
     (int dir, const char *path, int flags), (dir, path, flags))
CALL(int, __openat64_2, class_of_open(flags), dir, path, -1, NULL,
     (int dir, const char *path, int flags), (dir, path, flags))

CALL(int, mkdir, MAKE, AT_FDCWD, path, -1, NULL, (const char *path, mode_t mode), (path, mode))
CALL(int, mkdirat, MAKE, dir, path, -1, NULL, (int dir, const char *path, mode_t mode),
     (dir, path, mode))
CALL(int, mknod, MAKE, AT_FDCWD, path, -1, NULL, (const char *path, mode_t mode, dev_t device),
     (path, mode, device))
CALL(int, mknodat, MAKE, dir, path, -1, NULL,
     (int dir, const char *path, mode_t mode, dev_t device), (dir, path, mode, device))
CALL(int, symlink, MAKE, AT_FDCWD, path, -1, NULL, (const char *target, const char *path),
     (target, path))
CALL(int, symlinkat, MAKE, dir, path, -1, NULL, (const char *target, int dir, const char *path),
     (target, dir, path))
CALL(int, link, MAKE, AT_FDCWD, from, AT_FDCWD, to, (const char *from, const char *to), (from, to))
CALL(int, linkat, MAKE, dir, from, to_dir, to,
     (int dir, const char *from, int to_dir, const char *to, int flags),
     (dir, from, to_dir, to, flags))
CALL(int, unlink, NAME, AT_FDCWD, path, -1, NULL, (const char *path), (path))
CALL(int, rmdir, NAME, AT_FDCWD, path, -1, NULL, (const char *path), (path))
CALL(int, unlinkat, NAME, dir, path, -1, NULL, (int dir, const char *path, int flags),
     (dir, path, flags))
CALL(int, rename, NAME, AT_FDCWD, from, AT_FDCWD, to, (const char *from, const char *to),
     (from, to))
CALL(int, renameat, NAME, dir, from, to_dir, to,
     (int dir, const char *from, int to_dir, const char *to), (dir, from, to_dir, to))
CALL(int, renameat2, NAME, dir, from, to_dir, to,
     (int dir, const char *from, int to_dir, const char *to, unsigned flags),
     (dir, from, to_dir, to, flags))

/* ---- attributes --------------------------------------------------------------------------- */

CALL(int, chown, ATTRIBUTE, AT_FDCWD, path, -1, NULL, (const char *path, uid_t uid, gid_t gid),
     (path, uid, gid))
CALL(int, lchown, ATTRIBUTE, AT_FDCWD, path, -1, NULL, (const char *path, uid_t uid, gid_t gid),
     (path, uid, gid))
CALL(int, fchown, ATTRIBUTE, fd, NULL, -1, NULL, (int fd, uid_t uid, gid_t gid), (fd, uid, gid))
CALL(int, fchownat, ATTRIBUTE, dir, path, -1, NULL,
     (int dir, const char *path, uid_t uid, gid_t gid, int flags), (dir, path, uid, gid, flags))
CALL(int, chmod, ATTRIBUTE, AT_FDCWD, path, -1, NULL, (const char *path, mode_t mode), (path, mode))
CALL(int, fchmod, ATTRIBUTE, fd, NULL, -1, NULL, (int fd, mode_t mode), (fd, mode))
CALL(int, fchmodat, ATTRIBUTE, dir, path, -1, NULL,
     (int dir, const char *path, mode_t mode, int flags), (dir, path, mode, flags))
CALL(int, utimensat, ATTRIBUTE, dir, path, -1, NULL,
     (int dir, const char *path, const struct timespec times[2], int flags),
     (dir, path, times, flags))
CALL(int, futimens, ATTRIBUTE, fd, NULL, -1, NULL, (int fd, const struct timespec times[2]),
     (fd, times))

CALL(int, setxattr, XATTR, AT_FDCWD, path, -1, NULL,
     (const char *path, const char *name, const void *value, size_t size, int flags),
     (path, name, value, size, flags))
CALL(int, lsetxattr, XATTR, AT_FDCWD, path, -1, NULL,
     (const char *path, const char *name, const void *value, size_t size, int flags),
     (path, name, value, size, flags))
CALL(int, fsetxattr, XATTR, fd, NULL, -1, NULL,
     (int fd, const char *name, const void *value, size_t size, int flags),
     (fd, name, value, size, flags))
CALL(int, removexattr, XATTR, AT_FDCWD, path, -1, NULL, (const char *path, const char *name),
     (path, name))
CALL(int, lremovexattr, XATTR, AT_FDCWD, path, -1, NULL, (const char *path, const char *name),
     (path, name))
CALL(int, fremovexattr, XATTR, fd, NULL, -1, NULL, (int fd, const char *name), (fd, name))

/* ---- data --------------------------------------------------------------------------------- */

CALL(ssize_t, write, DATA, fd, NULL, -1, NULL, (int fd, const void *data, size_t size),
     (fd, data, size))
CALL(ssize_t, writev, DATA, fd, NULL, -1, NULL, (int fd, const struct iovec *data, int count),
     (fd, data, count))
CALL(ssize_t, pwrite, DATA, fd, NULL, -1, NULL,
     (int fd, const void *data, size_t size, off_t offset), (fd, data, size, offset))
CALL(ssize_t, pwrite64, DATA, fd, NULL, -1, NULL,
     (int fd, const void *data, size_t size, off64_t offset), (fd, data, size, offset))
CALL(ssize_t, pwritev, DATA, fd, NULL, -1, NULL,
     (int fd, const struct iovec *data, int count, off_t offset), (fd, data, count, offset))
CALL(ssize_t, pwritev64, DATA, fd, NULL, -1, NULL,
     (int fd, const struct iovec *data, int count, off64_t offset), (fd, data, count, offset))
CALL(ssize_t, copy_file_range, DATA, to, NULL, -1, NULL,
     (int from, off64_t *at, int to, off64_t *to_at, size_t size, unsigned flags),
     (from, at, to, to_at, size, flags))
CALL(ssize_t, sendfile, DATA, to, NULL, -1, NULL, (int to, int from, off_t *at, size_t size),
     (to, from, at, size))
CALL(ssize_t, sendfile64, DATA, to, NULL, -1, NULL, (int to, int from, off64_t *at, size_t size),
     (to, from, at, size))
CALL(int, ftruncate, DATA, fd, NULL, -1, NULL, (int fd, off_t size), (fd, size))
CALL(int, ftruncate64, DATA, fd, NULL, -1, NULL, (int fd, off64_t size), (fd, size))
CALL(int, truncate, DATA, AT_FDCWD, path, -1, NULL, (const char *path, off_t size), (path, size))
CALL(int, truncate64, DATA, AT_FDCWD, path, -1, NULL, (const char *path, off64_t size),
     (path, size))
CALL(int, fallocate, DATA, fd, NULL, -1, NULL, (int fd, int mode, off_t offset, off_t size),
     (fd, mode, offset, size))
CALL(int, fallocate64, DATA, fd, NULL, -1, NULL, (int fd, int mode, off64_t offset, off64_t size),
     (fd, mode, offset, size))

int ioctl(int fd, unsigned long request, ...) {
    static int (*real)(int, unsigned long, ...);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "ioctl");
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    bool data = request == FICLONE || request == FICLONERANGE;
    bool flags = request == FS_IOC_SETFLAGS || request == FS_IOC_FSSETXATTR;
    step s = {0};
    if (data || flags)
        s = enter(data ? DATA : ATTRIBUTE, "ioctl", fd, NULL, -1, NULL);
    int result = s.fails ? -1 : real(fd, request, argument);
    leave(&s, result < 0);
    return result;
}

CALL(int, fsync, SYNC, fd, NULL, -1, NULL, (int fd), (fd))
CALL(int, fdatasync, SYNC, fd, NULL, -1, NULL, (int fd), (fd))
CALL(int, syncfs, SYNC, fd, NULL, -1, NULL, (int fd), (fd))

/* ---- looking: only counted where it is asked for ------------------------------------------- */

CALL(ssize_t, pread, LOOK, fd, NULL, -1, NULL, (int fd, void *data, size_t size, off_t offset),
     (fd, data, size, offset))
CALL(ssize_t, pread64, LOOK, fd, NULL, -1, NULL, (int fd, void *data, size_t size, off64_t offset),
     (fd, data, size, offset))
CALL(int, fstat, LOOK, fd, NULL, -1, NULL, (int fd, struct stat *out), (fd, out))
CALL(int, fstat64, LOOK, fd, NULL, -1, NULL, (int fd, struct stat64 *out), (fd, out))
CALL(int, fstatat, LOOK, dir, path, -1, NULL,
     (int dir, const char *path, struct stat *out, int flags), (dir, path, out, flags))
CALL(int, fstatat64, LOOK, dir, path, -1, NULL,
     (int dir, const char *path, struct stat64 *out, int flags), (dir, path, out, flags))
CALL(ssize_t, getxattr, LOOK, AT_FDCWD, path, -1, NULL,
     (const char *path, const char *name, void *value, size_t size), (path, name, value, size))
CALL(ssize_t, lgetxattr, LOOK, AT_FDCWD, path, -1, NULL,
     (const char *path, const char *name, void *value, size_t size), (path, name, value, size))
CALL(ssize_t, fgetxattr, LOOK, fd, NULL, -1, NULL,
     (int fd, const char *name, void *value, size_t size), (fd, name, value, size))
CALL(int, statx, LOOK, dir, path, -1, NULL,
     (int dir, const char *path, int flags, unsigned mask, struct statx *out),
     (dir, path, flags, mask, out))
CALL(ssize_t, readlinkat, LOOK, dir, path, -1, NULL,
     (int dir, const char *path, char *out, size_t size), (dir, path, out, size))
