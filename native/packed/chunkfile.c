#define _GNU_SOURCE /* preadv2, fallocate, F_OFD_SETLK, sync_file_range */
#include "packed/chunkfile.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define ROOM_MIN (64u << 20)

int img_chunkfile_init(img_chunkfile *file, int directory, const char *name, uint64_t tar_bytes,
                       const void *digests, img_error *err) {
    uint64_t n = img_chunks_of(tar_bytes);
    *file = (img_chunkfile){.directory = directory, .tar_bytes = tar_bytes, .n = n};
    atomic_init(&file->fd, directory < 0 ? -1 : IMG_CHUNKFILE_UNTRIED);
    pthread_mutex_init(&file->filling, NULL);
    pthread_mutex_init(&file->asking, NULL);
    (void)snprintf(file->name, sizeof file->name, "%s", name);
    file->digests = malloc(n * IMG_DIGEST + 1);
    file->known = calloc(n + 1, sizeof *file->known);
    file->used = calloc(n + 1, sizeof *file->used);
    if (!file->digests || !file->known || !file->used) {
        img_chunkfile_close(file);
        return img_fail(err, ENOMEM, "out of memory");
    }
    memcpy(file->digests, digests, n * IMG_DIGEST);
    return 0;
}

void img_chunkfile_shut(img_chunkfile *file) {
    int fd = atomic_exchange(&file->fd, -1);
    if (fd >= 0)
        (void)close(fd);
}

void img_chunkfile_close(img_chunkfile *file) {
    img_chunkfile_shut(file);
    free(file->digests);
    free(file->known);
    free(file->used);
    pthread_mutex_destroy(&file->filling);
    pthread_mutex_destroy(&file->asking);
}

static void note_failed(img_chunkfile *file, int error) {
    error = error ? error : EIO; /* a short read or write sets none */
    atomic_store(&file->failed, error);
    atomic_store(&file->unsaid, error);
}

int img_chunkfile_failed(img_chunkfile *file) {
    return atomic_load_explicit(&file->unsaid, memory_order_relaxed)
               ? atomic_exchange(&file->unsaid, 0)
               : 0;
}

static off_t state_at(uint64_t n, uint64_t chunk) {
    return (off_t)(n * IMG_CHUNK_BYTES + chunk * sizeof(img_chunk_state));
}

/* filling. */
static int open_it(const img_chunkfile *file) {
    struct stat st;
    int fd = openat(file->directory, file->name,
                    O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600);
    if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) {
        (void)close(fd);
        errno = EINVAL;
        return -1;
    }
    off_t whole = state_at(file->n, file->n); /* evictions find out n by it */
    if (fd >= 0 && st.st_size != whole && ftruncate(fd, whole) < 0) {
        (void)close(fd);
        return -1;
    }
    if (fd >= 0)
        (void)flock(fd,
                    LOCK_SH); /* who removes whole files leaves this one (layer/chunkcache.py) */
    return fd;
}

bool img_chunkfile_keeps(img_chunkfile *file) {
    int fd = atomic_load(&file->fd);
    if (fd == IMG_CHUNKFILE_UNTRIED) {
        (void)pthread_mutex_lock(&file->filling);
        fd = atomic_load(&file->fd);
        if (fd == IMG_CHUNKFILE_UNTRIED) {
            fd = open_it(file);
            bool later = fd < 0 && (errno == EMFILE || errno == ENFILE);
            if (fd < 0)
                note_failed(file, errno);
            if (!later)
                atomic_store(&file->fd, fd);
        }
        (void)pthread_mutex_unlock(&file->filling);
    }
    return fd >= 0;
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

static bool read_state(int fd, off_t at, img_chunk_state *state) {
    ssize_t n = pread(fd, state, sizeof *state, at);
    if (n == 0)
        *state = (img_chunk_state){0, 0}; /* the file grows as chunks come */
    return n == 0 || n == (ssize_t)sizeof *state;
}

static bool write_state(int fd, off_t at, const img_chunk_state *state) {
    return pwrite(fd, state, sizeof *state, at) == (ssize_t)sizeof *state;
}

static int lock_state(int fd, off_t at, short type) {
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = sizeof(img_chunk_state)};
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

/* True if the kernel could not write to the disk what a process has kept, since it was asked last;
 * then nothing is known any more, and what is read next comes from the disk. */
static bool has_lost(img_chunkfile *file) {
    const off_t behind = (off_t)1 << 62; /* no page is there to wait for */
    (void)pthread_mutex_lock(&file->asking);
    bool lost = sync_file_range(file->fd, behind, 1, SYNC_FILE_RANGE_WAIT_BEFORE) < 0 &&
                (errno == EIO || errno == ENOSPC || errno == EDQUOT);
    if (lost) {
        note_failed(file, errno);
        atomic_fetch_add(&file->losses, 1);
        for (uint64_t i = 0; i < file->n; i++)
            atomic_store(&file->known[i], 0);
        (void)posix_fadvise(file->fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    (void)pthread_mutex_unlock(&file->asking);
    return lost;
}

ssize_t img_chunkfile_read(img_chunkfile *file, uint64_t chunk, size_t at, void *buffer,
                           size_t size, bool now) {
    uint32_t known = atomic_load_explicit(&file->known[chunk], memory_order_acquire);
    uint64_t offset = chunk * IMG_CHUNK_BYTES + at;
    unsigned losses = atomic_load(&file->losses);
    img_chunk_state state;
    if (!known || !(now ? read_now : read_all)(file->fd, buffer, size, offset))
        return -EAGAIN;
    /* used = 0: the file was cut since, and other chunks made it as long as before */
    if (!read_state(file->fd, state_at(file->n, chunk), &state) || !state.used ||
        state.generation + 1 != known) {
        atomic_store(&file->known[chunk], 0);
        return -EAGAIN;
    }
    if (has_lost(file) || atomic_load(&file->losses) != losses)
        return -EAGAIN;
    atomic_store_explicit(&file->used[chunk], 1, memory_order_relaxed);
    return (ssize_t)size;
}

bool img_chunkfile_load(img_chunkfile *file, uint64_t chunk, void *buffer) {
    img_chunk_state before, after;
    if (!img_chunkfile_keeps(file) || !read_state(file->fd, state_at(file->n, chunk), &before) ||
        !before.used ||
        !read_all(file->fd, buffer, img_chunkfile_size(file, chunk), chunk * IMG_CHUNK_BYTES) ||
        !img_chunkfile_matches(file, chunk, buffer) ||
        !read_state(file->fd, state_at(file->n, chunk), &after) ||
        after.generation != before.generation)
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

static uint32_t fresh_generation(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return ((uint32_t)now.tv_nsec ^ ((uint32_t)now.tv_sec << 20)) | 1u;
}

static bool write_chunk(img_chunkfile *file, uint64_t chunk, const char *data) {
    size_t left = img_chunkfile_size(file, chunk);
    for (uint64_t at = chunk * IMG_CHUNK_BYTES; left;) {
        ssize_t n = pwrite(file->fd, data, left, (off_t)at);
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
    int result = lock_state(file->fd, state_at(file->n, chunk), F_RDLCK);
    if (result == 0) {
        change(file, chunk, data);
        (void)lock_state(file->fd, state_at(file->n, chunk), F_UNLCK);
    } else if (result != -EAGAIN && result != -EACCES) { /* a file system without locks */
        note_failed(file, -result);
    }
    (void)pthread_mutex_unlock(&file->filling);
}

static bool is_zeros(const char *data, size_t size) {
    return data[0] == 0 && memcmp(data, data + 1, size - 1) == 0;
}

/* Writes the chunk; one of zeros becomes a hole. */
static bool put_chunk(img_chunkfile *file, uint64_t chunk, const void *data) {
    if (!is_zeros(data, img_chunkfile_size(file, chunk)))
        return write_chunk(file, chunk, data);
    return fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     (off_t)(chunk * IMG_CHUNK_BYTES), IMG_CHUNK_BYTES) == 0 ||
           write_chunk(file, chunk, data); /* a file system without holes */
}

/* As fusemount/budget.py: what caches leave free of a file system. */
static bool has_room(int fd, size_t size) {
    struct statvfs disk;
    if (fstatvfs(fd, &disk) < 0)
        return true;
    uint64_t all = (uint64_t)disk.f_blocks * disk.f_frsize;
    uint64_t room = all / 100 < ROOM_MIN ? all / 100 : ROOM_MIN;
    return (uint64_t)disk.f_bavail * disk.f_frsize >= room + size;
}

static void fill(img_chunkfile *file, uint64_t chunk, const void *data) {
    img_chunk_state state;
    if (!has_room(file->fd, img_chunkfile_size(file, chunk))) {
        note_failed(file, ENOSPC);
        return;
    }
    errno = 0;
    if (!read_state(file->fd, state_at(file->n, chunk), &state) || !put_chunk(file, chunk, data)) {
        note_failed(file, errno);
        return;
    }
    /* After a truncation all generations are 0; a random one tells this life from that before. */
    if (!state.used && !state.generation)
        state.generation = fresh_generation();
    state.used = now_seconds();
    if (!write_state(file->fd, state_at(file->n, chunk), &state)) {
        note_failed(file, errno);
        return;
    }
    atomic_store(&file->failed, 0);
    atomic_store_explicit(&file->known[chunk], state.generation + 1, memory_order_release);
    atomic_fetch_add(&file->filled, img_chunkfile_size(file, chunk));
}

size_t img_chunkfile_fill(img_chunkfile *file, uint64_t chunk, const void *data) {
    if (!img_chunkfile_keeps(file))
        return 0;
    atomic_store_explicit(&file->known[chunk], 0, memory_order_relaxed);
    locked(file, chunk, fill, data);
    return atomic_load(&file->known[chunk]) ? img_chunkfile_size(file, chunk) : 0;
}

static void note_used(img_chunkfile *file, uint64_t chunk, const void *now) {
    img_chunk_state state;
    if (!read_state(file->fd, state_at(file->n, chunk), &state) || !state.used)
        return;
    memcpy(&state.used, now, sizeof state.used);
    (void)write_state(file->fd, state_at(file->n, chunk), &state);
}

void img_chunkfile_note_used(img_chunkfile *file, uint32_t now) {
    for (uint64_t i = 0; atomic_load(&file->fd) >= 0 && i < file->n; i++)
        if (atomic_exchange_explicit(&file->used[i], 0, memory_order_relaxed))
            locked(file, i, note_used, &now);
}

int img_chunk_punch(int fd, uint64_t n, uint64_t chunk) {
    off_t at = state_at(n, chunk);
    img_chunk_state state;
    int result = lock_state(fd, at, F_WRLCK);
    if (result == -EAGAIN || result == -EACCES)
        return 0;
    if (result < 0)
        return result;
    if (!read_state(fd, at, &state)) {
        result = -EIO;
    } else {
        state.generation++;
        state.used = 0;
        result = 1;
        if (!write_state(fd, at, &state) ||
            fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      (off_t)(chunk * IMG_CHUNK_BYTES), IMG_CHUNK_BYTES) < 0)
            result = -errno;
    }
    (void)lock_state(fd, at, F_UNLCK);
    return result;
}
