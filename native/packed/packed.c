#define _GNU_SOURCE /* sched_getaffinity, CPU_COUNT, pthread_setname_np */
#include "packed/packed.h"

#include "packed/cursor.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    STREAMS = 4,     /* readers in order of one layer that are told apart */
    SPANS_AHEAD = 3, /* how many access points a reader in order has decoded ahead */
    JOBS = 64,       /* of all layers that wait for a thread; more are dropped */
    THREADS_MAX = 4,
    SAY_SECONDS = 3600, /* between two lines in the log that a cache takes nothing */
    ATTEMPTS = 3        /* to find a chunk that another thread has decoded meanwhile */
};

/* A reader in order: the chunk that it wants next, and up to where is decoded ahead. */
typedef struct stream {
    uint64_t next, ahead, turn;
    uint32_t run; /* chunks in order so far */
} stream;

struct img_packed {
    img_points points;
    img_chunkfile chunks;
    img_cursor_source source;
    atomic_int log_fd, event_fd;
    char name[128];
    char *chunks_at;       /* the path of the chunk cache, for the log; owned */
    uint64_t in_memory;    /* bytes of states of points */
    _Atomic uint64_t last; /* the chunk that was read last */
    _Atomic uint8_t *said; /* of each chunk: 1: wrong, and the log says so; owned */
    pthread_mutex_t mutex;
    stream streams[STREAMS]; /* mutex */
    uint64_t turns;          /* mutex */
    atomic_ullong decoded, loaded, wrong;
};

/* The states of all layers that are in memory, because there is no file of them: each layer may
 * take half of what is left. */
static atomic_ullong states_in_memory;

static uint64_t hold_states(img_points *points) {
    uint64_t taken = atomic_load(&states_in_memory);
    uint64_t left = taken < IMG_STATES_MAX ? IMG_STATES_MAX - taken : 0;
    uint64_t bytes = img_points_thin(points, left / 2);
    atomic_fetch_add(&states_in_memory, bytes);
    return bytes;
}

uint64_t img_packed_states(void) {
    return atomic_load(&states_in_memory);
}

/* Where a file's directory ends in its path. */
static size_t directory_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) : 0;
}

/* A message is one line. */
static void make_one_line(char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < ' ')
            *text = '?';
}

static void discard(img_packed *packed) {
    free(packed->chunks_at);
    atomic_fetch_sub(&states_in_memory, packed->in_memory);
    free(packed->said);
    free(packed);
}

img_packed *img_packed_new(const img_packed_files *files, img_points *points, const void *digests,
                           uint64_t n_digests, const char *name, img_error *err) {
    img_packed *packed = calloc(1, sizeof *packed);
    size_t n_at = directory_of(files->chunks_path);
    if (!packed || !(packed->said = calloc(n_digests + 1, sizeof *packed->said)) ||
        !(packed->chunks_at = strndup(files->chunks_path, n_at))) {
        if (packed)
            discard(packed);
        img_fail(err, ENOMEM, "out of memory");
        return NULL;
    }
    if (n_digests != img_chunks_of(points->head.tar_bytes)) {
        discard(packed);
        img_fail(err, EBADMSG, "not as many digests as the tar has chunks");
        return NULL;
    }
    if (img_chunkfile_init(&packed->chunks, files->chunks_dir,
                           files->chunks_path + n_at + (files->chunks_path[n_at] == '/'),
                           points->head.tar_bytes, digests, err) < 0) {
        discard(packed);
        return NULL;
    }
    packed->points = *points;
    *points = (img_points){.fd = -1};
    packed->in_memory = hold_states(&packed->points);
    packed->source =
        (img_cursor_source){&packed->points, files->blob_fd, files->blob_at, files->sidecar_fd};
    packed->log_fd = files->log_fd;
    packed->event_fd = -1;
    (void)snprintf(packed->name, sizeof packed->name, "%s", name);
    make_one_line(packed->name);
    make_one_line(packed->chunks_at);
    packed->last = UINT64_MAX;
    pthread_mutex_init(&packed->mutex, NULL);
    return packed;
}

uint64_t img_packed_size(const img_packed *packed) {
    return packed->points.head.tar_bytes;
}

void img_packed_log_to(img_packed *packed, int fd) {
    atomic_store(&packed->log_fd, fd);
}

void img_packed_tell(img_packed *packed, int event_fd) {
    atomic_store(&packed->event_fd, event_fd);
}

img_chunkfile *img_packed_chunks(img_packed *packed) {
    return &packed->chunks;
}

img_packed_counts img_packed_count(const img_packed *packed) {
    return (img_packed_counts){atomic_load(&packed->decoded), img_cursor_begun(),
                               atomic_load(&packed->loaded), atomic_load(&packed->wrong)};
}

/* ---- one chunk ---------------------------------------------------------------------------- */

/* A chunk that cannot be read: one line, however often it is asked for. */
static int wrong(img_packed *packed, uint64_t chunk, const char *why) {
    atomic_fetch_add(&packed->wrong, 1);
    int fd = atomic_load(&packed->log_fd);
    if (fd >= 0 && !atomic_exchange(&packed->said[chunk], 1))
        (void)dprintf(fd, "%s: bytes %llu to %llu of the tar cannot be read: %s\n", packed->name,
                      (unsigned long long)(chunk * IMG_CHUNK_BYTES),
                      (unsigned long long)(chunk * IMG_CHUNK_BYTES +
                                           img_chunkfile_size(&packed->chunks, chunk) - 1),
                      why);
    return -EIO;
}

static atomic_ullong all_kept; /* bytes, by all layers of the process */

static atomic_llong last_full; /* CLOCK_MONOTONIC seconds: when the keeper was told to make room */

static long long seconds_now(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1; /* never 0 */
}

/* True at most once in `seconds`, of all threads. */
static bool is_time(atomic_llong *last, long long seconds) {
    long long before = atomic_load(last), now = seconds_now();
    return (!before || now - before >= seconds) &&
           atomic_compare_exchange_strong(last, &before, now);
}

/* Says that the cache takes nothing: one line of each cause, of all layers. */
static void say_unkept(img_packed *packed) {
    static atomic_llong said[256]; /* of each errno: when */
    int error = img_chunkfile_failed(&packed->chunks), fd = atomic_load(&packed->log_fd);
    if (!error || fd < 0 || !is_time(&said[error & 255], SAY_SECONDS))
        return;
    (void)dprintf(fd, "%.2000s: %s: what is decompressed cannot be kept, so reading takes longer\n",
                  packed->chunks_at, strerror(error));
}

/* Without a keeper (daemon/chunkkeeper.py), of each layer no more is kept than a keeper lets come
 * at once.
 */
static void keep(img_packed *packed, uint64_t chunk, const void *data) {
    int event_fd = atomic_load(&packed->event_fd);
    uint64_t one = 1;
    if (event_fd < 0 && atomic_load(&packed->chunks.filled) >= IMG_PACKED_TELL)
        return;
    unsigned long long bytes = img_chunkfile_fill(&packed->chunks, chunk, data);
    unsigned long long before = atomic_fetch_add(&all_kept, bytes);
    int failed = atomic_load(&packed->chunks.failed);
    bool full = !bytes && (failed == ENOSPC || failed == EDQUOT) && is_time(&last_full, 1);
    if (event_fd >= 0 && (full || before / IMG_PACKED_TELL != (before + bytes) / IMG_PACKED_TELL))
        (void)!write(event_fd, &one, sizeof one);
}

/* Decodes a chunk, compares its digest and keeps it.  NULL: err says why; its code is 0 if the
 * decoder can go on. */
static const char *make_chunk(img_packed *packed, img_cursor *cursor, uint64_t chunk,
                              img_error *err) {
    size_t bytes = img_chunkfile_size(&packed->chunks, chunk);
    /* Its digest was compared then.  Without this a chunk that the cache does not take would be
     * hashed for each extent of a sparse file, of which it may have 128 Ki. */
    const char *data = img_cursor_last(cursor, chunk);
    if (data) {
        if (!atomic_load(&packed->chunks.failed)) /* it was removed meanwhile */
            keep(packed, chunk, data);
        img_cursor_passed(cursor, chunk);
        return data;
    }
    data = img_cursor_chunk(cursor, chunk, bytes, err);
    atomic_fetch_add(&packed->decoded, bytes);
    if (!data)
        return NULL;
    if (!img_chunkfile_matches(&packed->chunks, chunk, data)) {
        (void)img_fail(err, 0, "they have another digest than when the layer was first read");
        return NULL;
    }
    atomic_store_explicit(&packed->said[chunk], 0, memory_order_relaxed);
    keep(packed, chunk, data);
    img_cursor_passed(cursor, chunk);
    return data;
}

static bool is_known(img_packed *packed, uint64_t chunk) {
    return atomic_load(&packed->chunks.known[chunk]) != 0;
}

/* Decodes chunks first to last with one cursor, and those on the way that are not known yet.  out:
 * size bytes at `at` of the first one are copied there; NULL: nothing is.  0; -EAGAIN: another
 * thread has decoded it meanwhile; -EIO; -ENOMEM. */
static int decode(img_packed *packed, uint64_t first, uint64_t last, size_t at, void *out,
                  size_t size) {
    int result;
    bool spoilt = false;
    img_error err = {0};
    img_cursor *cursor = img_cursor_take(&packed->source, first, last, &result);
    if (!cursor)
        return result ? result : -EAGAIN;
    for (uint64_t chunk = img_cursor_next(cursor, first); result == 0 && chunk <= last; chunk++) {
        if (chunk < first && is_known(packed, chunk))
            continue;
        const char *data = make_chunk(packed, cursor, chunk, &err);
        if (data && out && chunk == first)
            memcpy(out, data + at, size);
        spoilt |= !data;
        /* Behind a wrong chunk on the way the right one may follow. */
        if (!data && (chunk >= first || err.code))
            result = out ? wrong(packed, first, err.message) : -EIO;
    }
    if (spoilt)
        img_cursor_spoil(cursor);
    img_cursor_give(cursor);
    return result;
}

/* A chunk that another process, or another mount, has kept. */
static int load(img_packed *packed, uint64_t chunk, size_t at, void *out, size_t size) {
    if (!img_chunkfile_keeps(&packed->chunks))
        return -EAGAIN;
    char *buffer = malloc(IMG_CHUNK_BYTES);
    int result = buffer ? -EAGAIN : -ENOMEM;
    if (buffer && img_chunkfile_load(&packed->chunks, chunk, buffer)) {
        memcpy(out, buffer + at, size);
        atomic_fetch_add(&packed->loaded, 1);
        result = 0;
    }
    free(buffer);
    return result;
}

static int read_chunk(img_packed *packed, uint64_t chunk, size_t at, void *out, size_t size) {
    int result = -EAGAIN;
    for (int i = 0; result == -EAGAIN; i++) {
        if (packed->source.blob_fd < 0)
            return -EIO;
        result = img_chunkfile_read(&packed->chunks, chunk, at, out, size, false) == (ssize_t)size
                     ? 0
                     : load(packed, chunk, at, out, size);
        if (result == -EAGAIN)
            result = decode(packed, chunk, chunk, at, out, size);
        if (i == ATTEMPTS && result == -EAGAIN)
            (void)sched_yield();
    }
    say_unkept(packed);
    return result;
}

/* ---- decoding ahead ----------------------------------------------------------------------- */

typedef struct job {
    img_packed *packed;
    uint64_t first, last;
} job;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t come, done;
    job jobs[JOBS];
    unsigned n_jobs;
    img_packed *working[THREADS_MAX];
    pthread_t threads[THREADS_MAX];
    unsigned n_threads;
    bool over;
} ahead = {.mutex = PTHREAD_MUTEX_INITIALIZER,
           .come = PTHREAD_COND_INITIALIZER,
           .done = PTHREAD_COND_INITIALIZER};

static void run(const job *todo) {
    uint64_t first = todo->first;
    while (first <= todo->last && is_known(todo->packed, first))
        first++;
    char *buffer = malloc(IMG_CHUNK_BYTES);
    while (buffer && first <= todo->last &&
           img_chunkfile_load(&todo->packed->chunks, first, buffer))
        first++;
    free(buffer);
    if (first <= todo->last)
        (void)decode(todo->packed, first, todo->last, 0, NULL, 0);
}

static void *ahead_main(void *arg) {
    unsigned self = (unsigned)(uintptr_t)arg;
    (void)pthread_mutex_lock(&ahead.mutex);
    while (!ahead.over) {
        if (!ahead.n_jobs) {
            (void)pthread_cond_wait(&ahead.come, &ahead.mutex);
            continue;
        }
        job todo = ahead.jobs[0];
        ahead.n_jobs--;
        memmove(ahead.jobs, ahead.jobs + 1, ahead.n_jobs * sizeof todo);
        ahead.working[self] = todo.packed;
        (void)pthread_mutex_unlock(&ahead.mutex);
        run(&todo);
        (void)pthread_mutex_lock(&ahead.mutex);
        ahead.working[self] = NULL;
        (void)pthread_cond_broadcast(&ahead.done);
    }
    (void)pthread_mutex_unlock(&ahead.mutex);
    return NULL;
}

/* ahead.mutex.  Starts the threads: one for each processor. */
static void start_threads(void) {
    cpu_set_t set;
    unsigned n = sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
    n = n < THREADS_MAX ? n : THREADS_MAX;
    while (ahead.n_threads < n && pthread_create(&ahead.threads[ahead.n_threads], NULL, ahead_main,
                                                 (void *)(uintptr_t)ahead.n_threads) == 0) {
        (void)pthread_setname_np(ahead.threads[ahead.n_threads], "img-ahead");
        ahead.n_threads++;
    }
}

static void ask(img_packed *packed, uint64_t first, uint64_t last) {
    (void)pthread_mutex_lock(&ahead.mutex);
    if (!ahead.n_threads && !ahead.over)
        start_threads();
    if (ahead.n_threads && ahead.n_jobs < JOBS) {
        ahead.jobs[ahead.n_jobs++] = (job){packed, first, last};
        (void)pthread_cond_signal(&ahead.come);
    }
    (void)pthread_mutex_unlock(&ahead.mutex);
}

static bool works_for(const img_packed *packed) {
    for (unsigned i = 0; i < THREADS_MAX; i++)
        if (ahead.working[i] == packed)
            return true;
    return false;
}

static void drop_jobs(const img_packed *packed) {
    unsigned kept = 0;
    (void)pthread_mutex_lock(&ahead.mutex);
    for (unsigned i = 0; i < ahead.n_jobs; i++)
        if (ahead.jobs[i].packed != packed)
            ahead.jobs[kept++] = ahead.jobs[i];
    ahead.n_jobs = kept;
    while (works_for(packed))
        (void)pthread_cond_wait(&ahead.done, &ahead.mutex);
    (void)pthread_mutex_unlock(&ahead.mutex);
}

void img_packed_stop_threads(void) {
    (void)pthread_mutex_lock(&ahead.mutex);
    unsigned n = ahead.n_threads;
    ahead.over = true;
    ahead.n_jobs = 0;
    (void)pthread_cond_broadcast(&ahead.come);
    (void)pthread_mutex_unlock(&ahead.mutex);
    for (unsigned i = 0; i < n; i++)
        (void)pthread_join(ahead.threads[i], NULL);
    (void)pthread_mutex_lock(&ahead.mutex);
    ahead.n_threads = 0;
    ahead.over = false;
    (void)pthread_mutex_unlock(&ahead.mutex);
}

static void close_one(int *fd) {
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

void img_packed_close(img_packed *packed) {
    drop_jobs(packed);
    img_cursor_forget(&packed->source);
    img_chunkfile_shut(&packed->chunks);
    close_one(&packed->source.blob_fd);
    close_one(&packed->source.sidecar_fd);
    img_points_shut(&packed->points);
}

void img_packed_free(img_packed *packed) {
    if (!packed)
        return;
    img_packed_close(packed);
    img_chunkfile_close(&packed->chunks);
    img_points_free(&packed->points);
    pthread_mutex_destroy(&packed->mutex);
    discard(packed);
}

/* ---- readers in order --------------------------------------------------------------------- */

/* The last chunk that is decoded from the same point as this one. */
static uint64_t span_end(const img_packed *packed, uint64_t chunk) {
    const img_points *points = &packed->points;
    const img_point *point = img_points_find(points, chunk * IMG_CHUNK_BYTES);
    uint64_t last = packed->chunks.n - 1;
    if (point + 1 < points->points + points->head.n_points) {
        uint64_t next = (point[1].out + IMG_CHUNK_BYTES - 1) / IMG_CHUNK_BYTES;
        while (next <= chunk && ++point + 1 < points->points + points->head.n_points)
            next = (point[1].out + IMG_CHUNK_BYTES - 1) / IMG_CHUNK_BYTES;
        last = next > chunk && next - 1 < last ? next - 1 : last;
    }
    return last;
}

static stream *stream_of(img_packed *packed, uint64_t chunk) {
    stream *oldest = &packed->streams[0];
    for (int i = 0; i < STREAMS; i++) {
        stream *each = &packed->streams[i];
        if (each->run && each->next == chunk)
            return each;
        if (each->turn < oldest->turn)
            oldest = each;
    }
    *oldest = (stream){.next = chunk};
    return oldest;
}

/* mutex.  The next stretch to decode ahead of the stream; false: enough is ahead. */
static bool next_stretch(const img_packed *packed, stream *reader, job *todo) {
    uint64_t limit = reader->next;
    for (int i = 0; i < SPANS_AHEAD && limit < packed->chunks.n; i++)
        limit = span_end(packed, limit) + 1;
    if (reader->ahead < reader->next)
        reader->ahead = reader->next;
    if (reader->ahead >= limit)
        return false;
    todo->first = reader->ahead;
    todo->last = span_end(packed, todo->first);
    reader->ahead = todo->last + 1;
    return true;
}

/* To call when a chunk was read. */
static void note_read(img_packed *packed, uint64_t chunk) {
    job todo[SPANS_AHEAD];
    int n = 0;
    if (atomic_exchange_explicit(&packed->last, chunk, memory_order_relaxed) == chunk ||
        !img_chunkfile_keeps(&packed->chunks))
        return;
    (void)pthread_mutex_lock(&packed->mutex);
    stream *reader = stream_of(packed, chunk);
    reader->next = chunk + 1;
    reader->turn = ++packed->turns;
    if (++reader->run >= 2)
        while (n < SPANS_AHEAD && next_stretch(packed, reader, &todo[n]))
            n++;
    (void)pthread_mutex_unlock(&packed->mutex);
    for (int i = 0; i < n; i++)
        ask(packed, todo[i].first, todo[i].last);
}

/* ---- reading ------------------------------------------------------------------------------ */

static bool is_inside(const img_packed *packed, uint64_t offset, size_t size) {
    uint64_t end = packed->points.head.tar_bytes;
    return offset <= end && size <= end - offset;
}

ssize_t img_packed_read(img_packed *packed, uint64_t offset, void *buffer, size_t size) {
    if (!is_inside(packed, offset, size))
        return -EIO;
    for (size_t done = 0; done < size;) {
        uint64_t chunk = (offset + done) / IMG_CHUNK_BYTES;
        size_t at = (size_t)((offset + done) % IMG_CHUNK_BYTES);
        size_t piece = IMG_CHUNK_BYTES - at < size - done ? IMG_CHUNK_BYTES - at : size - done;
        int result = read_chunk(packed, chunk, at, (char *)buffer + done, piece);
        if (result < 0)
            return result;
        note_read(packed, chunk);
        done += piece;
    }
    return (ssize_t)size;
}

int img_packed_prepare(img_packed *packed, uint64_t offset, uint64_t size) {
    char first;
    if (!img_chunkfile_keeps(&packed->chunks))
        return -EAGAIN;
    for (uint64_t chunk = offset / IMG_CHUNK_BYTES;
         size && chunk <= (offset + size - 1) / IMG_CHUNK_BYTES; chunk++) {
        if (chunk >= packed->chunks.n)
            return -EIO;
        int result = is_known(packed, chunk) ? 0 : read_chunk(packed, chunk, 0, &first, 1);
        if (result < 0)
            return result;
        note_read(packed, chunk);
    }
    return 0;
}

ssize_t img_packed_read_now(img_packed *packed, uint64_t offset, void *buffer, size_t size) {
    if (!is_inside(packed, offset, size))
        return -EAGAIN;
    for (size_t done = 0; done < size;) {
        uint64_t chunk = (offset + done) / IMG_CHUNK_BYTES;
        size_t at = (size_t)((offset + done) % IMG_CHUNK_BYTES);
        size_t piece = IMG_CHUNK_BYTES - at < size - done ? IMG_CHUNK_BYTES - at : size - done;
        if (img_chunkfile_read(&packed->chunks, chunk, at, (char *)buffer + done, piece, true) !=
            (ssize_t)piece)
            return -EAGAIN;
        note_read(packed, chunk);
        done += piece;
    }
    return (ssize_t)size;
}
