/* stats.h: counts FUSE requests by opcode and by the door that answered them, and their latency.
 *
 * Law: adding takes no lock and costs a few nanoseconds.  A counter that is read is exact, but two
 * counters may be of different moments.
 *
 * Latency is a histogram of powers of two: bucket b counts the requests that took [2^b, 2^(b+1))
 * ns, from the moment the request was read from the kernel until its answer was written.
 */
#ifndef IMG_STATS_H
#define IMG_STATS_H

#include <stdbool.h>
#include <stdint.h>

enum { IMG_DOOR_NATIVE, IMG_DOOR_PYTHON, IMG_DOORS };
enum { IMG_STATS_OPCODES = 64, IMG_STATS_BUCKETS = 40 }; /* opcodes: linux/fuse.h; others in 0 */

typedef struct img_op_stats {
    uint64_t count, errors, ns;
    uint64_t bytes; /* read, written or copied */
    uint64_t buckets[IMG_STATS_BUCKETS];
} img_op_stats;

typedef struct img_stats {
    img_op_stats ops[IMG_DOORS][IMG_STATS_OPCODES];
    uint64_t copy_up_waits; /* requests that waited until Python had copied up a node */
    uint64_t pushed_files;  /* files put into the page cache before a program asked for them */
    uint64_t pushed_bytes;
    uint64_t push_misses; /* pushes of a file whose inode the kernel did not have (any more) */
    uint64_t wakeups;     /* times a thread slept until the kernel had a request */
    uint64_t spins;       /* times a request came while a thread spun */
    uint64_t malformed;   /* requests that broke the protocol or have an unknown opcode */
} img_stats;

img_stats *img_stats_new(void); /* NULL: out of memory */
void img_stats_free(img_stats *stats);

uint64_t img_stats_now(void); /* ns, CLOCK_MONOTONIC */
void img_stats_add(img_stats *stats, unsigned door, uint32_t opcode, uint64_t ns, bool failed,
                   uint64_t bytes);
static inline void img_stats_count(uint64_t *counter, uint64_t n) {
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}
/* The latency in ns that a fraction p (0..1) of the operations did not exceed, as the upper edge of
 * its bucket.  0 if there were no operations. */
uint64_t img_stats_percentile(const img_op_stats *op, double p);
/* The name of an opcode ("LOOKUP"); NULL for an opcode that linux/fuse.h does not have. */
const char *img_opcode_name(uint32_t opcode);

#endif
