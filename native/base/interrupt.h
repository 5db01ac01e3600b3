/* interrupt.h: lets a signal end a long computation of the core.
 *
 * Python runs a signal's handler only between two of its own instructions, so a signal would wait
 * for minutes while a C function works for minutes.  The caller therefore sets a question, a
 * function that returns whether to end, for the thread that works.  Every loop whose length depends
 * on the input calls img_interrupted, which asks the question now and then: a signal is noticed
 * within IMG_ASK_EVERY_NS and one step.  A step is work that takes less than a millisecond.
 *
 * Threads: each thread has its own question.  Without a question, a call costs one comparison.
 */
#ifndef IMG_INTERRUPT_H
#define IMG_INTERRUPT_H

#include "base/error.h"

#include <stdbool.h>

#define IMG_ASK_EVERY_NS 50000000 /* 50 ms: a person takes 200 ms for "at once" */

/* How many steps of work pass between two looks at the clock. */
#define IMG_STEPS_PER_LOOK 64u
/* What a step that reads, writes or opens a file counts as, because a slow disk may delay it. */
#define IMG_IO_STEP IMG_STEPS_PER_LOOK

/* True: end the work. */
typedef bool img_question(void *asker);

/* Sets this thread's question; NULL removes it.  every_ns 0: ask at each look at the clock. */
void img_interrupt_ask(img_question *question, void *asker, int64_t every_ns);

/* Call it with the number of steps done since the last call.  0, or -1 with EINTR in err. */
int img_interrupted(unsigned steps, img_error *err);

#endif
