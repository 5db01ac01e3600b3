/* check.h: CHECK prints which condition failed and where, and ends the program. */
#ifndef IMG_CHECK_H
#define IMG_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s: not %s\n", __FILE__, __LINE__, __func__, #condition);      \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
