/* Counters: the edges of buckets, percentiles, unknown opcodes, and many threads at once. */

#include "base/stats.h"
#include "check.h"

#include <pthread.h>
#include <string.h>

static void test_buckets(void) {
    img_stats *stats = img_stats_new();
    CHECK(stats);
    const img_op_stats *op = &stats->ops[IMG_DOOR_NATIVE][1];
    static const struct {
        uint64_t ns;
        unsigned bucket;
    } cases[] = {
        {0, 0},
        {1, 0},
        {2, 1},
        {3, 1},
        {4, 2},
        {1023, 9},
        {1024, 10},
        {UINT64_C(1) << 39, 39},
        {UINT64_C(1) << 40, 39},
        {UINT64_MAX >> 8, 39},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t before = op->buckets[cases[i].bucket];
        img_stats_add(stats, IMG_DOOR_NATIVE, 1, cases[i].ns, false, 0);
        CHECK(op->buckets[cases[i].bucket] == before + 1);
    }
    CHECK(op->count == sizeof cases / sizeof *cases && op->errors == 0 && op->bytes == 0);
    img_stats_free(stats);
}

static void test_percentiles(void) {
    img_op_stats op = {0};
    CHECK(img_stats_percentile(&op, 0.5) == 0);
    op.buckets[3] = 98;
    op.buckets[10] = 1;
    op.buckets[20] = 1;
    CHECK(img_stats_percentile(&op, 0.0) == 16);
    CHECK(img_stats_percentile(&op, 0.5) == 16);
    CHECK(img_stats_percentile(&op, 0.98) == 16);
    CHECK(img_stats_percentile(&op, 0.99) == 2048);
    CHECK(img_stats_percentile(&op, 1.0) == UINT64_C(1) << 21);
    memset(&op, 0, sizeof op);
    op.buckets[IMG_STATS_BUCKETS - 1] = 1;
    CHECK(img_stats_percentile(&op, 0.5) == UINT64_C(1) << IMG_STATS_BUCKETS);
}

static void test_names(void) {
    CHECK(strcmp(img_opcode_name(1), "LOOKUP") == 0);
    CHECK(strcmp(img_opcode_name(44), "READDIRPLUS") == 0);
    CHECK(strcmp(img_opcode_name(51), "TMPFILE") == 0);
    CHECK(!img_opcode_name(0) && !img_opcode_name(7) && !img_opcode_name(63));
    CHECK(!img_opcode_name(64) && !img_opcode_name(UINT32_MAX));
}

static void test_unknown_opcodes_share_slot_0(void) {
    img_stats *stats = img_stats_new();
    CHECK(stats);
    static const uint32_t unknown[] = {0, 7, 19, 63, 64, 4096, UINT32_MAX};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        img_stats_add(stats, IMG_DOOR_PYTHON, unknown[i], 5, true, 2);
    const img_op_stats *op = &stats->ops[IMG_DOOR_PYTHON][0];
    CHECK(op->count == 7 && op->errors == 7 && op->bytes == 14 && op->ns == 35);
    img_stats_free(stats);
}

enum { THREADS = 4, ADDED = 20000 };

static void *adder(void *arg) {
    img_stats *stats = arg;
    for (unsigned i = 0; i < ADDED; i++) {
        img_stats_add(stats, IMG_DOOR_NATIVE, 15, i, i % 2, 3);
        img_stats_count(&stats->spins, 1);
    }
    return NULL;
}

static void test_no_addition_is_lost(void) {
    img_stats *stats = img_stats_new();
    pthread_t threads[THREADS];
    CHECK(stats);
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, adder, stats) == 0);
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    const img_op_stats *op = &stats->ops[IMG_DOOR_NATIVE][15];
    uint64_t sum = 0;
    for (unsigned b = 0; b < IMG_STATS_BUCKETS; b++)
        sum += op->buckets[b];
    CHECK(sum == THREADS * ADDED && op->count == sum && op->errors == sum / 2);
    CHECK(op->bytes == 3 * sum && op->ns == (uint64_t)THREADS * ADDED * (ADDED - 1) / 2);
    CHECK(stats->spins == sum);
    img_stats_free(stats);
}

static void test_the_clock_goes_forward(void) {
    uint64_t before = img_stats_now(), after = img_stats_now();
    CHECK(before > 0 && after >= before);
}

int main(void) {
    test_buckets();
    test_percentiles();
    test_names();
    test_unknown_opcodes_share_slot_0();
    test_no_addition_is_lost();
    test_the_clock_goes_forward();
    return 0;
}
