/* py_stats.h: leads to the counters inside a Stats object, for threads without the GIL. */
#ifndef IMG_PY_STATS_H
#define IMG_PY_STATS_H

#include "py/py_native.h"

#include "base/stats.h"

/* The counters inside a Stats, borrowed: they exist as long as obj. NULL with TypeError set for any
 * other object. */
img_stats *imgpy_stats_get(PyObject *obj);

#endif
