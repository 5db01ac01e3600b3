/* tarmutate.c: the mutator of fuzz_tar.  It changes a field, a member or the contents of a member,
 * and then makes sizes and checksums right.  One change in eight is libFuzzer's, of any bytes. */
#include "fuzz.h"

#include "tar/tarblock.h"

#include <string.h>

enum { MEMBERS = 64, SUM_AT = 148, SUM_WIDTH = 8, SIZE_AT = 124, SIZE_WIDTH = 12 };

typedef struct member {
    size_t at, end; /* offsets of its header, and of the end of its padding */
    size_t len;     /* length of its contents */
} member;

static bool is_header_only(char type) {
    return type >= '1' && type <= '6';
}

static size_t list_members(const uint8_t *data, size_t size, member *out) {
    size_t n = 0;
    for (size_t at = 0; n < MEMBERS && size - at >= TAR_BLOCK;) {
        int64_t len = 0;
        const uint8_t *block = data + at;
        if (tar_block_is_zero(block)) {
            at += TAR_BLOCK;
            continue;
        }
        size_t left = size - at - TAR_BLOCK;
        if (is_header_only((char)block[TAR_TYPEFLAG]) ||
            tar_number(block + SIZE_AT, SIZE_WIDTH, &len) < 0 || len < 0)
            len = 0;
        size_t stored = (uint64_t)len < left ? (size_t)len : left;
        size_t padded = (stored + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
        out[n] = (member){.at = at, .len = stored};
        at += TAR_BLOCK + (padded < left ? padded : left);
        out[n++].end = at;
    }
    return n;
}

static void fix_checksums(uint8_t *data, size_t size) {
    member members[MEMBERS];
    size_t n = list_members(data, size, members);
    for (size_t i = 0; i < n; i++) {
        uint8_t *block = data + members[i].at;
        unsigned total = 0;
        char text[SUM_WIDTH + 1];
        memset(block + SUM_AT, ' ', SUM_WIDTH);
        for (unsigned k = 0; k < TAR_BLOCK; k++)
            total += block[k];
        (void)snprintf(text, sizeof text, "%06o", total & 0777777);
        memcpy(block + SUM_AT, text, SUM_WIDTH - 1);
    }
}

static const struct {
    uint16_t at, width;
} FIELDS[] = {
    {0, 100},  {157, 100}, {345, 155}, {TAR_TYPEFLAG, 1}, {100, 8},  {108, 8},  {116, 8},
    {136, 12}, {329, 8},   {337, 8},   {257, 8},          {386, 97}, {483, 12}, {SIZE_AT, 12},
};
enum { N_FIELDS = sizeof FIELDS / sizeof *FIELDS, NAMES = 3 };

static void change_field(uint8_t *block, unsigned *seed) {
    uint32_t f = pick(seed, 2) ? pick(seed, NAMES) : pick(seed, N_FIELDS);
    uint8_t *field = block + FIELDS[f].at;
    size_t width = FIELDS[f].width, len = f < NAMES ? strnlen((char *)field, width) : width;
    size_t now = LLVMFuzzerMutate(field, len, width);
    if (now < width)
        memset(field + now, 0, width - now);
}

/* Copies a name, a link or a type from another member. */
static void take_field(uint8_t *block, const uint8_t *from, unsigned *seed) {
    static const uint16_t names[] = {0, 157};
    if (pick(seed, 4) == 0)
        block[TAR_TYPEFLAG] = from[TAR_TYPEFLAG];
    else
        memcpy(block + names[pick(seed, 2)], from + names[pick(seed, 2)], 100);
}

static size_t change_contents(uint8_t *data, size_t size, size_t max_size, const member *m) {
    size_t padded = m->end - m->at - TAR_BLOCK, room = padded + max_size - size;
    room = room / TAR_BLOCK * TAR_BLOCK;
    uint8_t *copy = calloc(1, room + TAR_BLOCK);
    char digits[SIZE_WIDTH + 1];
    CHECK(copy);
    size_t old = m->len < room ? m->len : room;
    memcpy(copy, data + m->at + TAR_BLOCK, old);
    size_t len = room ? LLVMFuzzerMutate(copy, old, room) : 0;
    size_t now = (len + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
    memset(copy + len, 0, now - len);
    memmove(data + m->at + TAR_BLOCK + now, data + m->end, size - m->end);
    memcpy(data + m->at + TAR_BLOCK, copy, now);
    (void)snprintf(digits, sizeof digits, "%011zo", len);
    memcpy(data + m->at + SIZE_AT, digits, SIZE_WIDTH);
    free(copy);
    return size - padded + now;
}

static size_t repeat(uint8_t *data, size_t size, size_t max_size, const member *m, size_t to) {
    size_t len = m->end - m->at;
    if (size + len > max_size)
        return size;
    uint8_t *copy = malloc(len);
    CHECK(copy);
    memcpy(copy, data + m->at, len);
    memmove(data + to + len, data + to, size - to);
    memcpy(data + to, copy, len);
    free(copy);
    return size + len;
}

/* Ends the layer at `at`, by two zero blocks. */
static size_t cut(uint8_t *data, size_t size, size_t max_size, size_t at) {
    const size_t end = 2 * TAR_BLOCK;
    if (size + end > max_size)
        return size;
    memmove(data + at + end, data + at, size - at);
    memset(data + at, 0, end);
    return size + end;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    member members[MEMBERS];
    size_t n = list_members(data, size, members);
    uint32_t way = pick(&seed, 16);
    if (n == 0 || way < 2) {
        size = LLVMFuzzerMutate(data, size, max_size);
    } else {
        const member *one = &members[pick(&seed, (uint32_t)n)];
        const member *other = &members[pick(&seed, (uint32_t)n)];
        if (way < 7)
            change_field(data + one->at, &seed);
        else if (way < 10)
            take_field(data + one->at, data + other->at, &seed);
        else if (way < 12)
            size = change_contents(data, size, max_size, one);
        else if (way < 14)
            size = repeat(data, size, max_size, one, other->at);
        else if (way == 14)
            size = cut(data, size, max_size, one->at);
        else if (n > 1) {
            memmove(data + one->at, data + one->end, size - one->end);
            size -= one->end - one->at;
        }
    }
    fix_checksums(data, size);
    return size;
}
