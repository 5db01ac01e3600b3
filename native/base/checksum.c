#include "base/checksum.h"

#include <string.h>

static const uint64_t P1 = 0x9E3779B185EBCA87u, P2 = 0xC2B2AE3D27D4EB4Fu, P3 = 0x165667B19E3779F9u,
                      P4 = 0x85EBCA77C2B2AE63u, P5 = 0x27D4EB2F165667C5u;

enum { LANES = 4, STRIPE = LANES * sizeof(uint64_t) };

static uint64_t turned(uint64_t value, unsigned bits) {
    return value << bits | value >> (64 - bits);
}

static uint64_t word(const unsigned char *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t half(const unsigned char *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t take(uint64_t lane, uint64_t input) {
    return turned(lane + input * P2, 31) * P1;
}

/* Takes in the bytes after the last full stripe. */
static uint64_t take_rest(uint64_t sum, const unsigned char *at, size_t size) {
    for (; size >= 8; at += 8, size -= 8)
        sum = turned(sum ^ take(0, word(at)), 27) * P1 + P4;
    if (size >= 4) {
        sum = turned(sum ^ half(at) * P1, 23) * P2 + P3;
        at += 4;
        size -= 4;
    }
    for (; size; at++, size--)
        sum = turned(sum ^ *at * P5, 11) * P1;
    return sum;
}

uint64_t img_checksum(const void *data, size_t size, uint64_t seed) {
    const unsigned char *at = data;
    uint64_t sum = seed + P5;
    size_t left = size;
    if (size >= STRIPE) {
        uint64_t lanes[LANES] = {seed + P1 + P2, seed + P2, seed, seed - P1};
        for (; left >= STRIPE; at += STRIPE, left -= STRIPE)
            for (unsigned i = 0; i < LANES; i++)
                lanes[i] = take(lanes[i], word(at + i * sizeof(uint64_t)));
        sum =
            turned(lanes[0], 1) + turned(lanes[1], 7) + turned(lanes[2], 12) + turned(lanes[3], 18);
        for (unsigned i = 0; i < LANES; i++)
            sum = (sum ^ take(0, lanes[i])) * P1 + P4;
    }
    sum = take_rest(sum + size, at, left);
    sum = (sum ^ sum >> 33) * P2;
    sum = (sum ^ sum >> 29) * P3;
    return sum ^ sum >> 32;
}
