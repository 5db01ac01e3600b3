/* py_native.h: the thin Python skin's own declarations; the only headers with Python.h behind them.
 *
 * Each py_*.c adds its types to the module in its exec function (0, or -1 with an exception set)
 * and keeps no globals.  C errors become exceptions in imgpy_raise and nowhere else.
 */
#ifndef IMG_PY_NATIVE_H
#define IMG_PY_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "base/error.h"
#include "base/interrupt.h"
#include "index/index.h"

int imgpy_index_exec(PyObject *module);    /* FormatError, Member, LayerIndex, Scanner */
int imgpy_dirscan_exec(PyObject *module);  /* directory layers */
int imgpy_tree_exec(PyObject *module);     /* Tree */
int imgpy_upper_exec(PyObject *module);    /* UpperFiles */
int imgpy_linux_exec(PyObject *module);    /* system calls that Python lacks */
int imgpy_stats_exec(PyObject *module);    /* Stats */
int imgpy_fastpath_exec(PyObject *module); /* FastPath */
int imgpy_beneath_exec(PyObject *module);  /* opening beneath a descriptor */

/* The module's state: the types that C makes objects of. */
typedef struct imgpy_state {
    PyTypeObject *layer_index, *scanner, *member, *attr;
    PyObject *format_error;
} imgpy_state;

/* The index inside a LayerIndex, borrowed: it lives as long as obj.  NULL with TypeError set for
 * any other object. */
const img_index *imgpy_index_get(PyObject *obj);

/* A LayerIndex of index, which it takes, also when it fails. */
PyObject *imgpy_index_wrap(img_index *index);

/* Sets the exception for err and returns NULL: EBADMSG and E2BIG are FormatError(message, member,
 * offset), ENOMEM is MemoryError, EINTR what a signal's handler raised, everything else
 * OSError(code, message).  Needs the GIL. */
PyObject *imgpy_raise(const img_error *err);

/* Around what may take long: gives up the GIL, as Py_BEGIN_ALLOW_THREADS does, and takes it back
 * for a moment now and then to run the handlers of signals (in the main thread; others have none).
 * When one raises, the core's function fails with EINTR, and imgpy_raise leaves that exception.
 * Whatever lock is held in between must be one that nobody waits for with the GIL held. */
#define IMGPY_BEGIN_LONG                                                                           \
    {                                                                                              \
        PyThreadState *imgpy_thread = PyEval_SaveThread();                                         \
        img_interrupt_ask(imgpy_signalled, &imgpy_thread, IMG_ASK_EVERY_NS);
#define IMGPY_END_LONG                                                                             \
    img_interrupt_ask(NULL, NULL, 0);                                                              \
    PyEval_RestoreThread(imgpy_thread);                                                            \
    }

bool imgpy_signalled(void *thread); /* an img_question; thread: PyThreadState ** */

#endif
