/* fastpath.c: starts and ends the fast path. */
#include "fast/fastpath.h"

#include "fast/fast.h"
#include "fast/fastloop.h"
#include "fast/fastrelay.h"
#include "fast/notify.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Starts all threads. The caller has blocked all signals: Python's threads handle them. */
static int start_all(img_fastpath *path, img_error *err) {
    path->notify = fast_notify_start(path, err);
    if (!path->notify)
        return -1;
    if (path->options.relay_fd >= 0) {
        path->relay = fast_relay_start(path, path->options.relay_fd, err);
        if (!path->relay)
            return -1;
    }
    int failed = fast_loop_start(path->loop);
    return failed ? img_fail(err, failed, "the fast path's threads: %s", strerror(failed)) : 0;
}

img_fastpath *img_fastpath_start(img_tree *tree, img_upper *upper, img_stats *stats,
                                 const img_fastpath_options *options, img_error *err) {
    sigset_t all, before;
    img_fastpath *path = calloc(1, sizeof *path);
    if (path) {
        path->tree = tree;
        path->upper = upper;
        path->stats = stats;
        path->options = *options;
        path->options.threads = options->threads ? options->threads : 1;
        path->loop = fast_loop_new(path);
    }
    if (!path || !path->loop) {
        free(path);
        (void)img_fail(err, ENOMEM, "out of memory");
        return NULL;
    }
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = start_all(path, err);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!failed)
        return path;
    img_fastpath_stop(path);
    img_fastpath_free(path);
    return NULL;
}

void img_fastpath_stop(img_fastpath *path) {
    /* The order matters: the notify thread may wait for the kernel, and the kernel for the answer
     * to a request.  Ending the relay answers the requests that wait for pyfuse3, and the readers
     * answer the others while the notify thread ends. */
    fast_relay_end(path->relay);
    if (path->notify)
        fast_notify_stop(path->notify);
    fast_loop_stop(path->loop);
}

void img_fastpath_free(img_fastpath *path) {
    fast_loop_free(path->loop);
    fast_relay_free(path->relay);
    if (path->notify)
        fast_notify_free(path->notify);
    free(path);
}
