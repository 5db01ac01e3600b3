/* py_time.h: times as Python has them, in nanoseconds since 1970. */
#ifndef IMG_PY_TIME_H
#define IMG_PY_TIME_H

#include "py/py_native.h"

/* An int; NULL with an exception set. */
PyObject *imgpy_time_ns(int64_t seconds, uint32_t ns);
/* The reverse; false with an exception set. */
bool imgpy_take_time(PyObject *ns, int64_t *seconds, uint32_t *rest);

#endif
