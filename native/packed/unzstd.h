/* unzstd.h: decodes zstd frames with libzstd.
 *
 * Law: the only file of this room that decodes zstd streams.  A frame's window takes memory; frames
 * that need more than IMG_ZSTD_WINDOW_LOG are refused.
 */
#ifndef IMG_UNZSTD_H
#define IMG_UNZSTD_H

#include "packed/decoder.h"

#define IMG_ZSTD_WINDOW_LOG                                                                        \
    27 /* 128 MiB: the most that zstd(1) takes without --long or --memory                          \
        */

img_unzstd *img_unzstd_new(void); /* NULL: out of memory */
void img_unzstd_free(img_unzstd *unzstd);

void img_unzstd_begin(img_unzstd *unzstd);
int img_unzstd_step(img_unzstd *unzstd, img_flow *flow, img_error *err); /* as img_decode */
bool img_unzstd_may_end(const img_unzstd *unzstd);

#endif
