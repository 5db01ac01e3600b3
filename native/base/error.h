/* error.h: how the C core describes an error.
 *
 * A function that can fail returns 0 or -1 and fills an img_error.  `code` is an errno value:
 * EBADMSG means that the archive breaks its format, E2BIG that it exceeds a named limit; other
 * values come from the system (an I/O error, out of memory).  `offset` is a byte offset in the
 * archive.  `member` is the name of the current member (cut, NUL-terminated, may be empty).
 */
#ifndef IMG_ERROR_H
#define IMG_ERROR_H

#include <stdint.h>

typedef struct img_error {
    int code;
    uint64_t offset;
    char member[256];
    char message[256];
} img_error;

/* Sets code and a printf-formatted message; leaves member and offset.  Returns -1. */
int img_fail(img_error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
