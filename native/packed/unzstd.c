#define ZSTD_STATIC_LINKING_ONLY /* ZSTD_createDCtx_advanced() */
#include "packed/unzstd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

/* An lz4 frame (LZ4 Frame Format, "Magic Number").  lz4 and zstd share the magic of skippable
 * frames, so an lz4 stream may begin as a zstd stream does. */
static const uint8_t lz4_magic[4] = {0x04, 0x22, 0x4d, 0x18};

/* RFC 8878, 3.1.1: the magic and the descriptor, which says how long the header is; libzstd wants
 * them first. */
enum { START_BYTES = 5 };

/* libzstd gets each block in one piece, with the header of the next one, as it asks for them.  If a
 * frame has matches beyond its window, as only a hostile one has, libzstd's output would depend on
 * the pieces that it gets; it looks at no window if it gets a whole small frame. */
struct img_unzstd {
    ZSTD_DCtx *context;
    bool inside;               /* a frame has begun and has not ended */
    bool any;                  /* a frame has ended */
    uint8_t head[START_BYTES]; /* of the frame */
    unsigned feeds;            /* pieces of the frame that libzstd has got, 2 at most */
    size_t want;               /* how many bytes it wants next */
    uint8_t *held;             /* the first bytes of those; room for ZSTD_DStreamInSize() */
    size_t n_held;
};

/* Matches beyond the window reach bytes of libzstd's buffers that it has not written, in which a
 * hostile frame must not show what this process had in its memory before. */
static void *zeroed(void *opaque, size_t size) {
    (void)opaque;
    return calloc(1, size);
}

static void release(void *opaque, void *address) {
    (void)opaque;
    free(address);
}

img_unzstd *img_unzstd_new(void) {
    img_unzstd *unzstd = calloc(1, sizeof *unzstd);
    if (!unzstd)
        return NULL;
    unzstd->want = START_BYTES;
    unzstd->held = malloc(ZSTD_DStreamInSize());
    unzstd->context = ZSTD_createDCtx_advanced((ZSTD_customMem){zeroed, release, NULL});
    if (!unzstd->held || !unzstd->context ||
        ZSTD_isError(
            ZSTD_DCtx_setParameter(unzstd->context, ZSTD_d_windowLogMax, IMG_ZSTD_WINDOW_LOG))) {
        img_unzstd_free(unzstd);
        return NULL;
    }
    return unzstd;
}

void img_unzstd_free(img_unzstd *unzstd) {
    if (!unzstd)
        return;
    (void)ZSTD_freeDCtx(unzstd->context);
    free(unzstd->held);
    free(unzstd);
}

static void begin_frame(img_unzstd *unzstd) {
    unzstd->feeds = 0;
    unzstd->want = START_BYTES;
    unzstd->n_held = 0;
}

void img_unzstd_begin(img_unzstd *unzstd) {
    (void)ZSTD_DCtx_reset(unzstd->context, ZSTD_reset_session_only);
    unzstd->inside = unzstd->any = false;
    begin_frame(unzstd);
}

bool img_unzstd_may_end(const img_unzstd *unzstd) {
    return unzstd->any && !unzstd->inside;
}

static int damaged(const img_unzstd *unzstd, size_t code, img_error *err) {
    if (memcmp(unzstd->head, lz4_magic, sizeof lz4_magic) == 0)
        return img_fail(err, EBADMSG, "lz4");
    return img_fail(err, EBADMSG, "zstd stream is damaged (%s)", ZSTD_getErrorName(code));
}

/* A skippable frame, which has no blocks: magic 5? 2a 4d 18 (RFC 8878, 3.1.2). */
static bool is_skippable(const img_unzstd *unzstd) {
    return unzstd->feeds && (unzstd->head[0] & 0xf0) == 0x50 && unzstd->head[1] == 0x2a &&
           unzstd->head[2] == 0x4d && unzstd->head[3] == 0x18;
}

/* Sets *in to what libzstd gets next.  False: more input is needed. */
static bool gather(img_unzstd *unzstd, img_flow *flow, ZSTD_inBuffer *in) {
    if (is_skippable(unzstd) && !unzstd->n_held) {
        *in = (ZSTD_inBuffer){flow->in, flow->n_in, 0};
        return flow->n_in != 0;
    }
    if (!unzstd->n_held && flow->n_in >= unzstd->want) {
        *in = (ZSTD_inBuffer){flow->in, unzstd->want, 0};
        return true;
    }
    if (unzstd->n_held < unzstd->want && flow->n_in) {
        size_t n = unzstd->want - unzstd->n_held;
        n = n < flow->n_in ? n : flow->n_in;
        memcpy(unzstd->held + unzstd->n_held, flow->in, n);
        unzstd->n_held += n;
        flow->in += n;
        flow->n_in -= n;
        unzstd->inside = true;
    }
    *in = (ZSTD_inBuffer){unzstd->held, unzstd->want, 0};
    return unzstd->n_held >= unzstd->want;
}

static void consume(img_unzstd *unzstd, img_flow *flow, const ZSTD_inBuffer *in) {
    if (in->src == unzstd->held) {
        unzstd->n_held -= in->pos;
        memmove(unzstd->held, unzstd->held + in->pos, unzstd->n_held);
    } else {
        flow->in += in->pos;
        flow->n_in -= in->pos;
    }
}

/* Gives libzstd one piece.  What ZSTD_decompressStream() returns. */
static size_t feed(img_unzstd *unzstd, img_flow *flow, ZSTD_inBuffer *in) {
    if (unzstd->feeds == 0)
        memcpy(unzstd->head, in->src, START_BYTES);
    /* Without room for output, libzstd does not decode a frame at once, from its header on. */
    ZSTD_outBuffer out = {flow->out, unzstd->feeds < 2 ? 0 : flow->n_out, 0};
    size_t left = ZSTD_decompressStream(unzstd->context, &out, in);
    unzstd->feeds += unzstd->feeds < 2;
    consume(unzstd, flow, in);
    flow->out += out.pos;
    flow->n_out -= out.pos;
    return left;
}

int img_unzstd_step(img_unzstd *unzstd, img_flow *flow, img_error *err) {
    ZSTD_inBuffer in;
    while (gather(unzstd, flow, &in)) {
        size_t left = feed(unzstd, flow, &in);
        if (ZSTD_isError(left))
            return damaged(unzstd, left, err);
        if (left > ZSTD_DStreamInSize() && !is_skippable(unzstd))
            return img_fail(err, EBADMSG, "zstd stream is damaged (block too large)");
        unzstd->inside = left != 0;
        unzstd->want = left;
        if (left == 0) {
            unzstd->any = true;
            begin_frame(unzstd);
            return IMG_DECODED_BOUND;
        }
        if (!flow->n_out)
            return IMG_DECODED_FULL;
    }
    return IMG_DECODED_HUNGRY;
}
