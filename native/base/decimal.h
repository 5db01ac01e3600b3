/* decimal.h: reads decimal numbers as PAX records have them: only digits, no sign and no blank. */
#ifndef IMG_DECIMAL_H
#define IMG_DECIMAL_H

#include <stddef.h>
#include <stdint.h>

/* -1: empty, not all digits, or beyond 64 bits. */
static inline int img_decimal(const char *text, size_t len, uint64_t *out) {
    uint64_t value = 0;
    if (len == 0)
        return -1;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9' || __builtin_mul_overflow(value, (uint64_t)10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(text[i] - '0'), &value))
            return -1;
    }
    *out = value;
    return 0;
}

#endif
