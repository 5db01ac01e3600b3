#include "base/bytes.h"

#include <stdlib.h>
#include <string.h>

int img_bytes_reserve(img_bytes *bytes, size_t extra) {
    if (bytes->cap - bytes->len >= extra)
        return 0;
    size_t need, cap = bytes->cap ? bytes->cap : 256;
    if (__builtin_add_overflow(bytes->len, extra, &need))
        return -1;
    while (cap < need)
        if (__builtin_mul_overflow(cap, (size_t)2, &cap))
            return -1;
    char *data = realloc(bytes->data, cap);
    if (!data)
        return -1;
    bytes->data = data;
    bytes->cap = cap;
    return 0;
}

int img_bytes_add(img_bytes *bytes, const void *data, size_t len) {
    if (img_bytes_reserve(bytes, len) < 0)
        return -1;
    if (len)
        memcpy(bytes->data + bytes->len, data, len);
    bytes->len += len;
    return 0;
}

int img_bytes_set(img_bytes *bytes, const void *data, size_t len) {
    bytes->len = 0;
    return img_bytes_add(bytes, data, len);
}

void img_bytes_free(img_bytes *bytes) {
    free(bytes->data);
    *bytes = (img_bytes){0};
}
