/* fastloop.c: the threads that read the device: which of them read, which sleep, and how they end.
 *
 * A thread is in one of three states:
 *     reading   reads the device; at least one thread does, except when all are busy
 *     busy      works on a request
 *     parked    sleeps on a condition variable, so that this code decides when it wakes.  In a
 *               read(2) of the device, each request would wake it, even if a spinning thread takes
 *               the request.
 *
 * A thread that finds the device empty parks if another thread is reading.  The last reader looks
 * again and again for spin_us, then sleeps in poll.  A parked thread is woken when QUEUED requests
 * in a row were there without waiting, before an operation that may wait, and by the watch thread
 * when no thread has been reading for a millisecond.
 */
#define _GNU_SOURCE /* pthread_setname_np */
#include "fast/fastloop.h"

#include "fast/fastrequest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Waking a thread costs more than answering a few requests. */
enum { QUEUED = 16 };

enum { WATCH_NS = 1000000, WATCH_IDLE = 64 /* looks without events before the watch sleeps too */ };

typedef struct reader {
    fast_loop *loop;
    pthread_t thread;
    int fd;
    char *in, *out;
} reader;

struct fast_loop {
    img_fastpath *path;
    atomic_bool over;
    atomic_int reading;  /* threads that read the device, or are about to */
    atomic_ullong turns; /* requests taken */
    pthread_mutex_t mutex;
    pthread_cond_t wake, watch;
    int parked, called; /* mutex: threads that sleep, and how many of these were woken */
    atomic_bool watch_sleeps;
    bool watch_made;
    pthread_t watch_thread;
    unsigned n_readers;
    reader readers[];
};

/* ---- parking ------------------------------------------------------------------------------ */

/* Wakes a parked thread, if there is one, to read the device. */
static void call_one(fast_loop *loop) {
    (void)pthread_mutex_lock(&loop->mutex);
    if (loop->called < loop->parked) {
        loop->called++;
        /* Counts as reading from now on, so that no second thread is woken. */
        atomic_fetch_add(&loop->reading, 1);
        (void)pthread_cond_signal(&loop->wake);
    }
    (void)pthread_mutex_unlock(&loop->mutex);
}

/* Sleeps until woken. False, without sleeping, when no other thread reads: then the caller must. */
static bool park(reader *self) {
    fast_loop *loop = self->loop;
    int reading = atomic_load(&loop->reading);
    do
        if (reading < 2)
            return false;
    while (!atomic_compare_exchange_weak(&loop->reading, &reading, reading - 1));
    (void)pthread_mutex_lock(&loop->mutex);
    loop->parked++;
    while (!loop->called && !atomic_load(&loop->over))
        (void)pthread_cond_wait(&loop->wake, &loop->mutex);
    if (loop->called)
        loop->called--;
    loop->parked--;
    (void)pthread_mutex_unlock(&loop->mutex);
    return true;
}

void fast_will_wait(img_fastpath *path) {
    if (atomic_load(&path->loop->reading) == 0)
        call_one(path->loop);
}

/* ---- the watch ---------------------------------------------------------------------------- */

static void watch_sleep(fast_loop *loop, int *quiet) {
    struct timespec pause = {0, WATCH_NS};
    if (*quiet < WATCH_IDLE) {
        (void)nanosleep(&pause, NULL);
        return;
    }
    (void)pthread_mutex_lock(&loop->mutex);
    atomic_store(&loop->watch_sleeps, true);
    while (atomic_load(&loop->watch_sleeps) && !atomic_load(&loop->over))
        (void)pthread_cond_wait(&loop->watch, &loop->mutex);
    (void)pthread_mutex_unlock(&loop->mutex);
    *quiet = 0;
}

static void *watch_main(void *arg) {
    fast_loop *loop = arg;
    unsigned long long before = 0;
    int quiet = 0;
    while (!atomic_load(&loop->over)) {
        watch_sleep(loop, &quiet);
        unsigned long long turns = atomic_load(&loop->turns);
        bool all_busy = atomic_load(&loop->reading) == 0;
        if (turns == before && all_busy)
            call_one(loop); /* no request was taken in the last millisecond */
        quiet = turns == before && !all_busy ? quiet + 1 : 0;
        before = turns;
    }
    return NULL;
}

static void wake_watch(fast_loop *loop) {
    if (!atomic_load(&loop->watch_sleeps))
        return;
    (void)pthread_mutex_lock(&loop->mutex);
    atomic_store(&loop->watch_sleeps, false);
    (void)pthread_cond_signal(&loop->watch);
    (void)pthread_mutex_unlock(&loop->mutex);
}

/* ---- reading ------------------------------------------------------------------------------ */

static void finish(fast_loop *loop) {
    uint64_t one = 1;
    atomic_store(&loop->over, true);
    (void)!write(loop->path->options.end_fd, &one, sizeof one);
    (void)pthread_mutex_lock(&loop->mutex);
    (void)pthread_cond_broadcast(&loop->wake);
    (void)pthread_cond_broadcast(&loop->watch);
    (void)pthread_mutex_unlock(&loop->mutex);
}

/* Reads a request if one is there. Its size; 0: none; -1: the connection is closed. */
static ssize_t take(reader *self) {
    for (;;) {
        ssize_t n = read(self->fd, self->in, FAST_BUFFER);
        if (n > 0)
            return n;
        if (n == 0)
            return -1; /* the other end of a socket is closed */
        if (errno == EAGAIN)
            return 0;
        /* ENOENT: the request was aborted while it was read (fs/fuse/dev.c) */
        if (errno != EINTR && errno != ENOENT)
            return -1;
    }
}

/* A short pause for a thread that spins. */
static void relax(void) {
    for (int i = 0; i < 16; i++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("isb");
#endif
    }
}

static ssize_t spin(reader *self) {
    const img_fastpath *path = self->loop->path;
    uint64_t end = img_stats_now() + path->options.spin_us * 1000ull;
    do {
        ssize_t n = take(self);
        if (n) {
            img_stats_count(&path->stats->spins, 1);
            return n;
        }
        relax();
    } while (img_stats_now() < end && !atomic_load(&self->loop->over));
    return 0;
}

static ssize_t sleep_and_take(reader *self) {
    fast_loop *loop = self->loop;
    struct pollfd fds[2] = {{.fd = self->fd, .events = POLLIN},
                            {.fd = loop->path->options.end_fd, .events = POLLIN}};
    while (!atomic_load(&loop->over)) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return -1;
        img_stats_count(&loop->path->stats->wakeups, 1);
        wake_watch(loop);
        ssize_t n = take(self);
        if (n)
            return n;
    }
    return -1;
}

/* Waits for the next request; its size, or -1. *at_once counts requests in a row that were there
 * without waiting: then another thread is woken to read as well. */
static ssize_t next(reader *self, int *at_once) {
    for (;;) {
        ssize_t n = take(self);
        if (n) {
            if (++*at_once % QUEUED == 0)
                call_one(self->loop);
            return n;
        }
        *at_once = 0;
        if (park(self)) {
            if (atomic_load(&self->loop->over))
                return -1;
            continue;
        }
        n = spin(self);
        if (!n)
            n = sleep_and_take(self);
        return n;
    }
}

static void *reader_main(void *arg) {
    reader *self = arg;
    fast_loop *loop = self->loop;
    int at_once = 0;
    while (!atomic_load(&loop->over)) {
        ssize_t n = next(self, &at_once);
        if (n < 0)
            break;
        atomic_fetch_sub(&loop->reading, 1);
        atomic_fetch_add(&loop->turns, 1);
        fast_handle(loop->path, self->fd, self->in, (size_t)n, self->out);
        atomic_fetch_add(&loop->reading, 1);
    }
    finish(loop);
    return NULL;
}

/* ---- life --------------------------------------------------------------------------------- */

/* A descriptor of the same connection (FUSE_DEV_IOC_CLONE). For a socket, which cannot be cloned, a
 * duplicate. */
static int clone_device(int fd) {
    uint32_t source = (uint32_t)fd;
    int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (clone >= 0 && ioctl(clone, FUSE_DEV_IOC_CLONE, &source) == 0)
        return clone;
    if (clone >= 0)
        close(clone);
    return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static int set_up(fast_loop *loop, unsigned i) {
    reader *self = &loop->readers[i];
    self->loop = loop;
    self->fd = clone_device(loop->path->options.device_fd);
    if (self->fd < 0 || fcntl(self->fd, F_SETFL, fcntl(self->fd, F_GETFL) | O_NONBLOCK) < 0)
        return errno;
    /* mmap, because pages that are never used then take no memory. */
    self->in =
        mmap(NULL, 2 * FAST_BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (self->in == MAP_FAILED) {
        self->in = NULL;
        return errno;
    }
    self->out = self->in + FAST_BUFFER;
    atomic_fetch_add(&loop->reading, 1);
    int failed = pthread_create(&self->thread, NULL, reader_main, self);
    if (failed)
        atomic_fetch_sub(&loop->reading, 1);
    else
        loop->n_readers++;
    return failed;
}

void fast_loop_stop(fast_loop *loop) {
    finish(loop);
    for (unsigned i = 0; i < loop->n_readers; i++)
        (void)pthread_join(loop->readers[i].thread, NULL);
    if (loop->watch_made)
        (void)pthread_join(loop->watch_thread, NULL);
}

void fast_loop_free(fast_loop *loop) {
    for (unsigned i = 0; i < loop->path->options.threads; i++) {
        if (loop->readers[i].fd >= 0)
            close(loop->readers[i].fd);
        if (loop->readers[i].in)
            (void)munmap(loop->readers[i].in, 2 * FAST_BUFFER);
    }
    pthread_cond_destroy(&loop->wake);
    pthread_cond_destroy(&loop->watch);
    pthread_mutex_destroy(&loop->mutex);
    free(loop);
}

fast_loop *fast_loop_new(img_fastpath *path) {
    unsigned n = path->options.threads;
    fast_loop *loop = calloc(1, sizeof *loop + n * sizeof loop->readers[0]);
    if (!loop)
        return NULL;
    loop->path = path;
    for (unsigned i = 0; i < n; i++)
        loop->readers[i].fd = -1;
    pthread_mutex_init(&loop->mutex, NULL);
    pthread_cond_init(&loop->wake, NULL);
    pthread_cond_init(&loop->watch, NULL);
    return loop;
}

int fast_loop_start(fast_loop *loop) {
    int failed = pthread_create(&loop->watch_thread, NULL, watch_main, loop);
    loop->watch_made = !failed;
    for (unsigned i = 0; i < loop->path->options.threads && !failed; i++)
        failed = set_up(loop, i);
    return failed;
}
