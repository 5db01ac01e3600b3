#include "packed/decoder.h"

#include "packed/gunzip.h"
#include "packed/unzstd.h"

#include <errno.h>

int img_decoder_init(img_decoder *decoder, img_codec codec, img_error *err) {
    *decoder = (img_decoder){.codec = codec};
    if (codec == IMG_GZIP)
        decoder->gunzip = img_gunzip_new();
    else
        decoder->unzstd = img_unzstd_new();
    if (!decoder->gunzip && !decoder->unzstd)
        return img_fail(err, ENOMEM, "out of memory");
    return 0;
}

void img_decoder_free(img_decoder *decoder) {
    img_gunzip_free(decoder->gunzip);
    img_unzstd_free(decoder->unzstd);
    *decoder = (img_decoder){0};
}

void img_decoder_begin(img_decoder *decoder, uint64_t in_at) {
    decoder->taken = in_at;
    if (decoder->gunzip)
        img_gunzip_begin_member(decoder->gunzip);
    else
        img_unzstd_begin(decoder->unzstd);
}

int img_decode(img_decoder *decoder, img_flow *flow, img_error *err) {
    const uint8_t *before = flow->in;
    err->member[0] = 0;
    int result = decoder->gunzip ? img_gunzip_step(decoder->gunzip, flow, err)
                                 : img_unzstd_step(decoder->unzstd, flow, err);
    decoder->taken += (uint64_t)(flow->in - before);
    err->offset = decoder->taken;
    return result;
}

bool img_decoder_may_end(const img_decoder *decoder) {
    return decoder->gunzip ? img_gunzip_may_end(decoder->gunzip)
                           : img_unzstd_may_end(decoder->unzstd);
}
