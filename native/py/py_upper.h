/* py_upper.h: the upper inside an UpperFiles object, for threads that use it without the GIL. */
#ifndef IMG_PY_UPPER_H
#define IMG_PY_UPPER_H

#include "py/py_native.h"

#include "upper/upperdir.h"

/* The upper inside an UpperFiles, borrowed: it lives until obj is closed or gone, which the caller
 * sees to.  NULL with TypeError set for any other object, with OSError (EBADF) for a closed one. */
img_upper *imgpy_upper_get(PyObject *obj);

#endif
