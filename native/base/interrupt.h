/* interrupt.h: how a long computation of the core hears that somebody wants it to end.
 *
 * Python runs a signal's handler only between two of its own instructions, so a C function that
 * works for minutes would be deaf for minutes.  The caller therefore leaves a question with the
 * thread that works, and every loop whose length an input decides asks it now and then: often
 * enough to be heard within IMG_ASK_EVERY_NS and one step.  A step is what costs below a
 * millisecond.
 *
 * Threads: the question is the thread's own.  Where nobody left one, asking costs a comparison.
 */
#ifndef IMG_INTERRUPT_H
#define IMG_INTERRUPT_H

#include "base/error.h"

#include <stdbool.h>

#define IMG_ASK_EVERY_NS 50000000 /* a quarter of what a person takes for "at once" */

/* How many steps of work pass between two looks at the clock. */
#define IMG_STEPS_PER_LOOK 64u
/* What a step that reads, writes or opens something counts: it may wait for a slow disk. */
#define IMG_IO_STEP IMG_STEPS_PER_LOOK

/* True: end the work. */
typedef bool img_question(void *asker);

/* Leaves a question with this thread; NULL takes it away.  every_ns 0: asked at each look. */
void img_interrupt_ask(img_question *question, void *asker, int64_t every_ns);

/* To be called with the steps done since the last call: 0, or -1 with EINTR in err. */
int img_interrupted(unsigned steps, img_error *err);

#endif
