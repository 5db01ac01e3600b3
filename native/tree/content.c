#define _GNU_SOURCE /* copy_file_range, preadv2, SEEK_DATA */
#include "tree/content.h"

#include "base/interrupt.h"
#include "base/upperfds.h"
#include "dir/layerfile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

img_content img_content_of(const img_tree *tree, const img_node *node) {
    if (node->layer >= tree->n_layers) /* a metacopy whose data no layer has */
        return (img_content){.size = node->size, .fd = -1, .n_extents = 1};
    const img_layer *layer = &tree->layers[node->layer];
    img_content content = {
        .size = node->size, .fd = layer->fd, .packed = layer->packed, .base = layer->base};
    if (node->flags & IMG_NODE_SPARSE) {
        content.extents = node->u.extents;
        content.n_extents = node->n_extents;
        return content;
    }
    content.archive_data = node->u.archive_data;
    content.n_extents = node->size ? 1 : 0;
    if (layer->index->directory) {
        img_file_record record;
        memcpy(&record, layer->index->pool + node->u.archive_data, sizeof record);
        content.directory = layer->index;
        content.files = tree->files;
        content.file = layer->first_file + record.number;
        content.first = layer->first_file;
    }
    return content;
}

/* ---- descriptors -------------------------------------------------------------------------- */

/* A descriptor to read from; close_source ends its use. */
typedef struct source {
    int fd;
    img_packed *packed; /* reads instead of fd; NULL: fd has the bytes */
    bool kept;          /* it is pinned in content->files, and stays open */
    uint64_t base; /* offset in fd of archive offset 0, or of byte 0 of a directory layer's file */
} source;

static int open_file(const img_content *content) {
    int fd = -EMFILE;
    for (int tries = 0; tries < 2 && (fd == -EMFILE || fd == -ENFILE); tries++)
        if (tries == 0 || img_fds_shrink(content->files))
            fd = img_layer_open_file(content->fd, content->directory, content->archive_data,
                                     content->files, content->first);
    return fd;
}

/* Negative errno: there is nothing to read from. */
static int open_source(const img_content *content, source *from) {
    *from = (source){content->fd, content->packed, false, content->base};
    if (!content->directory)
        return content->fd < 0 && !content->packed ? -EIO : 0;
    from->fd = img_fds_pin(content->files, content->file);
    from->kept = true;
    from->base = 0;
    if (from->fd >= 0)
        return 0;
    int fd = open_file(content);
    if (fd < 0)
        return fd;
    from->fd = img_fds_put(content->files, content->file, fd, true);
    img_fds_close_dropped(content->files);
    if (from->fd >= 0)
        return 0;
    from->kept = false; /* all descriptors that may be kept are in use: close this one after use */
    from->fd = open_file(content);
    return from->fd < 0 ? from->fd : 0;
}

static void close_source(const img_content *content, const source *from) {
    if (from->kept)
        img_fds_unpin(content->files, content->file);
    else if (content->directory)
        (void)close(from->fd);
}

/* The offset in the source of an extent's first byte. */
static uint64_t source_offset(const img_content *content, const source *from, const img_extent *e) {
    return from->base + (content->directory ? e->file_offset : e->archive_offset);
}

/* ---- reading ------------------------------------------------------------------------------ */

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

static int read_all(const source *from, uint64_t offset, char *buffer, size_t size) {
    if (from->packed) {
        ssize_t n = img_packed_read(from->packed, offset, buffer, size);
        return n < 0 ? (int)n : 0;
    }
    while (size) {
        ssize_t n = pread(from->fd, buffer, size, (off_t)offset);
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

static ssize_t read_from(const img_content *content, const source *from, uint64_t offset, char *out,
                         size_t size) {
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
        int result = read_all(from, source_offset(content, from, &e) + (at - e.file_offset),
                              out + (at - offset), (size_t)(stop - at));
        if (result < 0)
            return result;
        at = stop;
    }
    return (ssize_t)size;
}

ssize_t img_content_read(const img_content *content, uint64_t offset, void *buffer, size_t size) {
    source from;
    if (offset >= content->size)
        return 0;
    if (size > content->size - offset)
        size = (size_t)(content->size - offset);
    int result = open_source(content, &from);
    if (result < 0)
        return result;
    ssize_t n = read_from(content, &from, offset, buffer, size);
    close_source(content, &from);
    return n;
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
        return -EAGAIN; /* there are holes, which only img_content_read fills in */
    source from = {content->fd, content->packed, false, content->base};
    if (content->packed) {
        uint64_t start = source_offset(content, &from, &e) + (offset - e.file_offset);
        return img_packed_read_now(content->packed, start, buffer, size);
    }
    if (content->directory)
        from = (source){img_fds_pin(content->files, content->file), NULL, true, 0};
    if (from.fd < 0)
        return -EAGAIN; /* the file is not open yet */
    struct iovec iov = {buffer, size};
    off_t at = (off_t)(source_offset(content, &from, &e) + (offset - e.file_offset));
    ssize_t n = preadv2(from.fd, &iov, 1, at, RWF_NOWAIT);
    close_source(content, &from);
    /* Fewer bytes may mean that the file has shrunk: img_content_read finds out. */
    return n == (ssize_t)size ? n : -EAGAIN;
}

int img_content_prepare(const img_content *content) {
    img_extent e = {0, 0, 0};
    int result = 0;
    for (uint32_t i = 0; content->packed && result == 0 && img_content_extent(content, i, &e); i++)
        result = img_packed_prepare(content->packed, e.archive_offset, e.length);
    return result;
}

/* ---- copying ------------------------------------------------------------------------------ */

#define COPY_BYTES (1u << 20)
#define KERNEL_BYTES                                                                               \
    (16u << 20) /* of one copy_file_range(2): some 10 ms if it cannot share blocks */

static bool stopped(void) {
    img_error ignored;
    return img_interrupted(IMG_IO_STEP, &ignored) < 0;
}

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

/* Copies in the kernel, as far as the kernel can; *done is the number of bytes.  0, or -EINTR. */
static int copy_in_kernel(int from, uint64_t from_at, int to, uint64_t to_at, uint64_t size,
                          uint64_t *done) {
    off_t in = (off_t)from_at, out = (off_t)to_at;
    for (*done = 0; *done < size;) {
        size_t left = size - *done < KERNEL_BYTES ? (size_t)(size - *done) : KERNEL_BYTES;
        if (stopped())
            return -EINTR;
        ssize_t n = copy_file_range(from, &in, to, &out, left, 0);
        if (n <= 0)
            break;
        *done += (uint64_t)n;
    }
    return 0;
}

static int copy_extent(const img_content *content, const source *from, const img_extent *e, int fd,
                       char *buffer) {
    uint64_t at_source = source_offset(content, from, e), done;
    int result = 0;
    if (from->packed)
        done = 0; /* its chunks may go at any time, and only reading notices it */
    else
        result = copy_in_kernel(from->fd, at_source, fd, e->file_offset, e->length, &done);
    while (result == 0 && done < e->length) {
        size_t n = e->length - done < COPY_BYTES ? (size_t)(e->length - done) : COPY_BYTES;
        result = stopped() ? -EINTR : read_all(from, at_source + done, buffer, n);
        if (result == 0)
            result = write_all(fd, e->file_offset + done, buffer, n);
        done += n;
    }
    return result;
}

/* The next piece of data at or behind offset; false: there is none. */
static bool next_data(const img_content *content, const source *from, uint64_t offset,
                      img_extent *out) {
    if (!content->directory) {
        if (!img_content_extent(content, first_beyond(content, offset), out))
            return false;
        uint64_t skip = offset > out->file_offset ? offset - out->file_offset : 0;
        *out =
            (img_extent){out->file_offset + skip, out->length - skip, out->archive_offset + skip};
        return true;
    }
    off_t data = lseek(from->fd, (off_t)offset, SEEK_DATA);
    if (data < 0 && errno == ENXIO)
        return false;
    if (data < 0)
        data = (off_t)offset; /* a file system without SEEK_DATA: all of it is data */
    off_t hole = lseek(from->fd, data, SEEK_HOLE);
    uint64_t start = (uint64_t)data, end = hole < 0 ? content->size : (uint64_t)hole;
    end = end < content->size ? end : content->size;
    *out = (img_extent){start, end > start ? end - start : 0, 0};
    return out->length > 0;
}

int img_content_copy(const img_content *content, int fd, uint64_t limit) {
    source from;
    uint64_t size = content->size < limit ? content->size : limit;
    char *buffer = malloc(COPY_BYTES);
    int result = buffer ? open_source(content, &from) : -ENOMEM;
    if (result < 0) {
        free(buffer);
        return result;
    }
    img_extent e = {0, 0, 0};
    for (uint64_t at = 0; result == 0 && at < size && next_data(content, &from, at, &e);
         at = e.file_offset + e.length) {
        if (e.file_offset >= size)
            break;
        if (e.length > size - e.file_offset)
            e.length = size - e.file_offset;
        result = copy_extent(content, &from, &e, fd, buffer);
    }
    close_source(content, &from);
    free(buffer);
    struct stat st;
    if (result == 0 && fstat(fd, &st) < 0)
        result = -errno;
    if (result == 0 && (uint64_t)st.st_size < size && ftruncate(fd, (off_t)size) < 0)
        result = -errno;
    return result;
}

int img_content_data(const img_content *content, uint64_t offset, img_extent *out) {
    source from;
    struct stat st;
    if (offset >= content->size)
        return 0;
    int result = open_source(content, &from);
    if (result < 0)
        return result;
    result = next_data(content, &from, offset, out);
    if (content->directory && (fstat(from.fd, &st) < 0 || (uint64_t)st.st_size < content->size))
        result = -EIO;
    close_source(content, &from);
    return result;
}

ssize_t img_content_share(const img_content *content, uint64_t at, int to, uint64_t to_at,
                          uint64_t length) {
    source from;
    if (content->extents || content->packed)
        return -EOPNOTSUPP;
    int result = open_source(content, &from);
    if (result < 0)
        return result;
    uint64_t at_source = from.base + (content->directory ? 0 : content->archive_data) + at;
    loff_t in = (loff_t)at_source, out = (loff_t)to_at;
    ssize_t n = copy_file_range(from.fd, &in, to, &out, length, 0);
    n = n < 0 ? -errno : n;
    close_source(content, &from);
    return n;
}

/* ---- holes -------------------------------------------------------------------------------- */

static int64_t seek_file(const img_content *content, uint64_t offset, int whence) {
    source from;
    int result = open_source(content, &from);
    if (result < 0)
        return result;
    off_t found = lseek(from.fd, (off_t)offset, whence);
    int64_t at = found < 0 ? -errno : found;
    close_source(content, &from);
    if (at > (int64_t)content->size)
        at = whence == SEEK_HOLE ? (int64_t)content->size : -ENXIO;
    return at;
}

int64_t img_content_seek(const img_content *content, uint64_t offset, int whence) {
    if (offset >= content->size)
        return -ENXIO;
    if (content->directory)
        return seek_file(content, offset, whence);
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
    if (img_node_data_in_upper(node) || node->flags & IMG_NODE_BLOCKS)
        return node->blocks;
    return (node->size + 4095) / 4096 * 8;
}
