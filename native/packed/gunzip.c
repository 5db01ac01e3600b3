#include "packed/gunzip.h"

#include "base/checksum.h"

#include <errno.h>
#include <isa-l/igzip_lib.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(IMG_GZIP_WINDOW == ISAL_DEF_HIST_SIZE,
               "ISA-L keeps as much output as deflate needs");

#define FORMAT 1u /* of a state */
enum { TRAILER = 8, MAGIC = 2, PENDING_MAX = 1024 };
/* RFC 1952, 2.3.1.2: reserved flags "must be zero", and else it is an error.  The code of this
 * error is none of ISA-L's. */
enum { RESERVED = 0xe0, RESERVED_SET = -100 };

/* Where in the stream the decoder is. */
enum place {
    BETWEEN, /* before a member's first byte */
    MAGIC_1, /* behind the first byte of its magic */
    HEADER,  /* inside a member's header */
    MEMBER,  /* inside a member that was begun at its start: ISA-L reads and checks the trailer */
    MIDDLE,  /* inside a member that was begun in its middle: ISA-L reads deflate only */
    AFTER,   /* in the trailer of such a member */
};

struct img_gunzip {
    struct inflate_state isal;
    struct isal_gzip_header header; /* isal_inflate forgets a header's CRC between two calls */
    enum place place;
    uint32_t trailer_left;
    bool any; /* a member has begun */
};

typedef struct img_gunzip_head {
    uint64_t read_in;
    int32_t read_in_length;
    int32_t block_state, type0_block_len;
    int32_t write_overflow_lits, write_overflow_len;
    int32_t copy_overflow_length, copy_overflow_distance;
    uint32_t bfinal, hist_bits, n_tables, n_header, n_pending;
} img_gunzip_head;

static const uint8_t magic[MAGIC] = {0x1f, 0x8b};

img_gunzip *img_gunzip_new(void) {
    /* ISA-L leaves parts of its tables unset: states would have bytes of the process's memory. */
    img_gunzip *gunzip = calloc(1, sizeof *gunzip);
    if (gunzip)
        img_gunzip_begin_member(gunzip);
    return gunzip;
}

void img_gunzip_free(img_gunzip *gunzip) {
    free(gunzip);
}

void img_gunzip_begin_member(img_gunzip *gunzip) {
    gunzip->place = BETWEEN;
    gunzip->any = false;
}

bool img_gunzip_may_end(const img_gunzip *gunzip) {
    return (gunzip->place == BETWEEN || gunzip->place == MAGIC_1) && gunzip->any;
}

/* ---- stepping ----------------------------------------------------------------------------- */

static int damaged(img_error *err, int code) {
    const char *what = code == ISAL_INVALID_BLOCK      ? "an invalid block"
                       : code == ISAL_INVALID_SYMBOL   ? "an invalid symbol"
                       : code == ISAL_INVALID_LOOKBACK ? "a distance too far back"
                       : code == ISAL_INCORRECT_CHECKSUM
                           ? "another CRC or length than its trailer says"
                       : code == RESERVED_SET ? "reserved flags in a header"
                                              : "an invalid header";
    return img_fail(err, EBADMSG, "gzip stream is damaged (%s)", what);
}

static int read_header(img_gunzip *gunzip) {
    int code = isal_read_gzip_header(&gunzip->isal, &gunzip->header);
    if (code == ISAL_DECOMP_OK && gunzip->header.flags & RESERVED)
        return RESERVED_SET;
    if (code == ISAL_DECOMP_OK)
        gunzip->place = MEMBER;
    return code;
}

static int inflate_some(img_gunzip *gunzip) {
    return isal_inflate(&gunzip->isal);
}

/* Runs ISA-L over the flow, which it takes with 32-bit counts. */
static int read_some(img_gunzip *gunzip, img_flow *flow, int isal_read(img_gunzip *gunzip),
                     img_error *err) {
    struct inflate_state *isal = &gunzip->isal;
    uint32_t n_in = flow->n_in < UINT32_MAX / 2 ? (uint32_t)flow->n_in : UINT32_MAX / 2;
    uint32_t n_out = flow->n_out < UINT32_MAX / 2 ? (uint32_t)flow->n_out : UINT32_MAX / 2;
    isal->next_in = (uint8_t *)(uintptr_t)flow->in; /* it is only read */
    isal->avail_in = n_in;
    isal->next_out = flow->out;
    isal->avail_out = n_out;
    int code = isal_read(gunzip);
    if (n_in) /* else `in` may be NULL */
        flow->in += n_in - isal->avail_in;
    flow->n_in -= n_in - isal->avail_in;
    flow->out += n_out - isal->avail_out;
    flow->n_out -= n_out - isal->avail_out;
    return code < 0 || code > ISAL_OUT_OVERFLOW ? damaged(err, code) : 0;
}

/* Begins the next member if its magic is there. */
static int begin_if_magic(img_gunzip *gunzip, img_flow *flow, img_error *err) {
    if (!flow->n_in)
        return IMG_DECODED_HUNGRY;
    if (*flow->in != magic[gunzip->place == MAGIC_1]) {
        if (!gunzip->any)
            return img_fail(err, EBADMSG, "gzip stream is damaged (an invalid header)");
        return IMG_DECODED_END;
    }
    flow->in++;
    flow->n_in--;
    if (gunzip->place == BETWEEN) {
        gunzip->place = MAGIC_1;
        return 0;
    }
    isal_inflate_init(&gunzip->isal);
    isal_gzip_header_init(&gunzip->header);
    gunzip->isal.crc_flag = ISAL_GZIP_NO_HDR_VER;
    gunzip->place = HEADER;
    gunzip->any = true;
    img_flow head = {magic, MAGIC, flow->out, 0};
    return read_some(gunzip, &head, read_header, err);
}

static int end_member(img_gunzip *gunzip) {
    gunzip->place = BETWEEN;
    return IMG_DECODED_BOUND;
}

/* ISA-L has read the last block of a member that it did not see the header of.  What it holds of
 * the trailer is whole bytes behind the last bit of the block. */
static void find_trailer(img_gunzip *gunzip) {
    uint32_t held = (uint32_t)gunzip->isal.read_in_length / 8;
    gunzip->trailer_left = held < TRAILER ? TRAILER - held : 0;
    gunzip->place = AFTER;
}

static int skip_trailer(img_gunzip *gunzip, img_flow *flow) {
    size_t n = flow->n_in < gunzip->trailer_left ? flow->n_in : gunzip->trailer_left;
    flow->in += n;
    flow->n_in -= n;
    gunzip->trailer_left -= (uint32_t)n;
    return gunzip->trailer_left ? IMG_DECODED_HUNGRY : end_member(gunzip);
}

int img_gunzip_step(img_gunzip *gunzip, img_flow *flow, img_error *err) {
    for (;;) {
        int result = 0;
        if (gunzip->place == AFTER)
            return skip_trailer(gunzip, flow);
        if (gunzip->place == BETWEEN || gunzip->place == MAGIC_1) {
            result = begin_if_magic(gunzip, flow, err);
            if (result)
                return result;
            continue;
        }
        if (gunzip->place == HEADER && !flow->n_in)
            return IMG_DECODED_HUNGRY;
        if (read_some(gunzip, flow, gunzip->place == HEADER ? read_header : inflate_some, err) < 0)
            return -1;
        if (gunzip->place == HEADER)
            continue;
        if (gunzip->isal.block_state == ISAL_BLOCK_FINISH) {
            if (gunzip->place == MEMBER)
                return end_member(gunzip);
            find_trailer(gunzip);
            continue;
        }
        if (!flow->n_out)
            return IMG_DECODED_FULL;
        if (!flow->n_in)
            return IMG_DECODED_HUNGRY;
    }
}

/* ---- states ------------------------------------------------------------------------------- */

static bool in_block(const struct inflate_state *isal) {
    return isal->block_state == ISAL_BLOCK_NEW_HDR || isal->block_state == ISAL_BLOCK_HDR ||
           isal->block_state == ISAL_BLOCK_TYPE0 || isal->block_state == ISAL_BLOCK_CODED;
}

static uint32_t tables_bytes(int32_t block_state) {
    return block_state == ISAL_BLOCK_CODED ? (uint32_t)(sizeof(struct inflate_huff_code_large) +
                                                        sizeof(struct inflate_huff_code_small))
                                           : 0;
}

int img_gunzip_save(const img_gunzip *gunzip, img_bytes *state, uint32_t *ahead) {
    const struct inflate_state *isal = &gunzip->isal;
    int32_t before = isal->tmp_out_processed, pending = isal->tmp_out_valid - before;
    state->len = 0;
    *ahead = 0;
    if ((gunzip->place != MEMBER && gunzip->place != MIDDLE) || !in_block(isal) || pending < 0)
        return 0;
    if (pending > PENDING_MAX) { /* ISA-L made much more than it had room for, and keeps it */
        *ahead = (uint32_t)pending;
        before = isal->tmp_out_valid;
        pending = 0;
    }
    img_gunzip_head head = {
        .read_in = isal->read_in,
        .read_in_length = isal->read_in_length,
        .block_state = (int32_t)isal->block_state,
        .type0_block_len = isal->type0_block_len,
        .write_overflow_lits = isal->write_overflow_lits,
        .write_overflow_len = isal->write_overflow_len,
        .copy_overflow_length = isal->copy_overflow_length,
        .copy_overflow_distance = isal->copy_overflow_distance,
        .bfinal = isal->bfinal,
        .hist_bits = isal->hist_bits,
        .n_tables = tables_bytes((int32_t)isal->block_state),
        .n_header = isal->block_state == ISAL_BLOCK_HDR ? (uint32_t)isal->tmp_in_size : 0,
        .n_pending = (uint32_t)pending,
    };
    uint32_t kept = (uint32_t)before < IMG_GZIP_WINDOW ? (uint32_t)before : IMG_GZIP_WINDOW;
    const uint8_t *end = isal->tmp_out_buffer + before;
    if (img_bytes_add(state, &head, sizeof head) < 0 ||
        (head.n_tables &&
         (img_bytes_add(state, &isal->lit_huff_code, sizeof isal->lit_huff_code) < 0 ||
          img_bytes_add(state, &isal->dist_huff_code, sizeof isal->dist_huff_code) < 0)) ||
        img_bytes_add(state, isal->tmp_in_buffer, head.n_header) < 0 ||
        img_bytes_add(state, end, head.n_pending) < 0 ||
        img_bytes_reserve(state, IMG_GZIP_WINDOW) < 0)
        return -1;
    memset(state->data + state->len, 0, IMG_GZIP_WINDOW - kept);
    memcpy(state->data + state->len + IMG_GZIP_WINDOW - kept, end - kept, kept);
    state->len += IMG_GZIP_WINDOW;
    return 1;
}

uint8_t *img_gunzip_window(img_bytes *state) {
    return (uint8_t *)state->data + state->len - IMG_GZIP_WINDOW;
}

static bool head_holds(const img_gunzip_head *head, size_t len) {
    return (head->block_state == ISAL_BLOCK_NEW_HDR || head->block_state == ISAL_BLOCK_HDR ||
            head->block_state == ISAL_BLOCK_TYPE0 || head->block_state == ISAL_BLOCK_CODED) &&
           head->n_tables == tables_bytes(head->block_state) &&
           head->n_header <= ISAL_DEF_MAX_HDR_SIZE && head->n_pending <= PENDING_MAX &&
           head->read_in_length >= 0 && head->read_in_length <= 64 &&
           len ==
               sizeof *head + head->n_tables + head->n_header + head->n_pending + IMG_GZIP_WINDOW;
}

int img_gunzip_restore(img_gunzip *gunzip, const void *state, size_t len, img_error *err) {
    struct inflate_state *isal = &gunzip->isal;
    img_gunzip_head head;
    const uint8_t *at = (const uint8_t *)state + sizeof head;
    if (len < sizeof head)
        return img_fail(err, EBADMSG, "a damaged state of an inflater");
    memcpy(&head, state, sizeof head);
    if (!head_holds(&head, len))
        return img_fail(err, EBADMSG, "a damaged state of an inflater");
    isal_inflate_init(isal);
    isal->read_in = head.read_in;
    isal->read_in_length = head.read_in_length;
    isal->block_state = (enum isal_block_state)head.block_state;
    isal->type0_block_len = head.type0_block_len;
    isal->write_overflow_lits = head.write_overflow_lits;
    isal->write_overflow_len = head.write_overflow_len;
    isal->copy_overflow_length = head.copy_overflow_length;
    isal->copy_overflow_distance = head.copy_overflow_distance;
    isal->bfinal = head.bfinal;
    isal->hist_bits = head.hist_bits;
    isal->crc_flag = ISAL_DEFLATE;
    if (head.n_tables) {
        memcpy(&isal->lit_huff_code, at, sizeof isal->lit_huff_code);
        memcpy(&isal->dist_huff_code, at + sizeof isal->lit_huff_code, sizeof isal->dist_huff_code);
        at += head.n_tables;
    }
    memcpy(isal->tmp_in_buffer, at, head.n_header);
    isal->tmp_in_size = (int16_t)head.n_header;
    at += head.n_header;
    memcpy(isal->tmp_out_buffer + IMG_GZIP_WINDOW, at, head.n_pending);
    memcpy(isal->tmp_out_buffer, at + head.n_pending, IMG_GZIP_WINDOW);
    isal->tmp_out_processed = (int32_t)IMG_GZIP_WINDOW;
    isal->tmp_out_valid = (int32_t)(IMG_GZIP_WINDOW + head.n_pending);
    isal->dict_length = IMG_GZIP_WINDOW;
    gunzip->place = MIDDLE;
    gunzip->any = true;
    return 0;
}

/* ---- the version -------------------------------------------------------------------------- */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint64_t version;

/* A deflate stream with one block that has codes of its own, cut before its end. */
static const uint8_t known[] = {
    0x9d, 0x56, 0xdb, 0x92, 0xd3, 0x30, 0x0c, 0xfd, 0x15, 0x7f, 0x01, 0xc3, 0x72, 0x59, 0x60, 0x78,
    0xca, 0xa7, 0xa8, 0xad, 0xdb, 0x35, 0xb4, 0x4e, 0x89, 0x03, 0x4b, 0xf9, 0x7a, 0x2c, 0x1d, 0xc9,
    0x56, 0xc2, 0x34, 0x9d, 0x61, 0x76, 0x37, 0xe3, 0x8b, 0x2e, 0x47, 0x47, 0x92, 0xb5, 0xa9, 0x84,
    0x99, 0xa6, 0x70, 0x3d, 0xd3, 0x3e, 0x86, 0x3d, 0xe5, 0x70, 0xa6, 0x5b, 0x9c, 0x42, 0x2a, 0xe1,
    0xf5, 0x25, 0x4e, 0x31, 0x8c, 0x39, 0x06, 0xaa, 0x3f, 0x38, 0xde, 0xdd, 0xe6, 0x58, 0x82, 0x97,
    0x4a, 0x59, 0x7e, 0xeb, 0xe2, 0x42, 0xa7, 0xf8, 0xb5, 0x2b, 0x26, 0x13, 0x22, 0xb1, 0xa1, 0xd7,
    0xec, 0x81, 0xff, 0xa8, 0x5d, 0x92, 0xfa, 0x56, 0x8b, 0x10, 0xc3, 0x06, 0x86, 0x04, 0xde, 0x98,
};

static void find_version(void) {
    static uint8_t out[4096];
    struct inflate_state *isal = calloc(1, sizeof *isal);
    if (!isal)
        return;
    isal_inflate_init(isal);
    isal->next_in = (uint8_t *)(uintptr_t)known;
    isal->avail_in = sizeof known;
    isal->next_out = out;
    isal->avail_out = sizeof out;
    (void)isal_inflate(isal);
    uint64_t sum = FORMAT + (uint64_t)sizeof *isal * 256;
    sum = img_checksum(&isal->lit_huff_code, sizeof isal->lit_huff_code, sum);
    version = img_checksum(&isal->dist_huff_code, sizeof isal->dist_huff_code, sum);
    free(isal);
}

uint64_t img_gunzip_version(void) {
    (void)pthread_once(&once, find_version);
    return version;
}
