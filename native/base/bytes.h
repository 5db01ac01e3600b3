/* bytes.h: a run of bytes that grows.
 *
 * Ownership: the caller's struct owns data; img_bytes_free frees it and zeroes the struct.
 * A zeroed struct is an empty run.  Errors: -1 means out of memory; the run is then unchanged.
 */
#ifndef IMG_BYTES_H
#define IMG_BYTES_H

#include <stddef.h>

typedef struct img_bytes {
    char *data;
    size_t len, cap;
} img_bytes;

/* Makes room for `extra` more bytes behind len. */
int img_bytes_reserve(img_bytes *bytes, size_t extra);
int img_bytes_add(img_bytes *bytes, const void *data, size_t len);
/* Replaces the contents. */
int img_bytes_set(img_bytes *bytes, const void *data, size_t len);
void img_bytes_free(img_bytes *bytes);

#endif
