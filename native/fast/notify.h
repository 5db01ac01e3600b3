/* notify.h: the one thread that may wait for the kernel's page locks. */
#ifndef IMG_NOTIFY_H
#define IMG_NOTIFY_H

#include "fast/defer.h"
#include "fast/push.h"

#include <pthread.h>

/* Public for push.c and defer.c only. */
struct fast_notify {
    img_fastpath *path;
    int fd; /* the device */
    pthread_t thread;
    bool made; /* the thread runs */
    pthread_mutex_t mutex;
    pthread_cond_t wake;  /* with the mutex: there is work, or stopping was set */
    atomic_bool stopping; /* set with the mutex, also read without */
    fast_queue queue;     /* mutex */
    fast_push push;
    char *out; /* FAST_BUFFER bytes for answers of this thread */
};

/* NULL with err set. */
fast_notify *fast_notify_start(img_fastpath *path, img_error *err);
/* Waits for the thread, while the other threads still answer requests; fast_defer fails from here
 * on. */
void fast_notify_stop(fast_notify *notify);
void fast_notify_free(fast_notify *notify); /* after stop */

/* Whether a request, a hint or the end is waiting for the thread. */
bool fast_notify_has_work(fast_notify *notify);

#endif
