/* stats.c: relaxed atomic counters without locks, so a thread that adds never waits. */

#include "base/stats.h"

#include <stdlib.h>
#include <time.h>

/* linux/fuse.h's enum fuse_opcode, written out because the header may be older than the kernel. */
static const char *const names[IMG_STATS_OPCODES] = {
    [1] = "LOOKUP",        [2] = "FORGET",         [3] = "GETATTR",
    [4] = "SETATTR",       [5] = "READLINK",       [6] = "SYMLINK",
    [8] = "MKNOD",         [9] = "MKDIR",          [10] = "UNLINK",
    [11] = "RMDIR",        [12] = "RENAME",        [13] = "LINK",
    [14] = "OPEN",         [15] = "READ",          [16] = "WRITE",
    [17] = "STATFS",       [18] = "RELEASE",       [20] = "FSYNC",
    [21] = "SETXATTR",     [22] = "GETXATTR",      [23] = "LISTXATTR",
    [24] = "REMOVEXATTR",  [25] = "FLUSH",         [26] = "INIT",
    [27] = "OPENDIR",      [28] = "READDIR",       [29] = "RELEASEDIR",
    [30] = "FSYNCDIR",     [31] = "GETLK",         [32] = "SETLK",
    [33] = "SETLKW",       [34] = "ACCESS",        [35] = "CREATE",
    [36] = "INTERRUPT",    [37] = "BMAP",          [38] = "DESTROY",
    [39] = "IOCTL",        [40] = "POLL",          [41] = "NOTIFY_REPLY",
    [42] = "BATCH_FORGET", [43] = "FALLOCATE",     [44] = "READDIRPLUS",
    [45] = "RENAME2",      [46] = "LSEEK",         [47] = "COPY_FILE_RANGE",
    [48] = "SETUPMAPPING", [49] = "REMOVEMAPPING", [50] = "SYNCFS",
    [51] = "TMPFILE",      [52] = "STATX",         [53] = "COPY_FILE_RANGE_64",
};

img_stats *img_stats_new(void) {
    return calloc(1, sizeof(img_stats));
}

void img_stats_free(img_stats *stats) {
    free(stats);
}

uint64_t img_stats_now(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* this clock cannot fail */
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* floor(log2(ns)).  0 is in the bucket of 1.  The last bucket has no upper edge. */
static unsigned bucket_of(uint64_t ns) {
    unsigned log = 63u - (unsigned)__builtin_clzll(ns | 1);
    return log < IMG_STATS_BUCKETS ? log : IMG_STATS_BUCKETS - 1;
}

void img_stats_add(img_stats *stats, unsigned door, uint32_t opcode, uint64_t ns, bool failed,
                   uint64_t bytes) {
    img_op_stats *op =
        &stats
             ->ops[door < IMG_DOORS ? door : IMG_DOOR_PYTHON][img_opcode_name(opcode) ? opcode : 0];
    img_stats_count(&op->count, 1);
    img_stats_count(&op->ns, ns);
    img_stats_count(&op->buckets[bucket_of(ns)], 1);
    if (failed)
        img_stats_count(&op->errors, 1);
    if (bytes)
        img_stats_count(&op->bytes, bytes);
}

uint64_t img_stats_percentile(const img_op_stats *op, double p) {
    uint64_t counts[IMG_STATS_BUCKETS], total = 0, seen = 0;
    unsigned highest = 0;
    /* Each bucket is read once, because other threads add meanwhile.  Their sum is the total: the
     * counter `count` is increased before the bucket is. */
    for (unsigned b = 0; b < IMG_STATS_BUCKETS; b++) {
        counts[b] = __atomic_load_n(&op->buckets[b], __ATOMIC_RELAXED);
        total += counts[b];
        highest = counts[b] ? b : highest;
    }
    if (total == 0)
        return 0;
    for (unsigned b = 0; b < highest; b++) {
        seen += counts[b];
        if (counts[b] && (double)seen >= p * (double)total)
            return UINT64_C(2) << b;
    }
    return UINT64_C(2) << highest;
}

const char *img_opcode_name(uint32_t opcode) {
    return opcode < IMG_STATS_OPCODES ? names[opcode] : NULL;
}
