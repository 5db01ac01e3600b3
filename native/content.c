#define _GNU_SOURCE /* copy_file_range, preadv2, SEEK_DATA */
#include "content.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

img_content img_content_of(const img_tree *tree, const img_node *node) {
    const img_layer *layer = &tree->layers[node->layer];
    img_content content = {.size = node->size, .fd = layer->fd, .base = layer->base};
    if (node->flags & IMG_NODE_SPARSE) {
        content.extents = node->u.extents;
        content.n_extents = node->n_extents;
    } else {
        content.archive_data = node->u.archive_data;
        content.n_extents = node->size ? 1 : 0;
    }
    return content;
}

bool img_content_extent(const img_content *content, uint32_t i, img_extent *out) {
    if (i >= content->n_extents)
        return false;
    *out = content->extents ? content->extents[i]
                            : (img_extent){0, content->size, content->archive_data};
    return true;
}

/* The first extent that ends beyond offset. */
static uint32_t first_beyond(const img_content *content, uint64_t offset) {
    uint32_t low = 0, high = content->n_extents;
    img_extent e = {0, 0, 0};
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        (void)img_content_extent(content, mid, &e);
        if (e.file_offset + e.length <= offset)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static int read_all(int fd, uint64_t offset, char *buffer, size_t size) {
    while (size) {
        ssize_t n = pread(fd, buffer, size, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        buffer += n;
        offset += (uint64_t)n;
        size -= (size_t)n;
    }
    return 0;
}

ssize_t img_content_read(const img_content *content, uint64_t offset, void *buffer, size_t size) {
    if (offset >= content->size)
        return 0;
    if (size > content->size - offset)
        size = (size_t)(content->size - offset);
    char *out = buffer;
    uint64_t at = offset, end = offset + size;
    img_extent e = {0, 0, 0};
    for (uint32_t i = first_beyond(content, offset); at < end; i++) {
        bool data = img_content_extent(content, i, &e) && e.file_offset < end;
        uint64_t hole_end = data ? e.file_offset : end;
        if (at < hole_end) {
            memset(out + (at - offset), 0, (size_t)(hole_end - at));
            at = hole_end;
        }
        if (!data)
            break;
        uint64_t stop = e.file_offset + e.length < end ? e.file_offset + e.length : end;
        int result = read_all(content->fd, content->base + e.archive_offset + (at - e.file_offset),
                              out + (at - offset), (size_t)(stop - at));
        if (result < 0)
            return result;
        at = stop;
    }
    return (ssize_t)size;
}

#define COPY_BYTES (1u << 20)

static int write_all(int fd, uint64_t offset, const char *data, size_t size) {
    while (size) {
        ssize_t n = pwrite(fd, data, size, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        data += n;
        offset += (uint64_t)n;
        size -= (size_t)n;
    }
    return 0;
}

/* In the kernel as far as it will go; returns how much that was. */
static uint64_t copy_in_kernel(int from, uint64_t source, int to, uint64_t target, uint64_t size) {
    off_t in = (off_t)source, out = (off_t)target;
    uint64_t done = 0;
    while (done < size) {
        ssize_t n = copy_file_range(from, &in, to, &out, (size_t)(size - done), 0);
        if (n <= 0)
            break;
        done += (uint64_t)n;
    }
    return done;
}

static int copy_extent(const img_content *content, const img_extent *e, int fd, char *buffer) {
    uint64_t source = content->base + e->archive_offset;
    uint64_t done = copy_in_kernel(content->fd, source, fd, e->file_offset, e->length);
    while (done < e->length) {
        size_t n = e->length - done < COPY_BYTES ? (size_t)(e->length - done) : COPY_BYTES;
        int result = read_all(content->fd, source + done, buffer, n);
        if (result == 0)
            result = write_all(fd, e->file_offset + done, buffer, n);
        if (result < 0)
            return result;
        done += n;
    }
    return 0;
}

int img_content_copy(const img_content *content, int fd, uint64_t limit) {
    uint64_t size = content->size < limit ? content->size : limit;
    char *buffer = malloc(COPY_BYTES);
    int result = buffer ? 0 : -ENOMEM;
    img_extent e = {0, 0, 0};
    for (uint32_t i = 0; result == 0 && img_content_extent(content, i, &e); i++) {
        if (e.file_offset >= size)
            break;
        if (e.length > size - e.file_offset)
            e.length = size - e.file_offset;
        result = copy_extent(content, &e, fd, buffer);
    }
    free(buffer);
    if (result == 0 && ftruncate(fd, (off_t)size) < 0)
        result = -errno;
    return result;
}

ssize_t img_content_read_now(const img_content *content, uint64_t offset, void *buffer,
                             size_t size) {
    if (offset >= content->size)
        return 0;
    if (size > content->size - offset)
        size = (size_t)(content->size - offset);
    img_extent e = {0, 0, 0};
    if (!img_content_extent(content, first_beyond(content, offset), &e) || offset < e.file_offset ||
        offset + size > e.file_offset + e.length)
        return -EAGAIN; /* holes: let the other one put it together */
    struct iovec iov = {buffer, size};
    off_t at = (off_t)(content->base + e.archive_offset + (offset - e.file_offset));
    ssize_t n = preadv2(content->fd, &iov, 1, at, RWF_NOWAIT);
    /* Less than all may be the end of a file that shrank: the other one says which. */
    return n == (ssize_t)size ? n : -EAGAIN;
}

int64_t img_content_seek(const img_content *content, uint64_t offset, int whence) {
    if (offset >= content->size)
        return -ENXIO;
    uint32_t i = first_beyond(content, offset);
    img_extent e = {0, 0, 0};
    if (whence == SEEK_DATA) {
        if (!img_content_extent(content, i, &e))
            return -ENXIO;
        return (int64_t)(offset > e.file_offset ? offset : e.file_offset);
    }
    while (img_content_extent(content, i++, &e) && e.file_offset <= offset)
        offset = e.file_offset + e.length;
    return (int64_t)(offset < content->size ? offset : content->size);
}

uint64_t img_node_blocks(const img_node *node) {
    if (!S_ISREG(node->mode))
        return 0;
    if (img_node_data_is_up(node))
        return node->blocks;
    uint64_t bytes = node->size;
    if (node->flags & IMG_NODE_SPARSE) {
        bytes = 0;
        for (uint32_t i = 0; i < node->n_extents; i++)
            bytes += node->u.extents[i].length;
    }
    return (bytes + 4095) / 4096 * 8;
}
