#define _GNU_SOURCE /* statx */
#include "dir/dirobject.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

int img_object_look(int fd, const char *name, struct statx *st) {
    const int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH;
    return statx(fd, name, flags, STATX_BASIC_STATS | STATX_MNT_ID, st) < 0 ? -errno : 0;
}

static uint8_t kind_of(uint32_t mode) {
    switch (mode & S_IFMT) {
    case S_IFREG:
        return IMG_FILE;
    case S_IFDIR:
        return IMG_DIR;
    case S_IFLNK:
        return IMG_SYMLINK;
    case S_IFCHR:
        return IMG_CHAR;
    case S_IFBLK:
        return IMG_BLOCK;
    case S_IFIFO:
        return IMG_FIFO;
    default:
        return IMG_SOCKET;
    }
}

static void split_time(int64_t ns, int64_t *seconds, uint32_t *rest) {
    const int64_t second = 1000000000;
    int64_t left = ns % second;
    *seconds = ns / second - (left < 0);
    *rest = (uint32_t)(left < 0 ? left + second : left);
}

/* Applies override_stat.  file: the object is a regular file. */
static void set_owner(const img_dirmarks *marks, img_entry *e, bool file) {
    uint32_t type = marks->mode & S_IFMT;
    e->uid = marks->uid;
    e->gid = marks->gid;
    /* Only a regular file can be shown as another type: it is a substitute for such an object. */
    e->mode = (marks->mode & 07777) | (type && file && !S_ISDIR(type) ? type : e->mode & S_IFMT);
    if (S_ISBLK(e->mode) || S_ISCHR(e->mode)) {
        e->rdev_major = marks->rdev_major;
        e->rdev_minor = marks->rdev_minor;
    }
}

void img_object_attributes(const img_dirmarks *marks, const struct statx *st, img_entry *e) {
    e->mode = st->stx_mode;
    e->uid = st->stx_uid;
    e->gid = st->stx_gid;
    e->rdev_major = st->stx_rdev_major;
    e->rdev_minor = st->stx_rdev_minor;
    e->mtime_s = st->stx_mtime.tv_sec;
    e->mtime_ns = st->stx_mtime.tv_nsec;
    e->atime_s = st->stx_atime.tv_sec;
    e->atime_ns = st->stx_atime.tv_nsec;
    e->ctime_s = st->stx_ctime.tv_sec;
    e->ctime_ns = st->stx_ctime.tv_nsec;
    if (marks->owned && !S_ISLNK(st->stx_mode))
        set_owner(marks, e, S_ISREG(st->stx_mode));
    if (marks->special && S_ISREG(st->stx_mode) && !st->stx_size) {
        e->mode = marks->special | (e->mode & 07777);
        e->rdev_major = marks->special_major;
        e->rdev_minor = marks->special_minor;
    }
    e->kind = kind_of(e->mode);
    if (e->kind != IMG_DIR && e->kind != IMG_SYMLINK)
        e->mode |= marks->set_id;
    if (e->kind == IMG_DIR ? !marks->timed : !marks->held)
        return;
    if (e->kind != IMG_DIR)
        e->mode = (e->mode & S_IFMT) | (marks->held_mode & 07777);
    split_time(marks->mtime_ns, &e->mtime_s, &e->mtime_ns);
    split_time(marks->atime_ns, &e->atime_s, &e->atime_ns);
}

bool img_object_is_whiteout(const img_dirmarks *marks, const struct statx *st) {
    if (S_ISCHR(st->stx_mode))
        return st->stx_rdev_major == 0 && st->stx_rdev_minor == 0;
    return S_ISREG(st->stx_mode) && st->stx_size == 0 && marks->whiteout;
}
