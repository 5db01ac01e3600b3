#define _GNU_SOURCE /* O_PATH, memrchr */
#include "base/beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

enum {
    LINKS_MAX = 40, /* MAXSYMLINKS of the kernel */
    STEPS_MAX = 1 << 16,
    TRIES_MAX = 32, /* openat2 gives EAGAIN when another process renames a directory meanwhile */
    PROC_ROOT = 1,  /* st_ino of the root of procfs: PROC_ROOT_INO */
};
static const int DIRECTORY = O_PATH | O_DIRECTORY;

/* ---- openat2 ------------------------------------------------------------------------------ */

enum { UNKNOWN, THERE, MISSING };
static int openat2_is; /* atomic */

void img_beneath_step_by_step(bool on) {
    __atomic_store_n(&openat2_is, on ? MISSING : UNKNOWN, __ATOMIC_RELAXED);
}

static long try_openat2(int dir, const char *path, int flags, mode_t mode, uint64_t resolve) {
    struct open_how how = {.flags = (unsigned)(flags | O_CLOEXEC), .resolve = resolve};
    if (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)))
        how.mode = mode & 07777;
    return syscall(SYS_openat2, dir, path, &how, sizeof how);
}

/* EPERM has two causes: the file itself (O_NOATIME), or a seccomp filter that forbids the call. */
static bool openat2_is_missing(int dir) {
    int is = __atomic_load_n(&openat2_is, __ATOMIC_RELAXED);
    if (is == UNKNOWN) {
        long fd = try_openat2(dir, ".", DIRECTORY, 0, RESOLVE_BENEATH);
        if (fd >= 0)
            (void)close((int)fd);
        is = fd < 0 && (errno == ENOSYS || errno == EPERM) ? MISSING : THERE;
        __atomic_store_n(&openat2_is, is, __ATOMIC_RELAXED);
    }
    return is == MISSING;
}

/* False, with *fd unset: no openat2 is available, or other processes keep renaming directories. */
static bool by_openat2(int dir, const char *path, int flags, mode_t mode, uint64_t resolve,
                       int *fd) {
    if (__atomic_load_n(&openat2_is, __ATOMIC_RELAXED) == MISSING)
        return false;
    for (int tries = 0; tries < TRIES_MAX; tries++) {
        long result = try_openat2(dir, path, flags, mode, resolve);
        if (result >= 0 || errno != EAGAIN) {
            int code = errno;
            *fd = result < 0 ? -code : (int)result;
            return result >= 0 || (code != ENOSYS && code != EPERM) || !openat2_is_missing(dir);
        }
    }
    return false;
}

/* ---- name by name ------------------------------------------------------------------------- */

/* The state of a walk along a path. */
typedef struct walk {
    int root, at; /* at: the directory reached; closed at the end unless it is root */
    bool links;   /* symlinks are followed; else they are -ELOOP */
    char *rest;   /* the path still to be resolved, from offset `next` on */
    size_t next;
    char *below; /* only with links: the path of `at` below root, without symlinks in it */
    size_t len;
    unsigned depth, followed, steps;
} walk;

static void move_to(walk *w, int fd) {
    if (w->at != w->root)
        (void)close(w->at);
    w->at = fd;
}

static int step_down(walk *w, int fd, const char *name) {
    move_to(w, fd);
    if (!w->links)
        return 0;
    size_t n = strlen(name);
    char *below = realloc(w->below, w->len + n + 2);
    if (!below)
        return -ENOMEM;
    w->below = below;
    if (w->len)
        below[w->len++] = '/';
    memcpy(below + w->len, name, n + 1);
    w->len += n;
    w->depth++;
    return 0;
}

/* Resolves "..".  The path is opened once more from the root, because another process may have
 * moved the directory, and its own ".." then leads elsewhere. */
static int step_up(walk *w) {
    if (!w->depth)
        return 0;
    const char *cut = memrchr(w->below, '/', w->len);
    w->len = cut ? (size_t)(cut - w->below) : 0;
    w->below[w->len] = 0;
    w->steps += --w->depth;
    int fd = w->depth ? img_open_beneath(w->root, w->below, DIRECTORY, 0) : w->root;
    if (fd < 0)
        return fd;
    move_to(w, fd);
    return 0;
}

static bool is_link(int dir, const char *name) {
    struct stat st;
    return fstatat(dir, name, &st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode);
}

/* -ELOOP for a symlink, unless flags ask for the symlink itself (O_PATH | O_NOFOLLOW). */
static int open_name(int dir, const char *name, int flags, mode_t mode) {
    int fd = openat(dir, name, flags | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0) {
        int code = errno;
        bool link = code == ENOTDIR && !(flags & O_NOFOLLOW) && is_link(dir, name);
        return link ? -ELOOP : -code;
    }
    if (flags & O_PATH && !(flags & O_NOFOLLOW) && is_link(fd, "")) {
        (void)close(fd);
        return -ELOOP;
    }
    return fd;
}

/* True if the symlinks in dir may be magic: those of procfs lead to an object that their text does
 * not name.  The symlinks in the root of procfs are plain. */
static bool may_be_magic(int dir) {
    struct statfs fs;
    struct stat st;
    return fstatfs(dir, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC &&
           (fstat(dir, &st) < 0 || st.st_ino != PROC_ROOT);
}

/* Puts the target of the symlink `name` before the path that is still to be resolved. */
static int follow(walk *w, const char *name) {
    char target[PATH_MAX];
    if (++w->followed > LINKS_MAX || may_be_magic(w->at))
        return -ELOOP;
    ssize_t n = readlinkat(w->at, name, target, sizeof target);
    if (n < 0)
        return errno == EINVAL ? -ELOOP : -errno; /* EINVAL: it is no symlink any more */
    if (!n || (size_t)n == sizeof target)
        return n ? -ENAMETOOLONG : -ENOENT;
    size_t left = strlen(w->rest + w->next);
    char *rest = malloc((size_t)n + left + 1);
    if (!rest)
        return -ENOMEM;
    memcpy(rest, target, (size_t)n);
    memcpy(rest + n, w->rest + w->next, left + 1);
    free(w->rest);
    w->rest = rest;
    w->next = 0;
    if (*target == '/') {
        move_to(w, w->root);
        w->len = w->depth = 0;
    }
    return 0;
}

/* Resolves one name.  Returns the descriptor of the complete path, -EINPROGRESS if names are left,
 * or another error. */
static int step(walk *w, int flags, mode_t mode) {
    char name[NAME_MAX + 1];
    w->next += strspn(w->rest + w->next, "/");
    size_t n = strcspn(w->rest + w->next, "/");
    if (!n)
        return open_name(w->at, ".", flags & ~O_NOFOLLOW, mode);
    if (n > NAME_MAX)
        return -ENAMETOOLONG;
    if (++w->steps > STEPS_MAX)
        return -ELOOP;
    memcpy(name, w->rest + w->next, n);
    name[n] = 0;
    w->next += n;
    if (!strcmp(name, "."))
        return -EINPROGRESS;
    int result = -EXDEV;
    if (!strcmp(name, "..")) {
        result = w->links ? step_up(w) : -EXDEV;
        return result ? result : -EINPROGRESS;
    }
    bool last = !w->rest[w->next];
    int fd = open_name(w->at, name, last ? flags : DIRECTORY, mode);
    if (fd == -ELOOP && w->links && !(last && flags & O_NOFOLLOW))
        result = follow(w, name);
    else if (fd < 0 || last)
        return fd;
    else
        result = step_down(w, fd, name);
    return result ? result : -EINPROGRESS;
}

static int by_steps(int root, const char *path, int flags, mode_t mode, bool links) {
    walk w = {.root = root, .at = root, .links = links, .rest = strdup(path)};
    int fd = w.rest ? -EINPROGRESS : -ENOMEM;
    while (fd == -EINPROGRESS)
        fd = step(&w, flags, mode);
    move_to(&w, root);
    free(w.rest);
    free(w.below);
    return fd;
}

/* ---- both --------------------------------------------------------------------------------- */

/* open(2) ignores the flags that have no meaning with O_PATH; openat2 refuses them. */
static int plain(int flags) {
    return flags & O_PATH ? flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW) : flags;
}

static bool has_dotdot(const char *path) {
    for (const char *at = path; (at = strstr(at, "..")); at += 2)
        if ((at == path || at[-1] == '/') && (!at[2] || at[2] == '/'))
            return true;
    return false;
}

static int open_piece(int dir, const char *path, int flags, mode_t mode) {
    int fd;
    const uint64_t resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    if (by_openat2(dir, *path ? path : ".", flags, mode, resolve, &fd))
        return fd;
    return by_steps(dir, path, flags, mode, false);
}

int img_open_beneath(int dir, const char *path, int flags, mode_t mode) {
    char piece[PATH_MAX];
    int at = dir, fd;
    size_t len = strlen(path);
    flags = plain(flags);
    if (!(flags & O_PATH))
        flags &= ~O_NOFOLLOW; /* with it, a symlink instead of a directory would be ENOTDIR */
    if (*path == '/' || has_dotdot(path))
        return -EXDEV;
    for (;;) {
        if (len < sizeof piece) {
            fd = open_piece(at, path, flags, mode);
            break;
        }
        const char *cut = memrchr(path, '/', sizeof piece - 1);
        if (!cut) {
            fd = -ENAMETOOLONG;
            break;
        }
        size_t n = (size_t)(cut - path);
        memcpy(piece, path, n);
        piece[n] = 0;
        fd = open_piece(at, piece, DIRECTORY, 0);
        if (fd < 0)
            break;
        if (at != dir)
            (void)close(at);
        at = fd;
        path = cut + strspn(cut, "/");
        len = strlen(path);
    }
    if (at != dir)
        (void)close(at);
    return fd;
}

int img_open_in_root(int root, const char *path, int flags, mode_t mode) {
    int fd;
    const uint64_t resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    flags = plain(flags);
    if (strlen(path) < PATH_MAX && by_openat2(root, *path ? path : ".", flags, mode, resolve, &fd))
        return fd;
    return by_steps(root, path, flags, mode, true);
}

/* ---- paths for system calls that take no descriptor --------------------------------------- */

void img_fd_path(int fd, char *out) {
    (void)snprintf(out, IMG_FD_PATH_BYTES, "/proc/self/fd/%d", fd);
}

int img_link_object(int fd, int dir, const char *name) {
    char path[IMG_FD_PATH_BYTES];
    img_fd_path(fd, path);
    return linkat(AT_FDCWD, path, dir, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

void img_name_in(int fd, const char *name, char *out) {
    (void)snprintf(out, IMG_NAME_IN_BYTES, "/proc/self/fd/%d/%s", fd, name);
}
