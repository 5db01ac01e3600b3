/* fastkeep.c: keeps CPUs from halting for a moment after a request.
 *
 * Who asked sleeps until the answer; on an idle machine its CPU halts, and waking a halted CPU (of
 * a virtual machine above all) takes 50 us and more, several times the work.  So while requests
 * follow each other closely, a thread of the policy SCHED_IDLE turns on each CPU: anything else
 * that wants to run there runs at once, as on an idle CPU (sched(7)), and finds it awake.
 *
 * It is bounded: KEEP_NS after the last request, and only once a second request has followed the
 * one before within a millisecond.
 */
#define _GNU_SOURCE /* sched_setaffinity, SCHED_IDLE */
#include "fast.h"

#include <sched.h>
#include <stdlib.h>

enum { KEEP_NS = 200000, CLOSE_NS = 1000000, KEEP_CPUS = 8 };

typedef struct keeper {
    fast_keep *keep;
    pthread_t thread;
    int cpu;
} keeper;

struct fast_keep {
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool over;          /* mutex */
    unsigned asleep;    /* mutex */
    atomic_uint idle;   /* asleep, for a look without the mutex */
    atomic_ullong last; /* when the last request came */
    atomic_bool stop;
    unsigned n;
    keeper keepers[KEEP_CPUS];
};

static void turn(fast_keep *keep) {
    while (img_stats_now() < atomic_load(&keep->last) + KEEP_NS && !atomic_load(&keep->stop))
        fast_relax();
}

static void *keep_main(void *arg) {
    keeper *self = arg;
    fast_keep *keep = self->keep;
    struct sched_param none = {0};
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET((size_t)self->cpu, &cpus);
    /* Without both it would be in others' way. */
    if (pthread_setaffinity_np(pthread_self(), sizeof cpus, &cpus) ||
        pthread_setschedparam(pthread_self(), SCHED_IDLE, &none))
        return NULL;
    (void)pthread_mutex_lock(&keep->mutex);
    while (!keep->over) {
        keep->asleep++;
        atomic_store(&keep->idle, keep->asleep);
        (void)pthread_cond_wait(&keep->wake, &keep->mutex);
        keep->asleep--;
        atomic_store(&keep->idle, keep->asleep);
        (void)pthread_mutex_unlock(&keep->mutex);
        turn(keep);
        (void)pthread_mutex_lock(&keep->mutex);
    }
    (void)pthread_mutex_unlock(&keep->mutex);
    return NULL;
}

void fast_keep_awake(fast_keep *keep, uint64_t now) {
    if (!keep)
        return;
    bool close = now - atomic_exchange(&keep->last, now) < CLOSE_NS;
    if (!close || !atomic_load(&keep->idle))
        return;
    (void)pthread_mutex_lock(&keep->mutex);
    if (keep->asleep)
        (void)pthread_cond_broadcast(&keep->wake);
    (void)pthread_mutex_unlock(&keep->mutex);
}

/* No keeper is no error: everything works without, only slower. */
fast_keep *fast_keep_start(void) {
    cpu_set_t cpus;
    fast_keep *keep = calloc(1, sizeof *keep);
    if (!keep || sched_getaffinity(0, sizeof cpus, &cpus) < 0) {
        free(keep);
        return NULL;
    }
    pthread_mutex_init(&keep->mutex, NULL);
    pthread_cond_init(&keep->wake, NULL);
    for (int cpu = 0; cpu < CPU_SETSIZE && keep->n < KEEP_CPUS; cpu++) {
        keeper *one = &keep->keepers[keep->n];
        *one = (keeper){.keep = keep, .cpu = cpu};
        if (CPU_ISSET((size_t)cpu, &cpus) &&
            pthread_create(&one->thread, NULL, keep_main, one) == 0)
            keep->n++;
    }
    return keep;
}

void fast_keep_stop(fast_keep *keep) {
    if (!keep)
        return;
    atomic_store(&keep->stop, true);
    (void)pthread_mutex_lock(&keep->mutex);
    keep->over = true;
    (void)pthread_cond_broadcast(&keep->wake);
    (void)pthread_mutex_unlock(&keep->mutex);
    for (unsigned i = 0; i < keep->n; i++)
        (void)pthread_join(keep->keepers[i].thread, NULL);
    pthread_cond_destroy(&keep->wake);
    pthread_mutex_destroy(&keep->mutex);
    free(keep);
}
