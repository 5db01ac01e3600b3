/* py_upper.h: leads to the upper inside an UpperFiles object, for threads without the GIL. */
#ifndef IMG_PY_UPPER_H
#define IMG_PY_UPPER_H

#include "py/py_native.h"

#include "upper/upperdir.h"

/* The upper inside an UpperFiles, borrowed: it exists until obj is closed or freed, which must not
 * happen while it is in use.  NULL with TypeError set for any other object, with OSError (EBADF)
 * set for a closed one. */
img_upper *imgpy_upper_get(PyObject *obj);

#endif
