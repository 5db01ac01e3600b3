#define _GNU_SOURCE /* preadv2, fallocate, F_OFD_SETLK */
#include "packed/chunkfile.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

int img_chunkfile_init(img_chunkfile *file, int data_fd, int states_fd, uint64_t tar_bytes,
                       const void *digests, img_error *err) {
    uint64_t n = img_chunks_of(tar_bytes);
    *file =
        (img_chunkfile){.data_fd = data_fd, .states_fd = states_fd, .tar_bytes = tar_bytes, .n = n};
    pthread_mutex_init(&file->filling, NULL);
    file->digests = malloc(n * IMG_DIGEST + 1);
    file->known = calloc(n + 1, sizeof *file->known);
    file->used = calloc(n + 1, sizeof *file->used);
    if (!file->digests || !file->known || !file->used) {
        file->data_fd = file->states_fd = -1; /* the caller keeps them */
        img_chunkfile_close(file);
        return img_fail(err, ENOMEM, "out of memory");
    }
    memcpy(file->digests, digests, n * IMG_DIGEST);
    return 0;
}

void img_chunkfile_close(img_chunkfile *file) {
    if (file->data_fd >= 0)
        (void)close(file->data_fd);
    if (file->states_fd >= 0)
        (void)close(file->states_fd);
    free(file->digests);
    free(file->known);
    free(file->used);
    pthread_mutex_destroy(&file->filling);
    *file = (img_chunkfile){.data_fd = -1, .states_fd = -1};
}

size_t img_chunkfile_size(const img_chunkfile *file, uint64_t chunk) {
    uint64_t left = file->tar_bytes - chunk * IMG_CHUNK_BYTES;
    return left < IMG_CHUNK_BYTES ? (size_t)left : IMG_CHUNK_BYTES;
}

bool img_chunkfile_matches(const img_chunkfile *file, uint64_t chunk, const void *data) {
    uint8_t digest[EVP_MAX_MD_SIZE];
    return EVP_Digest(data, img_chunkfile_size(file, chunk), digest, NULL, EVP_sha256(), NULL) ==
               1 &&
           memcmp(digest, file->digests + chunk * IMG_DIGEST, IMG_DIGEST) == 0;
}

/* ---- states ------------------------------------------------------------------------------- */

static bool read_state(int fd, uint64_t chunk, img_chunk_state *state) {
    ssize_t n = pread(fd, state, sizeof *state, (off_t)(chunk * sizeof *state));
    if (n == 0)
        *state = (img_chunk_state){0, 0}; /* the file grows as chunks come */
    return n == 0 || n == (ssize_t)sizeof *state;
}

static bool write_state(int fd, uint64_t chunk, const img_chunk_state *state) {
    return pwrite(fd, state, sizeof *state, (off_t)(chunk * sizeof *state)) ==
           (ssize_t)sizeof *state;
}

static int lock_chunk(int fd, uint64_t chunk, short type) {
    struct flock lock = {.l_type = type,
                         .l_whence = SEEK_SET,
                         .l_start = (off_t)(chunk * sizeof(img_chunk_state)),
                         .l_len = sizeof(img_chunk_state)};
    return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

/* ---- reading ------------------------------------------------------------------------------ */

static bool read_all(int fd, void *buffer, size_t size, uint64_t at) {
    for (char *to = buffer; size;) {
        ssize_t n = pread(fd, to, size, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        to += n;
        at += (uint64_t)n;
        size -= (size_t)n;
    }
    return true;
}

static bool read_now(int fd, void *buffer, size_t size, uint64_t at) {
    struct iovec iov = {buffer, size};
    return preadv2(fd, &iov, 1, (off_t)at, RWF_NOWAIT) == (ssize_t)size;
}

ssize_t img_chunkfile_read(img_chunkfile *file, uint64_t chunk, size_t at, void *buffer,
                           size_t size, bool now) {
    uint32_t known = atomic_load_explicit(&file->known[chunk], memory_order_acquire);
    uint64_t offset = chunk * IMG_CHUNK_BYTES + at;
    img_chunk_state state;
    if (!known || !(now ? read_now : read_all)(file->data_fd, buffer, size, offset))
        return -EAGAIN;
    if (!read_state(file->states_fd, chunk, &state) || state.generation + 1 != known) {
        atomic_store(&file->known[chunk], 0);
        return -EAGAIN;
    }
    atomic_store_explicit(&file->used[chunk], 1, memory_order_relaxed);
    return (ssize_t)size;
}

bool img_chunkfile_load(img_chunkfile *file, uint64_t chunk, void *buffer) {
    img_chunk_state before, after;
    if (file->data_fd < 0 || !read_state(file->states_fd, chunk, &before) || !before.used ||
        !read_all(file->data_fd, buffer, img_chunkfile_size(file, chunk),
                  chunk * IMG_CHUNK_BYTES) ||
        !img_chunkfile_matches(file, chunk, buffer) ||
        !read_state(file->states_fd, chunk, &after) || after.generation != before.generation)
        return false;
    atomic_store_explicit(&file->known[chunk], before.generation + 1, memory_order_release);
    atomic_store_explicit(&file->used[chunk], 1, memory_order_relaxed);
    return true;
}

/* ---- changing ----------------------------------------------------------------------------- */

static uint32_t now_seconds(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return (uint32_t)now.tv_sec | 1; /* never 0 */
}

static bool write_chunk(img_chunkfile *file, uint64_t chunk, const char *data) {
    size_t left = img_chunkfile_size(file, chunk);
    for (uint64_t at = chunk * IMG_CHUNK_BYTES; left;) {
        ssize_t n = pwrite(file->data_fd, data, left, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        data += n;
        at += (uint64_t)n;
        left -= (size_t)n;
    }
    return true;
}

/* Calls change under the lock of the chunk, unless the chunk is being punched. */
static void locked(img_chunkfile *file, uint64_t chunk,
                   void change(img_chunkfile *file, uint64_t chunk, const void *data),
                   const void *data) {
    (void)pthread_mutex_lock(&file->filling);
    if (lock_chunk(file->states_fd, chunk, F_RDLCK) == 0) {
        change(file, chunk, data);
        (void)lock_chunk(file->states_fd, chunk, F_UNLCK);
    }
    (void)pthread_mutex_unlock(&file->filling);
}

static void fill(img_chunkfile *file, uint64_t chunk, const void *data) {
    img_chunk_state state;
    if (!read_state(file->states_fd, chunk, &state) || !write_chunk(file, chunk, data)) {
        atomic_store(&file->failed, errno);
        return;
    }
    state.used = now_seconds();
    if (!write_state(file->states_fd, chunk, &state))
        return;
    atomic_store_explicit(&file->known[chunk], state.generation + 1, memory_order_release);
    atomic_fetch_add(&file->filled, img_chunkfile_size(file, chunk));
}

void img_chunkfile_fill(img_chunkfile *file, uint64_t chunk, const void *data) {
    if (file->data_fd >= 0)
        locked(file, chunk, fill, data);
}

static void note_used(img_chunkfile *file, uint64_t chunk, const void *now) {
    img_chunk_state state;
    if (!read_state(file->states_fd, chunk, &state) || !state.used)
        return;
    memcpy(&state.used, now, sizeof state.used);
    (void)write_state(file->states_fd, chunk, &state);
}

void img_chunkfile_note_used(img_chunkfile *file, uint32_t now) {
    for (uint64_t i = 0; file->data_fd >= 0 && i < file->n; i++)
        if (atomic_exchange_explicit(&file->used[i], 0, memory_order_relaxed))
            locked(file, i, note_used, &now);
}

int img_chunk_punch(int data_fd, int states_fd, uint64_t chunk) {
    img_chunk_state state;
    int locked = lock_chunk(states_fd, chunk, F_WRLCK);
    if (locked == -EAGAIN || locked == -EACCES)
        return 0;
    if (locked < 0)
        return locked;
    int result = 1;
    if (!read_state(states_fd, chunk, &state)) {
        result = -EIO;
    } else {
        state.generation++;
        state.used = 0;
        if (!write_state(states_fd, chunk, &state) ||
            fallocate(data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      (off_t)(chunk * IMG_CHUNK_BYTES), IMG_CHUNK_BYTES) < 0)
            result = -errno;
    }
    (void)lock_chunk(states_fd, chunk, F_UNLCK);
    return result;
}
