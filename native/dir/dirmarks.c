#define _GNU_SOURCE /* syscall */
#include "dir/dirmarks.h"

#include "base/beneath.h"
#include "index/index.h"

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
#define CAPABILITY "security.capability"
/* The name under which fusemount/rootfs/objectmarks.py stores an xattr OVERRIDE that the user set.
 */
#define ESCAPED_OVERRIDE "imgmount.override_stat"
#define OVERRIDE "user.containers.override_stat"
#define BEGUN "imgmount" /* on the root of an upper of imgmount that stores owners in OVERRIDE */
#define USERXATTR "imgmount.userxattr"
#define LIST_MAX 65536u /* XATTR_LIST_MAX of Linux */

void img_dirmarks_free(img_dirmarks *marks) {
    img_xattr_set_free(&marks->xattrs);
    *marks = (img_dirmarks){0};
}

/* The rest of text behind prefix, or NULL. */
static const char *behind(const char *text, const char *prefix) {
    size_t n = strlen(prefix);
    return strncmp(text, prefix, n) == 0 ? text + n : NULL;
}

static bool is_owner(const char *name) {
    return strcmp(name, OVERRIDE) == 0 || strcmp(name, FUSE_OVERLAYFS "override_stat") == 0;
}

/* True for marks that only overlayfs and imgmount put on the root of an upper. */
static bool is_uppers(const char *mark) {
    return strcmp(mark, BEGUN) == 0 || strcmp(mark, "impure") == 0 || strcmp(mark, "uuid") == 0 ||
           strcmp(mark, "origin") == 0;
}

/* listxattr(2) of a name in a directory.  Most objects have no xattrs, so this is the one call for
 * them, and it should be fast: listxattrat(2) if the kernel has it (since 6.13), else by a path. */
static ssize_t list_of(int fd, const char *name, char *out) {
    static bool too_old; /* threads may race here: it only ever becomes true */
    char place[IMG_NAME_IN_BYTES];
    if (!__atomic_load_n(&too_old, __ATOMIC_RELAXED)) {
        long n = syscall(SYS_LISTXATTRAT, fd, name, AT_SYMLINK_NOFOLLOW, out, (size_t)LIST_MAX);
        if (n >= 0 || (errno != ENOSYS && errno != EPERM))
            return n;
        if (errno == ENOSYS)
            __atomic_store_n(&too_old, true, __ATOMIC_RELAXED);
    }
    img_name_in(fd, name, place);
    return llistxattr(place, out, LIST_MAX);
}

unsigned img_dirmarks_of_root(int fd) {
    char list[LIST_MAX];
    unsigned kinds = 0;
    ssize_t n = list_of(fd, ".", list);
    for (const char *name = list; name < list + (n > 0 ? n : 0); name += strlen(name) + 1) {
        const char *trusted = behind(name, TRUSTED), *user = behind(name, USER);
        const char *mark = trusted ? trusted : user;
        if (trusted && strcmp(mark, USERXATTR) == 0)
            kinds |= IMG_MARKS_USERXATTR;
        else if (mark)
            kinds |= (trusted ? IMG_MARKS_TRUSTED : IMG_MARKS_USER) |
                     (is_uppers(mark) ? IMG_MARKS_UPPER : 0u);
        if (is_owner(name) || (user && strcmp(user, BEGUN) == 0))
            kinds |= IMG_MARKS_OWNER;
    }
    return kinds;
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

/* Reads "block-MAJOR-MINOR" or "char-MAJOR-MINOR"; returns S_IFBLK, S_IFCHR, or 0 for neither. */
static uint32_t device(const char *type, uint32_t *major, uint32_t *minor) {
    const char *at = behind(type, "block-");
    uint32_t kind = S_IFBLK;
    if (!at) {
        at = behind(type, "char-");
        kind = S_IFCHR;
    }
    if (!at || !number(&at, 10, major) || *at++ != '-' || !number(&at, 10, minor) || *at)
        return 0;
    return kind;
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
    marks->mode |= device(type, &marks->rdev_major, &marks->rdev_minor);
}

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

static bool time_of(const char **at, int64_t *out) {
    char *end;
    if (**at != '-' && (**at < '0' || **at > '9'))
        return false;
    errno = 0;
    long long value = strtoll(*at, &end, 10);
    if (errno || end == *at)
        return false;
    *out = value;
    *at = end;
    return true;
}

static int nibble(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Reads "-" or hexadecimal digits, up to the end. */
static bool capability(img_dirmarks *marks, const char *at) {
    marks->capability_len = 0;
    if (strcmp(at, "-") == 0)
        return true;
    for (; *at && marks->capability_len < IMG_HELD_CAPABILITY_MAX; at += 2) {
        int high = nibble(at[0]), low = high < 0 ? -1 : nibble(at[1]);
        if (low < 0)
            return false;
        marks->capability[marks->capability_len++] = (unsigned char)(high << 4 | low);
    }
    return !*at && marks->capability_len;
}

/* "atime mtime" */
static void take_times(img_dirmarks *marks, const char *at) {
    marks->timed =
        time_of(&at, &marks->atime_ns) && *at++ == ' ' && time_of(&at, &marks->mtime_ns) && !*at;
}

/* "mode atime mtime capability" */
static void take_held(img_dirmarks *marks, const char *at) {
    marks->held = number(&at, 8, &marks->held_mode) && *at++ == ' ' &&
                  time_of(&at, &marks->atime_ns) && *at++ == ' ' &&
                  time_of(&at, &marks->mtime_ns) && *at++ == ' ' && capability(marks, at);
    if (!marks->held)
        marks->capability_len = 0;
}

/* "4000", "2000" or "6000" */
static void take_set_id(img_dirmarks *marks, const char *at) {
    uint32_t bits;
    marks->set_id = number(&at, 8, &bits) && !*at ? bits & (S_ISUID | S_ISGID) : 0;
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
    } else if (strcmp(mark, "imgmount.origin") == 0 && len < sizeof marks->origin) {
        memcpy(marks->origin, value, len);
        marks->origin_len = len;
    } else if (strcmp(mark, "imgmount.special") == 0) {
        marks->special = device(value, &marks->special_major, &marks->special_minor);
    } else if (strcmp(mark, "imgmount.set_id") == 0) {
        take_set_id(marks, value);
    } else if (strcmp(mark, "imgmount.times") == 0) {
        take_times(marks, value);
    } else if (strcmp(mark, "imgmount.held") == 0) {
        take_held(marks, value);
    }
}

/* True for an xattr of the user that would be a mark if marks of its kind were obeyed. */
static bool means_something(const char *name) {
    static const char *const marks[] = {
        "opaque",           "whiteout",        "redirect",           "metacopy",
        "imgmount.special", "imgmount.set_id", "imgmount.capability"};
    const char *mark = behind(name, USER);
    if (!mark)
        return is_owner(name) || strcmp(name, FUSE_OVERLAYFS "opaque") == 0;
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (strcmp(mark, marks[i]) == 0)
            return true;
    return false;
}

/* value has a NUL behind its len bytes. */
static int take(img_dirmarks *marks, const char *name, const char *value, size_t len,
                unsigned obeyed, img_error *err) {
    char own[XATTR_NAME_MAX + sizeof OVERRIDE];
    const char *prefix = obeyed & IMG_MARKS_TRUSTED && behind(name, TRUSTED) ? TRUSTED
                         : obeyed & IMG_MARKS_USER && behind(name, USER)     ? USER
                                                                             : NULL;
    const char *fuse = behind(name, FUSE_OVERLAYFS);
    if (obeyed & IMG_MARKS_OWNER && is_owner(name)) {
        take_owner(marks, value);
        return 0;
    }
    if (obeyed & IMG_MARKS_USER && strcmp(name, TRUSTED USERXATTR) == 0)
        return 0;
    if (obeyed & IMG_MARKS_USER && fuse) {
        if (strcmp(fuse, "opaque") == 0)
            take_mark(marks, fuse, value, len);
        return 0;
    }
    if (prefix) {
        const char *mark = behind(name, prefix), *escaped = behind(mark, ESCAPED);
        if (strcmp(mark, ESCAPED_OVERRIDE) == 0) {
            name = OVERRIDE;
        } else if (escaped) {
            (void)snprintf(own, sizeof own, "%s%s", prefix, escaped);
            name = own;
        } else if (strcmp(mark, "imgmount.capability") == 0) {
            if (marks->capable)
                return 0;
            name = CAPABILITY;
        } else {
            take_mark(marks, mark, value, len);
            return 0;
        }
    } else if (means_something(name)) {
        marks->disobeyed = true;
    } else if (strcmp(name, CAPABILITY) == 0) {
        /* The real capability wins: it replaces the mark's value, if that was put already. */
        marks->capable = true;
    }
    return img_xattr_set_put(&marks->xattrs, name, strlen(name), value, len, err);
}

static bool absent(int code) {
    return code == ENODATA || code == ENOTSUP || code == EPERM || code == EACCES || code == ENOENT;
}

static int read_one(img_dirmarks *marks, const char *place, const char *name, unsigned obeyed,
                    img_error *err) {
    char value[IMG_XATTR_VALUE_MAX + 1];
    ssize_t n = lgetxattr(place, name, value, sizeof value - 1);
    if (n < 0)
        return absent(errno) ? 0 : img_fail(err, errno, "xattr %s: %s", name, strerror(errno));
    value[n] = '\0';
    return take(marks, name, value, (size_t)n, obeyed, err);
}

int img_dirmarks_read(img_dirmarks *marks, int fd, const char *name, unsigned obeyed,
                      img_error *err) {
    char list[LIST_MAX], place[IMG_NAME_IN_BYTES];
    img_xattr_set_reset(&marks->xattrs);
    marks->opaque = marks->whiteout = marks->metacopy = marks->owned = false;
    marks->timed = marks->held = marks->disobeyed = marks->capable = false;
    marks->redirect_len = marks->origin_len = marks->capability_len = 0;
    marks->special = marks->rdev_major = marks->rdev_minor = marks->set_id = 0;
    ssize_t n = list_of(fd, name, list);
    if (n < 0)
        return absent(errno) ? 0 : img_fail(err, errno, "its xattrs: %s", strerror(errno));
    img_name_in(fd, name, place);
    for (const char *at = list; at < list + n; at += strlen(at) + 1)
        if (read_one(marks, place, at, obeyed, err) < 0)
            return -1;
    if (marks->capability_len)
        return img_xattr_set_put(&marks->xattrs, CAPABILITY, strlen(CAPABILITY),
                                 (const char *)marks->capability, marks->capability_len, err);
    return 0;
}
