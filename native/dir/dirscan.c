#define _GNU_SOURCE /* statx, O_NOATIME */
#include "dir/dirscan.h"

#include "base/beneath.h"
#include "base/interrupt.h"
#include "dir/dirlinks.h"
#include "dir/dirmarks.h"
#include "dir/dirobject.h"
#include "index/indexbuild.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX ".wh."
#define META ".wh..wh."
#define OPAQUE ".wh..wh..opq"

typedef struct directory { /* a directory that is still to be listed */
    uint32_t path;         /* pool offset */
    uint32_t entry;
    uint16_t len;
    uint16_t depth;
    uint32_t access; /* pool offset of its img_access */
} directory;

typedef struct scanning {
    int root;
    img_dirscan *scan;
    img_builder builder;
    img_error *err;
    img_dirmarks marks;
    img_bytes scratch;
    uint64_t mount;     /* the root's mount id; 0: the kernel does not return it (before 5.8) */
    directory *waiting; /* a stack */
    size_t n_waiting, waiting_size;
    img_dirlinks links;
    img_bytes names; /* of the current directory, each with a NUL */
    const char **sorted;
    size_t n_sorted, sorted_size;
    directory here;
    uint32_t n_files;
    bool interrupted;
} scanning;

static int no_memory(scanning *s) {
    return img_fail(s->err, ENOMEM, "out of memory");
}

/* Writes the path of a name in the current directory; "" is that directory.  It may be cut. */
static void write_path(const scanning *s, char *out, size_t size, const char *name) {
    (void)snprintf(out, size, "%.*s%s%s", (int)s->here.len,
                   s->builder.pool.data ? s->builder.pool.data + s->here.path : "",
                   s->here.len && *name ? "/" : "", name);
}

/* Sets err->member to the path of the name, unless it is set already; returns -1. */
static int at_fault(scanning *s, const char *name) {
    if (s->err->member[0] == '\0')
        write_path(s, s->err->member, sizeof s->err->member, name);
    return -1;
}

/* Makes room for one more item behind n. */
static int grow(void **array, size_t n, size_t *size, size_t item) {
    if (n < *size)
        return 0;
    size_t want = *size ? 2 * *size : 64;
    void *grown = reallocarray(*array, want, item);
    if (!grown)
        return -1;
    *array = grown;
    *size = want;
    return 0;
}

static int set_marks(scanning *s, img_entry *e) {
    const img_dirmarks *marks = &s->marks;
    e->n_xattrs = (uint32_t)marks->xattrs.n;
    s->scratch.len = 0;
    if (img_xattr_set_write(&marks->xattrs, &s->scratch, s->err) < 0 ||
        img_builder_intern(&s->builder, s->scratch.data, s->scratch.len, &e->xattrs, s->err) < 0)
        return -1;
    if (e->kind == IMG_DIR && marks->opaque)
        e->flags |= IMG_ENTRY_OPAQUE;
    if (e->kind == IMG_FILE && marks->metacopy)
        e->flags |= IMG_ENTRY_METACOPY;
    if (e->kind != IMG_DIR && marks->origin_len) {
        e->flags |= IMG_ENTRY_ORIGIN;
        e->n_extents = (uint32_t)marks->origin_len;
        if (img_builder_text(&s->builder, marks->origin, marks->origin_len, &e->first_extent,
                             s->err) < 0)
            return -1;
    }
    if (!marks->redirect_len || (e->kind != IMG_DIR && !(e->flags & IMG_ENTRY_METACOPY)))
        return 0;
    e->flags |= IMG_ENTRY_REDIRECT;
    e->link_len = (uint16_t)marks->redirect_len;
    return img_builder_text(&s->builder, marks->redirect, marks->redirect_len, &e->link, s->err);
}

/* ---- what depends on the kind ------------------------------------------------------------- */

/* True if the opened file is the one that st describes: the name may be another file by now. */
static bool is_still(int fd, const struct statx *st) {
    struct statx now;
    return img_object_look(fd, "", &now) == 0 && now.stx_mode == st->stx_mode &&
           now.stx_uid == st->stx_uid && now.stx_gid == st->stx_gid && now.stx_ino == st->stx_ino;
}

static int put_target(scanning *s, img_entry *e, const struct statx *st, int fd, const char *name) {
    char target[IMG_SYMLINK_BYTES_MAX + 1];
    ssize_t n = -1;
    if (!S_ISREG(st->stx_mode)) {
        n = readlinkat(fd, name, target, sizeof target);
    } else { /* by user.containers.override_stat, the file is a symlink and contains its target */
        int in = openat(fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (in >= 0) {
            n = is_still(in, st) ? pread(in, target, sizeof target, 0) : (errno = EIO, -1);
            (void)close(in);
        }
    }
    if (n < 0)
        return img_fail(s->err, errno, "a symlink that cannot be read: %s", strerror(errno));
    if (n == 0 || n > (ssize_t)IMG_SYMLINK_BYTES_MAX || memchr(target, 0, (size_t)n))
        return img_fail(s->err, EBADMSG, "a symlink without a proper target");
    e->link_len = (uint16_t)n;
    return img_builder_text(&s->builder, target, (size_t)n, &e->link, s->err);
}

/* above: the img_access of the directory that the object is in. */
static int note_access(scanning *s, const struct statx *st, uint32_t above, img_access *access) {
    *access = (img_access){.above = above,
                           .uid = st->stx_uid,
                           .gid = st->stx_gid,
                           .mode = st->stx_mode,
                           .ctime_ns = st->stx_ctime.tv_nsec,
                           .ctime_s = st->stx_ctime.tv_sec};
    size_t len = 0;
    const char *acl = img_xattr_set_get(&s->marks.xattrs, IMG_ACL_ACCESS, &len);
    access->acl_len = (uint32_t)len;
    return len ? img_builder_intern(&s->builder, acl, len, &access->acl, s->err) : 0;
}

static int put_access(scanning *s, const struct statx *st, uint32_t above, uint32_t *at) {
    img_access access;
    if (note_access(s, st, above, &access) < 0)
        return -1;
    access.number = ++s->n_files;
    return img_builder_text(&s->builder, (const char *)&access, sizeof access, at, s->err);
}

/* Puts the file's record and name into the pool: both are needed after the entries are freed. */
static int put_record(scanning *s, img_entry *e, const struct statx *st, const char *name) {
    img_file_record record = {.number = ++s->n_files,
                              .dir = s->here.path,
                              .dir_len = s->here.len,
                              .name_len = e->name_len,
                              .dev_major = st->stx_dev_major,
                              .dev_minor = st->stx_dev_minor,
                              .ino = st->stx_ino};
    uint32_t at;
    if (note_access(s, st, s->here.access, &record.access) < 0)
        return -1;
    e->size = st->stx_size;
    e->rdev_major = (uint32_t)st->stx_blocks;
    e->rdev_minor = (uint32_t)(st->stx_blocks >> 32);
    if (img_builder_text(&s->builder, (const char *)&record, sizeof record, &at, s->err) < 0 ||
        img_builder_text(&s->builder, name, e->name_len, &e->name, s->err) < 0)
        return -1;
    e->archive_data = at;
    return 0;
}

/* Puts the path of a name into the pool. */
static int put_path(scanning *s, const char *dir, size_t dir_len, const char *name, size_t name_len,
                    uint32_t *at, uint16_t *len) {
    char path[IMG_PATH_BYTES_MAX];
    size_t n = dir_len ? dir_len + 1 : 0;
    if (n + name_len > sizeof path)
        return img_fail(s->err, E2BIG, "a path of more than %u bytes, the limit",
                        IMG_PATH_BYTES_MAX);
    memcpy(path, dir, dir_len);
    path[dir_len] = '/';
    memcpy(path + n, name, name_len);
    *len = (uint16_t)(n + name_len);
    return img_builder_text(&s->builder, path, n + name_len, at, s->err);
}

static int put_waiting(scanning *s, img_entry *e, const struct statx *st, const char *name) {
    void *waiting = s->waiting;
    if (s->mount && st->stx_mask & STATX_MNT_ID && st->stx_mnt_id != s->mount)
        return 0;
    if (s->here.depth + 1u >= IMG_PATH_DEPTH_MAX)
        return img_fail(s->err, E2BIG, "more than %u directories deep, the limit",
                        IMG_PATH_DEPTH_MAX);
    if (grow(&waiting, s->n_waiting, &s->waiting_size, sizeof *s->waiting) < 0)
        return no_memory(s);
    s->waiting = waiting;
    directory *d = &s->waiting[s->n_waiting++];
    d->entry = (uint32_t)s->builder.n_entries; /* the caller adds the entry next */
    d->depth = (uint16_t)(s->here.depth + 1);
    if (put_access(s, st, s->here.access, &d->access) < 0)
        return -1;
    return put_path(s, s->builder.pool.data + s->here.path, s->here.len, name, e->name_len,
                    &d->path, &d->len);
}

static int put_hardlink(scanning *s, img_entry *e, uint32_t target) {
    const img_entry *first = &s->builder.entries[target];
    /* copies, because the pool may move */
    char dir[IMG_PATH_BYTES_MAX], name[IMG_NAME_MAX];
    memcpy(dir, s->builder.pool.data + first->dir, first->dir_len);
    memcpy(name, s->builder.pool.data + first->name, first->name_len);
    *e = (img_entry){.kind = IMG_HARDLINK,
                     .archive_header = e->archive_header,
                     .archive_data = target,
                     .dir = e->dir,
                     .dir_len = e->dir_len,
                     .name = e->name,
                     .name_len = e->name_len};
    return put_path(s, dir, first->dir_len, name, first->name_len, &e->link, &e->link_len);
}

/* ---- one name ----------------------------------------------------------------------------- */

static int put_whiteout(scanning *s, const char *name) {
    img_entry e = {.kind = IMG_WHITEOUT,
                   .archive_header = s->here.entry,
                   .dir = s->here.path,
                   .dir_len = s->here.len,
                   .name_len = (uint16_t)strlen(name)};
    if (img_builder_text(&s->builder, name, e.name_len, &e.name, s->err) < 0)
        return -1;
    return img_builder_entry(&s->builder, &e, s->err);
}

/* A name that begins with `.wh.`; the rules are those of tars (merge.h). */
static int put_prefixed(scanning *s, const char *name) {
    if (strcmp(name, OPAQUE) == 0) {
        s->builder.entries[s->here.entry].flags |= IMG_ENTRY_OPAQUE;
        return 0;
    }
    if (strncmp(name, META, strlen(META)) == 0 && strncmp(name, OPAQUE, strlen(OPAQUE)) != 0)
        return 0;
    name += strlen(PREFIX);
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return img_fail(s->err, EBADMSG, "is a whiteout of no name");
    return put_whiteout(s, name);
}

static int put_body(scanning *s, img_entry *e, const struct statx *st, int fd, const char *name) {
    uint32_t first = 0;
    if (st->stx_nlink > 1 && e->kind != IMG_DIR &&
        img_dirlinks_entry(&s->links, st, (uint32_t)s->builder.n_entries, &first) < 0)
        return no_memory(s);
    if (e->kind != IMG_FILE || first) {
        if (img_builder_text(&s->builder, name, e->name_len, &e->name, s->err) < 0)
            return -1;
    }
    if (first)
        return put_hardlink(s, e, first);
    if (set_marks(s, e) < 0)
        return -1;
    switch (e->kind) {
    case IMG_FILE:
        return put_record(s, e, st, name);
    case IMG_DIR:
        return put_waiting(s, e, st, name);
    case IMG_SYMLINK:
        return put_target(s, e, st, fd, name);
    default:
        return 0;
    }
}

static void count_disobeyed(scanning *s, const char *name) {
    if (s->marks.disobeyed && s->scan->disobeyed++ == 0)
        write_path(s, s->scan->first_disobeyed, sizeof s->scan->first_disobeyed, name);
}

static int put_name(scanning *s, int fd, const char *name) {
    struct statx st;
    if (s->scan->obeyed & IMG_MARKS_NAMES && strncmp(name, PREFIX, strlen(PREFIX)) == 0)
        return put_prefixed(s, name);
    int result = img_object_look(fd, name, &st);
    if (result == -ENOENT)
        return 0; /* removed since it was listed */
    if (result < 0)
        return img_fail(s->err, -result, "%s", strerror(-result));
    if (img_dirmarks_read(&s->marks, fd, name, s->scan->obeyed, s->err) < 0)
        return -1;
    count_disobeyed(s, name);
    if (img_object_is_whiteout(&s->marks, &st))
        return put_whiteout(s, name);
    img_entry e = {.archive_header = s->here.entry,
                   .dir = s->here.path,
                   .dir_len = s->here.len,
                   .name_len = (uint16_t)strlen(name)};
    img_object_attributes(&s->marks, &st, &e);
    if (put_body(s, &e, &st, fd, name) < 0)
        return -1;
    return img_builder_entry(&s->builder, &e, s->err);
}

/* ---- directories -------------------------------------------------------------------------- */

/* After an interruption all names compare as equal, so that the sort ends soon. */
static int by_name(const void *a, const void *b, void *scanned) {
    scanning *s = scanned;
    if (s->interrupted || img_interrupted(1, s->err) < 0) {
        s->interrupted = true;
        return 0;
    }
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Reads the names of a directory into s->sorted, in their order. */
static int list(scanning *s, DIR *dir) {
    s->names.len = s->n_sorted = 0;
    size_t n = 0;
    const struct dirent *entry;
    int result = 0;
    while (errno = 0, result == 0 && (entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (img_bytes_add(&s->names, entry->d_name, strlen(entry->d_name) + 1) < 0)
            result = no_memory(s);
        else
            result = img_interrupted(1, s->err);
        n++;
    }
    int code = errno;
    if (result < 0)
        return result;
    if (code)
        return img_fail(s->err, code, "cannot be listed: %s", strerror(code));
    const char *name = s->names.data;
    for (size_t i = 0; i < n; i++, name += strlen(name) + 1) {
        void *sorted = s->sorted;
        if (grow(&sorted, s->n_sorted, &s->sorted_size, sizeof *s->sorted) < 0)
            return no_memory(s);
        s->sorted = sorted;
        s->sorted[s->n_sorted++] = name;
    }
    if (n)
        qsort_r(s->sorted, n, sizeof *s->sorted, by_name, s);
    return s->interrupted ? -1 : 0;
}

static void cannot_read(scanning *s) {
    if (s->scan->unreadable++ == 0)
        write_path(s, s->scan->first_unreadable, sizeof s->scan->first_unreadable, "");
}

static int open_here(const scanning *s, int flags) {
    char path[IMG_PATH_BYTES_MAX + 1]; /* put_path has this limit */
    if (s->here.len)
        memcpy(path, s->builder.pool.data + s->here.path, s->here.len);
    path[s->here.len] = 0;
    return img_open_beneath(s->root, path, flags, 0);
}

static int put_directory(scanning *s) {
    const int flags = O_RDONLY | O_DIRECTORY;
    int fd = open_here(s, flags | O_NOATIME);
    if (fd == -EPERM)
        fd = open_here(s, flags);
    if (fd == -EACCES) {
        cannot_read(s);
        return 0;
    }
    if (fd == -ENOENT)
        return 0;
    if (fd < 0) {
        img_fail(s->err, -fd, "cannot be opened: %s", strerror(-fd));
        return at_fault(s, "");
    }
    DIR *dir = fdopendir(fd);
    if (!dir) {
        (void)close(fd);
        return no_memory(s);
    }
    int result = list(s, dir);
    if (result < 0)
        (void)at_fault(s, "");
    size_t above = s->n_waiting;
    for (size_t i = 0; result == 0 && i < s->n_sorted; i++) {
        result = img_interrupted(IMG_IO_STEP, s->err);
        if (result == 0)
            result = put_name(s, fd, s->sorted[i]);
        if (result < 0)
            (void)at_fault(s, s->sorted[i]);
    }
    (void)closedir(dir);
    /* Reverse the new part of the stack, so that the first directory by name is listed next. */
    for (size_t i = above, k = s->n_waiting; i + 1 < k; i++, k--) {
        directory d = s->waiting[i];
        s->waiting[i] = s->waiting[k - 1];
        s->waiting[k - 1] = d;
    }
    return result;
}

static int put_root(scanning *s) {
    struct statx st;
    int result = img_object_look(s->root, "", &st);
    if (result < 0)
        return img_fail(s->err, -result, "%s", strerror(-result));
    s->mount = st.stx_mask & STATX_MNT_ID ? st.stx_mnt_id : 0;
    if (img_dirmarks_read(&s->marks, s->root, ".", s->scan->obeyed, s->err) < 0)
        return -1;
    count_disobeyed(s, "");
    img_entry e = {0};
    img_object_attributes(&s->marks, &st, &e);
    s->marks.redirect_len = 0; /* a root is not moved */
    if (set_marks(s, &e) < 0 || img_builder_entry(&s->builder, &e, s->err) < 0)
        return -1;
    s->waiting = malloc(sizeof *s->waiting);
    if (!s->waiting)
        return no_memory(s);
    s->waiting[0] = (directory){0};
    s->n_waiting = s->waiting_size = 1;
    return put_access(s, &st, IMG_NO_ACCESS, &s->waiting[0].access);
}

img_index *img_scan_directory(int fd, img_dirscan *scan, img_error *err) {
    scanning s = {.root = fd, .scan = scan, .err = err};
    img_index *index = NULL;
    err->offset = 0;
    err->member[0] = '\0';
    scan->unreadable = scan->disobeyed = 0;
    img_builder_init(&s.builder);
    int result = put_root(&s);
    while (result == 0 && s.n_waiting) {
        s.here = s.waiting[--s.n_waiting];
        result = img_interrupted(IMG_IO_STEP, err) < 0 ? -1 : put_directory(&s);
    }
    if (result == 0)
        index = img_builder_take(&s.builder, 0, err);
    if (index) {
        index->directory = true;
        index->n_files = s.n_files;
    }
    img_builder_free(&s.builder);
    img_dirmarks_free(&s.marks);
    img_bytes_free(&s.scratch);
    img_bytes_free(&s.names);
    free(s.waiting);
    img_dirlinks_free(&s.links);
    free(s.sorted);
    return index;
}
