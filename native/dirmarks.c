#define _GNU_SOURCE /* syscall */
#include "dirmarks.h"

#include "index.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifdef SYS_listxattrat
#define SYS_LISTXATTRAT SYS_listxattrat
#else
#define SYS_LISTXATTRAT 465 /* the same on every architecture */
#endif

#define TRUSTED "trusted.overlay."
#define USER "user.overlay."
#define FUSE_OVERLAYFS "user.fuseoverlayfs."
#define ESCAPED "overlay."
/* As fusemount/rootfs/upper.py keeps a user's own xattr of that name. */
#define ESCAPED_OVERRIDE "imgmount.override_stat"
#define OVERRIDE "user.containers.override_stat"
#define LIST_MAX 65536u /* XATTR_LIST_MAX of Linux */
#define PLACE_MAX (sizeof "/proc/self/fd/4294967295/" + IMG_NAME_MAX)

void img_dirmarks_free(img_dirmarks *marks) {
    img_xattr_set_free(&marks->xattrs);
    *marks = (img_dirmarks){0};
}

/* The rest of text behind prefix, or NULL. */
static const char *behind(const char *text, const char *prefix) {
    size_t n = strlen(prefix);
    return strncmp(text, prefix, n) == 0 ? text + n : NULL;
}

/* Most xattr system calls take no directory; the descriptor's magic link does the same. */
static void place_of(char *out, int fd, const char *name) {
    (void)snprintf(out, PLACE_MAX, "/proc/self/fd/%d/%s", fd, name);
}

/* Most objects have none, so the one call that says so is worth its directory: listxattrat(2) where
 * the kernel has it (6.13). */
static ssize_t list_of(int fd, const char *name, char *out) {
    static bool too_old; /* a benign race: it only ever becomes true */
    char place[PLACE_MAX];
    if (!__atomic_load_n(&too_old, __ATOMIC_RELAXED)) {
        long n = syscall(SYS_LISTXATTRAT, fd, name, AT_SYMLINK_NOFOLLOW, out, (size_t)LIST_MAX);
        if (n >= 0 || (errno != ENOSYS && errno != EPERM))
            return n;
        if (errno == ENOSYS)
            __atomic_store_n(&too_old, true, __ATOMIC_RELAXED);
    }
    place_of(place, fd, name);
    return llistxattr(place, out, LIST_MAX);
}

unsigned img_dirmarks_prefixes(int fd) {
    char list[LIST_MAX];
    unsigned found = 0;
    ssize_t n = list_of(fd, ".", list);
    for (const char *name = list; name < list + (n > 0 ? n : 0); name += strlen(name) + 1) {
        found |= behind(name, TRUSTED) ? IMG_MARKS_TRUSTED : 0u;
        found |= behind(name, USER) || strcmp(name, OVERRIDE) == 0 ? IMG_MARKS_USER : 0u;
    }
    if (found & IMG_MARKS_TRUSTED)
        return IMG_MARKS_TRUSTED;
    return found ? found : IMG_MARKS_TRUSTED | IMG_MARKS_USER;
}

static bool number(const char **at, int base, uint32_t *out) {
    char *end;
    if (**at < '0' || **at > '9')
        return false;
    errno = 0;
    unsigned long value = strtoul(*at, &end, base);
    if (errno || value > UINT32_MAX)
        return false;
    *out = (uint32_t)value;
    *at = end;
    return true;
}

/* "block-MAJOR-MINOR" or "char-MAJOR-MINOR". */
static bool device(img_dirmarks *marks, const char *type) {
    const char *at = behind(type, "block-");
    mode_t kind = S_IFBLK;
    if (!at) {
        at = behind(type, "char-");
        kind = S_IFCHR;
    }
    if (!at || !number(&at, 10, &marks->rdev_major) || *at++ != '-' ||
        !number(&at, 10, &marks->rdev_minor) || *at)
        return false;
    marks->mode |= kind;
    return true;
}

static void take_type(img_dirmarks *marks, const char *type) {
    static const struct {
        const char *name;
        mode_t kind;
    } types[] = {{"dir", S_IFDIR},  {"file", S_IFREG},    {"symlink", S_IFLNK},
                 {"pipe", S_IFIFO}, {"socket", S_IFSOCK}, {"fifo", S_IFIFO}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(type, types[i].name) == 0) {
            marks->mode |= types[i].kind;
            return;
        }
    (void)device(marks, type);
}

/* What breaks the format says nothing. */
static void take_owner(img_dirmarks *marks, const char *value) {
    const char *at = value;
    uint32_t uid, gid, mode;
    if (!number(&at, 10, &uid) || *at++ != ':' || !number(&at, 10, &gid) || *at++ != ':' ||
        !number(&at, 8, &mode) || (*at && *at != ':'))
        return;
    marks->owned = true;
    marks->uid = uid;
    marks->gid = gid;
    marks->mode = mode & 07777;
    if (*at)
        take_type(marks, at + 1);
}

static void take_mark(img_dirmarks *marks, const char *mark, const char *value, size_t len) {
    if (strcmp(mark, "opaque") == 0) {
        marks->opaque = len == 1 && value[0] == 'y';
    } else if (strcmp(mark, "whiteout") == 0) {
        marks->whiteout = true;
    } else if (strcmp(mark, "metacopy") == 0) {
        marks->metacopy = true;
    } else if (strcmp(mark, "redirect") == 0 && len < sizeof marks->redirect) {
        memcpy(marks->redirect, value, len);
        marks->redirect_len = len;
    }
}

/* value is NUL-terminated behind its len bytes. */
static int take(img_dirmarks *marks, const char *name, const char *value, size_t len,
                unsigned prefixes, img_error *err) {
    char own[XATTR_NAME_MAX + sizeof OVERRIDE];
    const char *prefix = prefixes & IMG_MARKS_TRUSTED && behind(name, TRUSTED) ? TRUSTED
                         : prefixes & IMG_MARKS_USER && behind(name, USER)     ? USER
                                                                               : NULL;
    if (prefix) {
        const char *mark = behind(name, prefix), *escaped = behind(mark, ESCAPED);
        if (strcmp(mark, ESCAPED_OVERRIDE) == 0) {
            name = OVERRIDE;
        } else if (escaped) {
            (void)snprintf(own, sizeof own, "%s%s", prefix, escaped);
            name = own;
        } else {
            take_mark(marks, mark, value, len);
            return 0;
        }
    } else if (prefixes & IMG_MARKS_USER) {
        const char *mark = behind(name, FUSE_OVERLAYFS);
        if (strcmp(name, OVERRIDE) == 0 || (mark && strcmp(mark, "override_stat") == 0)) {
            take_owner(marks, value);
            return 0;
        }
        if (mark) {
            if (strcmp(mark, "opaque") == 0)
                take_mark(marks, mark, value, len);
            return 0;
        }
    }
    return img_xattr_set_put(&marks->xattrs, name, strlen(name), value, len, err);
}

static bool absent(int code) {
    return code == ENODATA || code == ENOTSUP || code == EPERM || code == EACCES || code == ENOENT;
}

static int read_one(img_dirmarks *marks, const char *place, const char *name, unsigned prefixes,
                    img_error *err) {
    char value[IMG_XATTR_VALUE_MAX + 1];
    ssize_t n = lgetxattr(place, name, value, sizeof value - 1);
    if (n < 0)
        return absent(errno) ? 0 : img_fail(err, errno, "xattr %s: %s", name, strerror(errno));
    value[n] = '\0';
    return take(marks, name, value, (size_t)n, prefixes, err);
}

int img_dirmarks_read(img_dirmarks *marks, int fd, const char *name, unsigned prefixes,
                      img_error *err) {
    char list[LIST_MAX], place[PLACE_MAX];
    img_xattr_set_reset(&marks->xattrs);
    marks->opaque = marks->whiteout = marks->metacopy = marks->owned = false;
    marks->redirect_len = 0;
    marks->rdev_major = marks->rdev_minor = 0;
    ssize_t n = list_of(fd, name, list);
    if (n < 0)
        return absent(errno) ? 0 : img_fail(err, errno, "its xattrs: %s", strerror(errno));
    place_of(place, fd, name);
    for (const char *at = list; at < list + n; at += strlen(at) + 1)
        if (read_one(marks, place, at, prefixes, err) < 0)
            return -1;
    return 0;
}
