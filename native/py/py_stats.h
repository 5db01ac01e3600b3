/* py_stats.h: the counters inside a Stats object, for threads that add to them without the GIL. */
#ifndef IMG_PY_STATS_H
#define IMG_PY_STATS_H

#include "py/py_native.h"

#include "base/stats.h"

/* The counters inside a Stats, borrowed: they live as long as obj, which the caller keeps.
 * NULL with TypeError set for any other object. */
img_stats *imgpy_stats_get(PyObject *obj);

#endif
