/* notify.c: the one thread that may wait for the kernel's page locks. It does the work of push.c
 * and defer.c.
 *
 * FUSE_NOTIFY_STORE and FUSE_NOTIFY_INVAL_INODE wait for pages that a READ or WRITE has locked, and
 * these pages stay locked until that request is answered.  So a thread that answers READ or WRITE
 * must never send a notification, nor wait for this thread.
 */
#include "fast/notify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool fast_notify_has_work(fast_notify *notify) {
    (void)pthread_mutex_lock(&notify->mutex);
    bool yes = notify->stopping || notify->queue.first || notify->push.head != notify->push.tail;
    (void)pthread_mutex_unlock(&notify->mutex);
    return yes;
}

/* ---- the thread --------------------------------------------------------------------------- */

static void *notify_main(void *arg) {
    fast_notify *notify = arg;
    (void)pthread_mutex_lock(&notify->mutex);
    for (;;) {
        fast_deferred *one = fast_defer_take(&notify->queue);
        if (!one && notify->stopping)
            break;
        fast_hint hint;
        bool hinted = !one && fast_push_take_hint(&notify->push, &hint);
        if (!one && !hinted) {
            (void)pthread_cond_wait(&notify->wake, &notify->mutex);
            continue;
        }
        (void)pthread_mutex_unlock(&notify->mutex);
        if (one)
            fast_defer_run(notify, one);
        else
            fast_push_follow(notify, hint);
        (void)pthread_mutex_lock(&notify->mutex);
    }
    (void)pthread_mutex_unlock(&notify->mutex);
    return NULL;
}

/* ---- life --------------------------------------------------------------------------------- */

fast_notify *fast_notify_start(img_fastpath *path, img_error *err) {
    fast_notify *notify = calloc(1, sizeof *notify);
    int failed = notify ? 0 : ENOMEM;
    if (notify) {
        notify->path = path;
        notify->fd = path->options.device_fd;
        notify->queue.last = &notify->queue.first;
        pthread_mutex_init(&notify->mutex, NULL);
        pthread_cond_init(&notify->wake, NULL);
        notify->out = malloc(FAST_BUFFER);
        failed = notify->out ? fast_push_set_up(notify) : ENOMEM;
    }
    if (!failed) {
        failed = pthread_create(&notify->thread, NULL, notify_main, notify);
        notify->made = !failed;
    }
    if (!failed)
        return notify;
    (void)img_fail(err, failed, "the thread that notifies the kernel: %s", strerror(failed));
    if (notify)
        fast_notify_free(notify);
    return NULL;
}

void fast_notify_stop(fast_notify *notify) {
    (void)pthread_mutex_lock(&notify->mutex);
    notify->stopping = true;
    (void)pthread_cond_signal(&notify->wake);
    (void)pthread_mutex_unlock(&notify->mutex);
    if (notify->made)
        (void)pthread_join(notify->thread, NULL);
    notify->made = false;
}

void fast_notify_free(fast_notify *notify) {
    fast_push_tear_down(notify);
    free(notify->out);
    pthread_cond_destroy(&notify->wake);
    pthread_mutex_destroy(&notify->mutex);
    free(notify);
}
