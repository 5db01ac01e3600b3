#include "base/upperfds.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define FEWEST 16u    /* descriptors kept at least, so that every thread can pin what it needs */
#define SPARE 256u    /* further elements, for keys that are pinned without a descriptor */
#define WAITING 64u   /* dropped descriptors that may wait to be closed */
#define ASK_EVERY 32u /* descriptors taken over between two looks at the process' limit */

typedef struct stale {
    struct stale *next;
    int fd;
} stale;

/* One key.  It is in the hash by id, and in the list from oldest to newest while it has no pins. */
typedef struct kept {
    uint32_t id;
    int fd; /* -1: dropped, but the key is still pinned */
    uint32_t pins;
    uint32_t next; /* in its bucket, or in the list of free elements */
    uint32_t older, newer;
    int64_t came; /* milliseconds of the monotonic clock */
    stale *stale; /* descriptors that were dropped while pinned */
} kept;

struct img_fds {
    pthread_mutex_t lock;
    uint32_t max, n_open;
    uint32_t most, until_asked; /* most: max, or less if the process' limit is low */
    kept *all;                  /* element 0 is unused: index 0 means none */
    uint32_t n_all, used, free_head;
    uint32_t *buckets, mask;
    uint32_t oldest, newest;
    int waiting[WAITING];
    uint32_t n_waiting;
};

img_fds *img_fds_new(uint32_t max) {
    img_fds *fds = calloc(1, sizeof *fds);
    if (!fds)
        return NULL;
    fds->max = max < FEWEST ? FEWEST : max;
    fds->n_all = fds->max + SPARE;
    fds->used = 1;
    uint32_t buckets = 64;
    while (buckets < fds->max)
        buckets *= 2;
    fds->mask = buckets - 1;
    fds->all = calloc(fds->n_all, sizeof *fds->all);
    fds->buckets = calloc(buckets, sizeof *fds->buckets);
    if (!fds->all || !fds->buckets) {
        free(fds->all);
        free(fds->buckets);
        free(fds);
        return NULL;
    }
    pthread_mutex_init(&fds->lock, NULL);
    return fds;
}

static uint32_t *bucket_of(img_fds *fds, uint32_t id) {
    return &fds->buckets[(id * 2654435761u >> 7) & fds->mask];
}

static kept *find(img_fds *fds, uint32_t id) {
    for (uint32_t i = *bucket_of(fds, id); i; i = fds->all[i].next)
        if (fds->all[i].id == id)
            return &fds->all[i];
    return NULL;
}

static kept *add(img_fds *fds, uint32_t id) {
    uint32_t i = fds->free_head;
    if (i)
        fds->free_head = fds->all[i].next;
    else if (fds->used < fds->n_all)
        i = fds->used++;
    else
        return NULL;
    uint32_t *bucket = bucket_of(fds, id);
    fds->all[i] = (kept){.id = id, .fd = -1, .next = *bucket};
    *bucket = i;
    return &fds->all[i];
}

static void take_out(img_fds *fds, kept *k) {
    uint32_t i = (uint32_t)(k - fds->all);
    uint32_t *at = bucket_of(fds, k->id);
    while (*at != i)
        at = &fds->all[*at].next;
    *at = k->next;
    *k = (kept){.fd = -1, .next = fds->free_head};
    fds->free_head = i;
}

static void line_up(img_fds *fds, kept *k) {
    uint32_t i = (uint32_t)(k - fds->all);
    k->older = fds->newest;
    k->newer = 0;
    if (fds->newest)
        fds->all[fds->newest].newer = i;
    else
        fds->oldest = i;
    fds->newest = i;
}

static void step_out(img_fds *fds, kept *k) {
    if (k->older)
        fds->all[k->older].newer = k->newer;
    else
        fds->oldest = k->newer;
    if (k->newer)
        fds->all[k->newer].older = k->older;
    else
        fds->newest = k->older;
    k->older = k->newer = 0;
}

static void close_all(stale *list) {
    while (list) {
        stale *next = list->next;
        (void)close(list->fd);
        free(list);
        list = next;
    }
}

void img_fds_free(img_fds *fds) {
    if (!fds)
        return;
    img_fds_close_dropped(fds);
    for (uint32_t i = 1; i < fds->used; i++) {
        if (fds->all[i].fd >= 0 && fds->all[i].id)
            (void)close(fds->all[i].fd);
        close_all(fds->all[i].stale);
    }
    pthread_mutex_destroy(&fds->lock);
    free(fds->all);
    free(fds->buckets);
    free(fds);
}

/* ---- dropping ----------------------------------------------------------------------------- */

/* The caller holds the lock.  The next img_fds_close_dropped closes fd. */
static void close_later(img_fds *fds, int fd) {
    if (fds->n_waiting < WAITING)
        fds->waiting[fds->n_waiting++] = fd;
    else
        (void)close(fd);
}

/* The caller holds the lock.  fd stays open until k has no pins.  Without memory it stays open for
 * ever, which is better than closing it while a thread uses it. */
static void outlive_pins(kept *k, int fd) {
    stale *s = malloc(sizeof *s);
    if (!s)
        return;
    s->fd = fd;
    s->next = k->stale;
    k->stale = s;
}

static void drop(img_fds *fds, kept *k) {
    int fd = k->fd;
    if (fd < 0)
        return;
    k->fd = -1;
    fds->n_open--;
    if (k->pins) {
        outlive_pins(k, fd);
    } else {
        step_out(fds, k);
        take_out(fds, k);
        close_later(fds, fd);
    }
}

/* ---- pins --------------------------------------------------------------------------------- */

static int pin(img_fds *fds, kept *k) {
    if (k->pins++ == 0)
        step_out(fds, k);
    return k->fd;
}

int img_fds_pin(img_fds *fds, uint32_t id) {
    (void)pthread_mutex_lock(&fds->lock);
    kept *k = find(fds, id);
    int fd = k && k->fd >= 0 ? pin(fds, k) : -1;
    (void)pthread_mutex_unlock(&fds->lock);
    return fd;
}

static int64_t milliseconds_now(void) {
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int img_fds_pin_new(img_fds *fds, uint32_t id, int64_t milliseconds) {
    int64_t now = milliseconds_now();
    int fd = -1;
    (void)pthread_mutex_lock(&fds->lock);
    kept *k = find(fds, id);
    if (k && k->fd >= 0 && now - k->came <= milliseconds)
        fd = pin(fds, k);
    else if (k)
        drop(fds, k);
    (void)pthread_mutex_unlock(&fds->lock);
    return fd;
}

void img_fds_unpin(img_fds *fds, uint32_t id) {
    stale *gone = NULL;
    (void)pthread_mutex_lock(&fds->lock);
    kept *k = find(fds, id);
    if (k && k->pins && --k->pins == 0) {
        gone = k->stale;
        k->stale = NULL;
        if (k->fd >= 0)
            line_up(fds, k);
        else
            take_out(fds, k);
    }
    (void)pthread_mutex_unlock(&fds->lock);
    close_all(gone);
}

/* How many descriptors may be kept under the present limit of the process. */
static uint32_t most_now(const img_fds *fds) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur / 4 >= fds->max)
        return fds->max;
    uint32_t quarter = (uint32_t)(limit.rlim_cur / 4);
    return quarter < FEWEST ? FEWEST : quarter;
}

/* Drops the oldest descriptor; false if all are pinned. */
static bool evict(img_fds *fds) {
    if (!fds->oldest)
        return false;
    kept *k = &fds->all[fds->oldest];
    close_later(fds, k->fd);
    step_out(fds, k);
    take_out(fds, k);
    fds->n_open--;
    return true;
}

int img_fds_put(img_fds *fds, uint32_t id, int fd, bool pinned) {
    int64_t now = milliseconds_now();
    (void)pthread_mutex_lock(&fds->lock);
    if (fds->until_asked-- == 0) {
        fds->most = most_now(fds);
        fds->until_asked = ASK_EVERY;
    }
    kept *k = find(fds, id);
    if (k && k->fd >= 0) {
        close_later(fds, fd);
        fd = k->fd;
        if (pinned)
            (void)pin(fds, k);
    } else {
        /* Up to two are dropped for one that is added, so that the number falls slowly to a limit
         * that was lowered. */
        for (int i = 0; i < 2 && fds->n_open >= fds->most && evict(fds); i++)
            ;
        if (!k && fds->n_open < fds->max)
            k = add(fds, id);
        if (k) {
            k->fd = fd;
            k->came = now;
            fds->n_open++;
            k->pins += pinned;
            if (k->pins == 0)
                line_up(fds, k);
        } else {
            close_later(fds, fd);
            fd = -EMFILE;
        }
    }
    (void)pthread_mutex_unlock(&fds->lock);
    return fd;
}

void img_fds_drop(img_fds *fds, uint32_t id) {
    (void)pthread_mutex_lock(&fds->lock);
    kept *k = find(fds, id);
    if (k)
        drop(fds, k);
    (void)pthread_mutex_unlock(&fds->lock);
}

void img_fds_close_dropped(img_fds *fds) {
    int closing[WAITING];
    (void)pthread_mutex_lock(&fds->lock);
    uint32_t n = fds->n_waiting;
    for (uint32_t i = 0; i < n; i++)
        closing[i] = fds->waiting[i];
    fds->n_waiting = 0;
    (void)pthread_mutex_unlock(&fds->lock);
    while (n)
        (void)close(closing[--n]);
}

bool img_fds_shrink(img_fds *fds) {
    (void)pthread_mutex_lock(&fds->lock);
    uint32_t n = fds->n_open / 2 + 1, closed = 0;
    while (closed < n && evict(fds))
        closed++;
    (void)pthread_mutex_unlock(&fds->lock);
    img_fds_close_dropped(fds);
    return closed > 0;
}
