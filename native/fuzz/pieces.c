#include "fuzz.h"

#include <string.h>

enum { HEAD = 3, MOST = 65535 };

bool next_piece(const uint8_t *data, size_t size, size_t *at, piece *out) {
    if (size - *at < HEAD)
        return false;
    const uint8_t *head = data + *at;
    size_t left = size - *at - HEAD, len = (size_t)(head[1] | head[2] << 8);
    *out = (piece){.kind = head[0], .len = len < left ? len : left};
    out->data = malloc(out->len ? out->len : 1);
    CHECK(out->data);
    if (out->len)
        memcpy(out->data, head + HEAD, out->len);
    *at += HEAD + out->len;
    return true;
}

uint32_t pick(unsigned *seed, uint32_t below) {
    *seed = *seed * 1664525u + 1013904223u;
    return (uint32_t)(*seed >> 8) % below;
}

/* Sets out to the offsets of the pieces; returns their number, which is at most room. */
static size_t starts(const uint8_t *data, size_t size, size_t *out, size_t room) {
    size_t n = 0;
    for (size_t at = 0; size - at >= HEAD && n < room;) {
        size_t len = (size_t)(data[at + 1] | data[at + 2] << 8), left = size - at - HEAD;
        out[n++] = at;
        at += HEAD + (len < left ? len : left);
    }
    return n;
}

/* Replaces the bytes from `from` to `to` by those of `with`; returns the new size. */
static size_t replace(uint8_t *data, size_t size, size_t from, size_t to, const uint8_t *with,
                      size_t len) {
    memmove(data + from + len, data + to, size - to);
    if (len)
        memcpy(data + from, with, len);
    return size - (to - from) + len;
}

static size_t mutate_one(uint8_t *data, size_t size, size_t max_size, size_t from, size_t to) {
    size_t room = max_size - size + (to - from);
    size_t old = to - from - HEAD, most = room - HEAD < MOST ? room - HEAD : MOST;
    uint8_t *copy = malloc(HEAD + most + old + 1);
    CHECK(copy);
    memcpy(copy, data + from, HEAD + old);
    size_t len = LLVMFuzzerMutate(copy + HEAD, old < most ? old : most, most);
    copy[1] = (uint8_t)(len & 0xff);
    copy[2] = (uint8_t)(len >> 8);
    size = replace(data, size, from, to, copy, HEAD + len);
    free(copy);
    return size;
}

size_t mutate_pieces(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    size_t at[256], n = starts(data, size, at, 255);
    uint32_t way = pick(&seed, 16);
    if (n == 0 || way == 0 || max_size < size + HEAD + 1)
        return LLVMFuzzerMutate(data, size, max_size);
    at[n] = n < 255 ? size : at[n - 1] + HEAD;
    size_t i = pick(&seed, (uint32_t)n), k = pick(&seed, (uint32_t)n);
    size_t from = at[i], to = i + 1 < n ? at[i + 1] : size, len = to - from;
    if (way == 1) { /* change the kind */
        data[from] = (uint8_t)pick(&seed, 256);
        return size;
    }
    if (way == 2 && n > 1)
        return replace(data, size, from, to, NULL, 0);
    if (way < 6 && size + len <= max_size) { /* repeat the piece elsewhere */
        uint8_t *copy = malloc(len);
        CHECK(copy);
        memcpy(copy, data + from, len);
        size = replace(data, size, at[k], at[k], copy, len);
        free(copy);
        return size;
    }
    return mutate_one(data, size, max_size, from, to);
}
