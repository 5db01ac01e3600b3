/* changedata.c: changes the contents of files in the upper. */
#define _GNU_SOURCE /* fallocate, copy_file_range */
#include "upper/changedata.h"

#include "tree/content.h"
#include "upper/changeinner.h"
#include "upper/killpriv.h"

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#define COPY_PIECE (1u << 20)
#define COPY_MOST (16u << 20) /* bytes that one call copies from a layer; the caller asks again */

/* Pins the descriptor of a file of the upper; IMG_WRITE_DECLINED when its data are still in a
 * layer. capability: security.capability is taken now, because the write takes it. */
static ssize_t pin_to_write(img_upper *upper, img_id id, bool capability) {
    if (upper->options.read_only || upper->options.work_fd < 0)
        return -EROFS;
    lock_read(upper);
    const img_node *node = img_tree_node(upper->tree, id);
    bool below = node && S_ISREG(node->mode) && !img_node_data_in_upper(node);
    bool dropped = capability && node && img_change_has_xattr(node, IMG_CAPABILITY);
    unlock(upper);
    if (below)
        return IMG_WRITE_DECLINED;
    int fd = img_upper_pin_to_write(upper, id);
    int result = fd >= 0 && dropped ? img_killpriv_capability(upper, id, fd) : 0;
    if (result < 0)
        img_upper_unpin(upper, id);
    return result < 0 ? result : fd;
}

/* Sets size and blocks of the node after a change of data that ends at `end`, and restores the
 * mtime of the object.  Several threads may write to one file, so the size from fstat may be older
 * than the node's; therefore the size comes from `end`. */
static void data_changed(img_upper *upper, img_id id, int fd, uint64_t end, bool cached) {
    struct stat st;
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
    bool capability = false;
    pthread_mutex_t *lock = img_times_lock(upper, id);
    (void)pthread_mutex_lock(lock);
    bool known = fstat(fd, &st) == 0;
    lock_write(upper);
    img_node *node = img_tree_node(upper->tree, id);
    if (node) {
        if (end > node->size)
            node->size = end;
        times[1] = (struct timespec){.tv_sec = node->mtime_s, .tv_nsec = (long)node->mtime_ns};
        if (known)
            node->blocks = (uint64_t)st.st_blocks;
        capability = img_change_has_xattr(node, IMG_CAPABILITY);
    }
    unlock(upper);
    if (node &&
        (!known || st.st_mtim.tv_sec != times[1].tv_sec || st.st_mtim.tv_nsec != times[1].tv_nsec))
        (void)futimens(fd, times);
    (void)pthread_mutex_unlock(lock);
    if (capability && cached)
        img_killpriv_undo_capability(upper, id, fd);
}

/* 0, or a negative errno. *done: the bytes that were written. */
static int write_all(int fd, uint64_t offset, const char *data, size_t size, size_t *done) {
    for (*done = 0; *done < size;) {
        ssize_t n = pwrite(fd, data + *done, size - *done, (off_t)(offset + *done));
        if (n < 0 && errno != EINTR)
            return -errno;
        *done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

ssize_t img_write(img_upper *upper, img_id id, uint64_t offset, const void *data, size_t size,
                  bool cached, const img_caller *kill) {
    uint64_t end;
    size_t done = 0;
    if (size > SSIZE_MAX || __builtin_add_overflow(offset, size, &end) || end > INT64_MAX)
        return -EFBIG;
    ssize_t fd = pin_to_write(upper, id, !cached);
    if (fd < 0)
        return fd;
    int result = kill ? img_killpriv_set_id(upper, id, (int)fd, kill) : 0;
    if (result == 0)
        result = write_all((int)fd, offset, data, size, &done);
    if (done)
        data_changed(upper, id, (int)fd, offset + done, cached);
    img_upper_unpin(upper, id);
    return result < 0 ? result : (ssize_t)done;
}

/* fallocate(2) that leaves the size as it was when it fails: ext4 leaves the file as large as it
 * could make it. */
static int allocate(int fd, int mode, uint64_t offset, uint64_t length) {
    struct stat before, after;
    int result;
    if (fstat(fd, &before) < 0)
        return -errno;
    do
        result = fallocate(fd, mode, (off_t)offset, (off_t)length) < 0 ? -errno : 0;
    while (result == -EINTR);
    if (result < 0 && fstat(fd, &after) == 0 && after.st_size > before.st_size &&
        ftruncate(fd, before.st_size) < 0)
        return -errno;
    return result;
}

int img_allocate(img_upper *upper, img_id id, int mode, uint64_t offset, uint64_t length,
                 const img_caller *kill) {
    uint64_t end;
    if (__builtin_add_overflow(offset, length, &end) || end > INT64_MAX)
        return -EFBIG;
    ssize_t fd = pin_to_write(upper, id, true);
    if (fd < 0)
        return fd == IMG_WRITE_DECLINED ? IMG_DECLINED : (int)fd;
    int result = kill ? img_killpriv_set_id(upper, id, (int)fd, kill) : 0;
    if (result == 0)
        result = allocate((int)fd, mode, offset, length);
    if (result == 0)
        data_changed(upper, id, (int)fd, mode & FALLOC_FL_KEEP_SIZE ? 0 : end, false);
    img_upper_unpin(upper, id);
    return result;
}

static bool cannot_share(ssize_t error) {
    return error == -EXDEV || error == -EOPNOTSUPP || error == -ENOSYS || error == -EINVAL ||
           error == -EBADF;
}

static ssize_t share(int from, uint64_t at, int to, uint64_t to_at, uint64_t length) {
    loff_t in = (loff_t)at, out = (loff_t)to_at;
    ssize_t n = copy_file_range(from, &in, to, &out, length, 0);
    return n < 0 ? -errno : n;
}

/* Copies from a layer's file through a buffer, for files with holes and for archives that cannot
 * share blocks with the upper. */
static ssize_t copy_layer(const img_content *content, uint64_t at, int to, uint64_t to_at,
                          uint64_t length) {
    ssize_t done = 0, n = 0;
    char *piece = malloc(COPY_PIECE);
    if (!piece)
        return -ENOMEM;
    uint64_t most = length < COPY_MOST ? length : COPY_MOST;
    while ((uint64_t)done < most) {
        size_t want =
            most - (uint64_t)done < COPY_PIECE ? (size_t)(most - (uint64_t)done) : COPY_PIECE;
        n = img_content_read(content, at + (uint64_t)done, piece, want);
        if (n <= 0)
            break;
        size_t written;
        n = write_all(to, to_at + (uint64_t)done, piece, (size_t)n, &written);
        done += (ssize_t)written;
        if (n < 0)
            break;
    }
    free(piece);
    return done ? done : n;
}

static ssize_t copy_from_layer(const img_content *content, uint64_t at, int to, uint64_t to_at,
                               uint64_t length) {
    if (at >= content->size)
        return 0;
    if (length > content->size - at)
        length = content->size - at;
    ssize_t n = img_content_share(content, at, to, to_at, length);
    if (n > 0 || (n < 0 && !cannot_share(n)))
        return n;
    return copy_layer(content, at, to, to_at, length);
}

/* Copies from any file into the open one. */
static ssize_t copy_into(img_upper *upper, img_id from, uint64_t at, int to, uint64_t to_at,
                         uint64_t length) {
    img_content content;
    lock_read(upper);
    const img_node *node = img_tree_node(upper->tree, from);
    bool file = node && S_ISREG(node->mode);
    bool in_upper = file && img_node_data_in_upper(node);
    if (file && !in_upper)
        content = img_content_of(upper->tree, node);
    unlock(upper);
    if (!file)
        return node ? -EINVAL : -ESTALE;
    if (!in_upper)
        return copy_from_layer(&content, at, to, to_at, length);
    int fd = img_upper_pin(upper, from);
    if (fd < 0)
        return fd;
    ssize_t n = share(fd, at, to, to_at, length);
    img_upper_unpin(upper, from);
    return n;
}

ssize_t img_copy_range(img_upper *upper, img_id from, uint64_t from_offset, img_id to,
                       uint64_t to_offset, uint64_t length, const img_caller *kill) {
    if (length > INT_MAX)
        length = INT_MAX & ~4095;
    if (from_offset > INT64_MAX - length || to_offset > INT64_MAX - length)
        return -EFBIG;
    ssize_t fd = pin_to_write(upper, to, true);
    if (fd < 0)
        return fd;
    ssize_t n = kill ? img_killpriv_set_id(upper, to, (int)fd, kill) : 0;
    if (n == 0)
        n = copy_into(upper, from, from_offset, (int)fd, to_offset, length);
    if (n > 0)
        data_changed(upper, to, (int)fd, to_offset + (uint64_t)n, false);
    img_upper_unpin(upper, to);
    return n;
}

int img_sync(img_upper *upper, img_id id, bool data_only) {
    if (upper->options.no_sync)
        return 0;
    int fd = img_upper_pin(upper, id);
    if (fd == -ESTALE || fd == -EINVAL)
        return 0;
    if (fd < 0)
        return fd;
    int result = (data_only ? fdatasync(fd) : fsync(fd)) < 0 ? -errno : 0;
    img_upper_unpin(upper, id);
    return result;
}
