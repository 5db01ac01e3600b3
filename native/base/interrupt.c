#include "base/interrupt.h"

#include <errno.h>
#include <stddef.h>
#include <time.h>

typedef struct asking {
    img_question *question;
    void *asker;
    int64_t every_ns, last_ns;
    unsigned steps; /* since the last look at the clock */
} asking;

static _Thread_local asking mine;

/* The coarse clock ticks every 4 ms or faster, and reading it costs a few nanoseconds. */
static int64_t now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void img_interrupt_ask(img_question *question, void *asker, int64_t every_ns) {
    mine = (asking){.question = question, .asker = asker, .every_ns = every_ns};
    if (question)
        mine.last_ns = now_ns();
}

int img_interrupted(unsigned steps, img_error *err) {
    if (!mine.question)
        return 0;
    mine.steps += steps;
    if (mine.steps < IMG_STEPS_PER_LOOK)
        return 0;
    mine.steps = 0;
    int64_t now = now_ns();
    if (now - mine.last_ns < mine.every_ns)
        return 0;
    mine.last_ns = now;
    return mine.question(mine.asker) ? img_fail(err, EINTR, "interrupted") : 0;
}
