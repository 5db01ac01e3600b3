#include "packed/unzstd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

/* An lz4 frame (LZ4 Frame Format, "Magic Number").  lz4 and zstd share the magic of skippable
 * frames, so an lz4 stream may begin as a zstd stream does. */
static const uint8_t lz4_magic[4] = {0x04, 0x22, 0x4d, 0x18};

struct img_unzstd {
    ZSTD_DCtx *context;
    bool inside;                    /* a frame has begun and has not ended */
    bool any;                       /* a frame has ended */
    uint8_t head[sizeof lz4_magic]; /* the first bytes of the frame */
    size_t n_head;
};

img_unzstd *img_unzstd_new(void) {
    img_unzstd *unzstd = calloc(1, sizeof *unzstd);
    if (!unzstd)
        return NULL;
    unzstd->context = ZSTD_createDCtx();
    if (!unzstd->context || ZSTD_isError(ZSTD_DCtx_setParameter(
                                unzstd->context, ZSTD_d_windowLogMax, IMG_ZSTD_WINDOW_LOG))) {
        img_unzstd_free(unzstd);
        return NULL;
    }
    return unzstd;
}

void img_unzstd_free(img_unzstd *unzstd) {
    if (!unzstd)
        return;
    (void)ZSTD_freeDCtx(unzstd->context);
    free(unzstd);
}

void img_unzstd_begin(img_unzstd *unzstd) {
    (void)ZSTD_DCtx_reset(unzstd->context, ZSTD_reset_session_only);
    unzstd->inside = unzstd->any = false;
    unzstd->n_head = 0;
}

bool img_unzstd_may_end(const img_unzstd *unzstd) {
    return unzstd->any && !unzstd->inside;
}

static void note_head(img_unzstd *unzstd, const img_flow *flow) {
    size_t n = sizeof unzstd->head - unzstd->n_head;
    n = n < flow->n_in ? n : flow->n_in;
    memcpy(unzstd->head + unzstd->n_head, flow->in, n);
    unzstd->n_head += n;
}

static int damaged(const img_unzstd *unzstd, size_t code, img_error *err) {
    if (unzstd->n_head == sizeof lz4_magic &&
        memcmp(unzstd->head, lz4_magic, sizeof lz4_magic) == 0)
        return img_fail(err, EBADMSG, "lz4");
    return img_fail(err, EBADMSG, "zstd stream is damaged (%s)", ZSTD_getErrorName(code));
}

int img_unzstd_step(img_unzstd *unzstd, img_flow *flow, img_error *err) {
    for (;;) {
        if (!flow->n_in && !unzstd->inside)
            return IMG_DECODED_HUNGRY;
        note_head(unzstd, flow);
        ZSTD_inBuffer in = {flow->in, flow->n_in, 0};
        ZSTD_outBuffer out = {flow->out, flow->n_out, 0};
        size_t left = ZSTD_decompressStream(unzstd->context, &out, &in);
        if (ZSTD_isError(left))
            return damaged(unzstd, left, err);
        bool moved = in.pos || out.pos;
        flow->in += in.pos;
        flow->n_in -= in.pos;
        flow->out += out.pos;
        flow->n_out -= out.pos;
        unzstd->inside = left != 0;
        if (left == 0) {
            unzstd->any = true;
            unzstd->n_head = 0;
            return IMG_DECODED_BOUND;
        }
        if (!flow->n_out)
            return IMG_DECODED_FULL;
        if (!flow->n_in && !moved)
            return IMG_DECODED_HUNGRY;
    }
}
