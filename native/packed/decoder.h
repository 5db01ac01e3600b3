/* decoder.h: decodes a compressed stream piece by piece, from its beginning or from a point.
 *
 * Law: a decoder reads no file and knows no chunk.  The caller gives input and room for output.  It
 * gets the bytes that gzip -dc or zstd -dc print, whatever the sizes of the pieces are.
 *
 *   gzip   members one after another (RFC 1952).  What follows the last member is ignored, as
 *          gzip(1) does.  ISA-L inflates; the CRC of each member is checked, except of a member
 * that was begun in its middle.  gunzip.c zstd   frames and skippable frames one after another (RFC
 * 8878).  libzstd decodes.  unzstd.c
 *
 * A decoder can begin at the start of a member or frame; the offset in the blob is enough.  To
 * begin in the middle of a gzip member, it needs a state (gunzip.h).
 *
 * Threads: one thread at a time uses a decoder.
 */
#ifndef IMG_DECODER_H
#define IMG_DECODER_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum img_codec { IMG_GZIP = 1, IMG_ZSTD = 2 } img_codec;

/* Input and output of a step.  A step moves the pointers and lowers the counts. */
typedef struct img_flow {
    const uint8_t *in;
    size_t n_in;
    uint8_t *out;
    size_t n_out;
} img_flow;

/* Why a step ended. */
typedef enum img_decoded {
    IMG_DECODED_FULL = 1, /* there is no room for output; perhaps there is more output */
    IMG_DECODED_HUNGRY,   /* all input was taken, and the decoder wants more */
    IMG_DECODED_BOUND,    /* a member or frame has ended; the next one, if any, begins here */
    IMG_DECODED_END,      /* the stream has ended; the rest of the input is no part of it */
} img_decoded;

typedef struct img_gunzip img_gunzip;
typedef struct img_unzstd img_unzstd;

typedef struct img_decoder {
    img_codec codec;
    img_gunzip *gunzip;
    img_unzstd *unzstd;
    uint64_t taken; /* the offset in the blob of the first byte that was not taken yet */
} img_decoder;

/* Makes a decoder that begins at the start of the blob.  -1: out of memory. */
int img_decoder_init(img_decoder *decoder, img_codec codec, img_error *err);
void img_decoder_free(img_decoder *decoder);

/* Begins at the start of a member or frame, whose offset in the blob is in_at. */
void img_decoder_begin(img_decoder *decoder, uint64_t in_at);

/* Decodes until there is one of the reasons of img_decoded, and returns it.  -1 and EBADMSG: the
 * stream is damaged; err->offset is an offset in the blob near the place. */
int img_decode(img_decoder *decoder, img_flow *flow, img_error *err);

/* True if the stream may end here: no member or frame is incomplete. */
bool img_decoder_may_end(const img_decoder *decoder);

#endif
