#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

int img_fail(img_error *err, int code, const char *format, ...) {
    va_list args;
    err->code = code;
    va_start(args, format);
    (void)vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    return -1;
}
