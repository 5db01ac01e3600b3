#define _GNU_SOURCE /* memfd_create */
#include "fuzz.h"

#include "tree/content.h"
#include "tree/tree_check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LOOK = 4096 };

int memory_file(const void *data, size_t size) {
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    CHECK(fd >= 0);
    CHECK(size == 0 || write(fd, data, size) == (ssize_t)size);
    return fd;
}

static void say(img_bytes *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(img_bytes *out, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    CHECK(n >= 0 && (size_t)n < sizeof text && img_bytes_add(out, text, (size_t)n) == 0);
}

static void add(img_bytes *out, const void *data, size_t len) {
    CHECK(img_bytes_add(out, " ", 1) == 0 && img_bytes_add(out, data, len) == 0);
}

static void read_contents(const img_tree *tree, const img_node *node, bool there, img_bytes *out) {
    img_content content = img_content_of(tree, node);
    char bytes[LOOK];
    uint64_t size = content.size, last = size > LOOK ? size - LOOK : 0;
    img_extent e;
    for (uint32_t i = 0; img_content_extent(&content, i, &e); i++)
        CHECK(e.length && e.file_offset < size && e.length <= size - e.file_offset);
    if (content.fd < 0)
        return;
    ssize_t first = img_content_read(&content, 0, bytes, sizeof bytes);
    CHECK(!there || first == (ssize_t)(size < LOOK ? size : LOOK));
    if (first > 0)
        add(out, bytes, (size_t)first);
    ssize_t end = img_content_read(&content, last, bytes, sizeof bytes);
    CHECK(!there || end == (ssize_t)(size - last));
    if (end > 0)
        add(out, bytes, (size_t)end);
    int64_t hole = img_content_seek(&content, 0, SEEK_HOLE);
    CHECK(hole <= (int64_t)size);
    say(out, " hole %" PRId64, hole);
    CHECK(img_content_read(&content, size, bytes, sizeof bytes) <= 0);
}

static void say_node(const img_tree *tree, img_id id, bool contents, img_bytes *out) {
    const img_node *node = img_tree_node(tree, id);
    CHECK(node);
    say(out, " %u %o %u %u %" PRIu64 " %u %" PRId64 ".%u %" PRId64 ".%u %" PRIu64, id, node->mode,
        node->uid, node->gid, node->size, node->nlink, node->mtime_s, node->mtime_ns, node->ctime_s,
        node->ctime_ns, img_node_blocks(node));
    CHECK(node->mtime_ns < 1000000000 && node->ctime_ns < 1000000000);
    if (S_ISLNK(node->mode))
        add(out, node->u.target, (size_t)node->size);
    if (node->xattr_bytes)
        add(out, node->xattrs, node->xattr_bytes);
    if (S_ISREG(node->mode) && !img_node_data_in_upper(node))
        read_contents(tree, node, contents, out);
}

typedef struct level {
    img_id dir;
    uint32_t slot;
} level;

void tree_text(const img_tree *tree, bool contents, img_bytes *out) {
    img_error err = {0};
    img_bytes stack = {0};
    level top = {IMG_ROOT, 0};
    if (img_tree_check(tree, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.message);
        abort();
    }
    say(out, "/");
    say_node(tree, IMG_ROOT, contents, out);
    CHECK(img_bytes_add(&stack, &top, sizeof top) == 0);
    while (stack.len) {
        level *here = (level *)(void *)(stack.data + stack.len - sizeof top);
        const img_dir *dir = img_tree_node(tree, here->dir)->u.dir;
        if (!dir || here->slot >= dir->used) {
            stack.len -= sizeof top;
            continue;
        }
        uint32_t d = dir->slots[here->slot++].dentry;
        const img_dentry *dentry = d ? img_dentry_at(tree, d) : NULL;
        if (!dentry || !dentry->node)
            continue;
        CHECK(dentry->name_len && dentry->name_len <= IMG_NAME_MAX);
        CHECK(!memchr(dentry->name, '/', dentry->name_len));
        CHECK(!memchr(dentry->name, 0, dentry->name_len));
        say(out, "\n%zu ", stack.len / sizeof top);
        add(out, dentry->name, dentry->name_len);
        say_node(tree, dentry->node, contents, out);
        top.dir = dentry->node;
        if (img_is_dir(img_tree_node(tree, dentry->node)))
            CHECK(img_bytes_add(&stack, &top, sizeof top) == 0);
    }
    say(out, "\n");
    img_bytes_free(&stack);
}
