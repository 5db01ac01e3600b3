/* fuzz_marks.c: the marks in xattrs of directory layers (dirmarks.h), scanned from real files and
 * merged.
 *
 * There are three layers with the same few objects, in a file system in memory.  A piece is one
 * xattr or the contents of a file: its kind is LAYER * 16 + OBJECT (OBJECTS below; bit 7:
 * contents), its bytes are the name, NUL, the value.  An xattr that the kernel refuses is ignored.
 *
 * Laws: a layer is scanned, or refused with a reason; so is a stack of layers; the tree keeps its
 * invariants; if only `trusted.` marks are obeyed, a layer without such marks shows owners and
 * modes as stat returns them.
 */
#define _GNU_SOURCE /* unshare */
#include "fuzz.h"

#include "dir/dirmarks.h"
#include "dir/dirscan.h"
#include "tree/mergedir.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Where the file system is mounted; as in fuzz_fuse.c. */
#define MOUNT_POINT "/sys"

enum { LAYERS = 3, CONTENTS = 0x80, PATH = 64 };

static const struct {
    const char *name;
    mode_t type;
    bool above; /* not in the lowest layer */
} OBJECTS[16] = {
    {".", 0, false},
    {"a", S_IFREG, false},
    {"b", S_IFREG, false},
    {"d", S_IFDIR, false},
    {"d/a", S_IFREG, false},
    {"d/e", S_IFDIR, false},
    {"d/e/a", S_IFREG, true},
    {"empty", S_IFREG, false},
    {"l", S_IFLNK, false},
    {"p", S_IFIFO, false},
    {"f", S_IFDIR, false},
    {"f/a", S_IFREG, false},
    {"c", S_IFCHR, true},
    {".wh.b", S_IFREG, true},
    {"f/.wh..wh..opq", S_IFREG, true},
    {"h", 0 /* a link */, false},
};

static int roots[LAYERS];

static void path_of(char *out, unsigned layer, unsigned object) {
    (void)snprintf(out, PATH, MOUNT_POINT "/%u/%s", layer, OBJECTS[object].name);
}

static void write_file(const char *path, const void *data, size_t size) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0640);
    if (fd < 0)
        return;
    CHECK(size == 0 || write(fd, data, size) == (ssize_t)size);
    (void)close(fd);
}

static void make_object(unsigned layer, unsigned object) {
    char path[PATH], target[PATH];
    mode_t type = OBJECTS[object].type;
    path_of(path, layer, object);
    if (OBJECTS[object].above && layer == 0)
        return;
    if (type == S_IFREG)
        write_file(path, path, object == 7 ? 0 : strlen(path));
    else if (type == S_IFDIR)
        CHECK(mkdir(path, 0750) == 0);
    else if (type == S_IFLNK)
        CHECK(symlink("d/a", path) == 0);
    else if (type)
        CHECK(mknod(path, type | 0600, makedev(0, 0)) == 0);
    else if (object) {
        path_of(target, layer, 1);
        CHECK(link(target, path) == 0);
    }
}

static void make_layers(void) {
    char path[PATH];
    if (roots[0])
        return;
    CHECK(unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    CHECK(mount("fuzz", MOUNT_POINT, "tmpfs", 0, "size=64m,mode=700") == 0);
    for (unsigned layer = 0; layer < LAYERS; layer++) {
        (void)snprintf(path, sizeof path, MOUNT_POINT "/%u", layer);
        CHECK(mkdir(path, 0755) == 0);
        for (unsigned object = 0; object < 16; object++)
            make_object(layer, object);
        roots[layer] = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        CHECK(roots[layer] >= 0);
    }
}

/* ---- one input ---------------------------------------------------------------------------- */

/* Applies a piece.  True if it set an xattr in `trusted.`, which only root can. */
static bool put(const piece *p) {
    char path[PATH], name[XATTR_NAME_MAX + 2] = "";
    unsigned layer = (p->kind >> 4 & 7) % LAYERS, object = p->kind & 15;
    path_of(path, layer, object);
    if (p->kind & CONTENTS) {
        if (OBJECTS[object].type == S_IFREG && object < 13 && p->len < 8192)
            write_file(path, p->data, p->len);
        return false;
    }
    const uint8_t *end = memchr(p->data, 0, p->len);
    size_t len = end ? (size_t)(end - p->data) : p->len;
    if (len > XATTR_NAME_MAX || !len)
        return false;
    memcpy(name, p->data, len);
    size_t value = end ? p->len - len - 1 : 0;
    return lsetxattr(path, name, end ? end + 1 : p->data, value, 0) == 0 &&
           strncmp(name, "trusted.", strlen("trusted.")) == 0;
}

static void clean(const piece *p) {
    char path[PATH], list[65536];
    unsigned layer = (p->kind >> 4 & 7) % LAYERS, object = p->kind & 15;
    path_of(path, layer, object);
    if (p->kind & CONTENTS) {
        if (OBJECTS[object].type == S_IFREG && object < 13 && (layer || !OBJECTS[object].above))
            write_file(path, path, object == 7 ? 0 : strlen(path));
        return;
    }
    ssize_t n = llistxattr(path, list, sizeof list);
    for (const char *at = list; n > 0 && at < list + n; at += strlen(at) + 1)
        (void)lremovexattr(path, at);
}

static void each(const uint8_t *data, size_t size, bool *trusted) {
    piece p;
    for (size_t at = 0; next_piece(data, size, &at, &p);) {
        if (trusted)
            *trusted |= put(&p);
        else
            clean(&p);
        free(p.data);
    }
}

/* Checks the attributes that only a mark could have changed. */
static void check_unmarked(const img_index *index, unsigned layer) {
    for (uint64_t i = 0; i < index->head.n_entries; i++) {
        const img_entry *e = &index->entries[i];
        char path[4 * PATH];
        struct stat st;
        if (e->kind == IMG_HARDLINK || e->kind == IMG_WHITEOUT)
            continue;
        (void)snprintf(path, sizeof path, MOUNT_POINT "/%u/%.*s/%.*s", layer, (int)e->dir_len,
                       index->pool + e->dir, (int)e->name_len, index->pool + e->name);
        CHECK(lstat(path, &st) == 0 && e->mode == st.st_mode);
        CHECK(e->uid == st.st_uid && e->gid == st.st_gid);
        CHECK(!(e->flags & (IMG_ENTRY_REDIRECT | IMG_ENTRY_METACOPY)));
    }
}

static void stack(img_dirscan how, bool unmarked) {
    img_index *indexes[LAYERS] = {NULL};
    img_tree *tree = img_tree_new();
    img_bytes text = {0};
    img_error err = {0};
    unsigned n = 0;
    CHECK(tree);
    for (bool taken = true; taken && n < LAYERS; n += taken) {
        img_dirscan scan = how;
        indexes[n] = img_scan_directory(roots[n], &scan, &err);
        if (indexes[n] && unmarked)
            check_unmarked(indexes[n], n);
        taken = indexes[n] && img_tree_add_directory(tree, indexes[n], roots[n], &err) == 0;
    }
    if (n == LAYERS)
        tree_text(tree, false, &text);
    else
        CHECK((err.code == EBADMSG || err.code == E2BIG) && err.message[0]);
    img_bytes_free(&text);
    img_tree_free(tree);
    for (n = 0; n < LAYERS; n++)
        img_index_free(indexes[n]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bool trusted = false;
    make_layers();
    each(data, size, &trusted);
    const unsigned users = IMG_MARKS_USER | IMG_MARKS_OWNER;
    stack((img_dirscan){.obeyed = IMG_MARKS_TRUSTED | IMG_MARKS_NAMES | users}, false);
    stack((img_dirscan){.obeyed = users}, false);
    stack((img_dirscan){.obeyed = IMG_MARKS_TRUSTED}, !trusted);
    each(data, size, NULL);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return mutate_pieces(data, size, max_size, seed);
}
