/* py_native.h: what all files of the extension module share.
 *
 * The exec function of each py_*.c adds its types and functions to the module (0, or -1 with an
 * exception set).  No file has global variables.  An img_error becomes an exception in imgpy_raise
 * and nowhere else.
 */
#ifndef IMG_PY_NATIVE_H
#define IMG_PY_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "base/error.h"
#include "base/interrupt.h"
#include "index/index.h"
#include "packed/packed.h"

int imgpy_index_exec(PyObject *module);    /* FormatError, Member, LayerIndex, Scanner */
int imgpy_dirscan_exec(PyObject *module);  /* functions for directory layers */
int imgpy_tree_exec(PyObject *module);     /* Tree */
int imgpy_upper_exec(PyObject *module);    /* UpperFiles */
int imgpy_linux_exec(PyObject *module);    /* system calls that Python lacks */
int imgpy_stats_exec(PyObject *module);    /* Stats */
int imgpy_fastpath_exec(PyObject *module); /* FastPath */
int imgpy_beneath_exec(PyObject *module);  /* opening beneath a descriptor */
int imgpy_packed_exec(PyObject *module);   /* Unpacker, BegunPoint, Points, Packed */

/* The module's state: the types of which C code makes objects. */
typedef struct imgpy_state {
    PyTypeObject *layer_index, *scanner, *member, *attr, *begun;
    PyObject *format_error;
} imgpy_state;

/* The index inside a LayerIndex, borrowed: it exists as long as obj.  NULL with TypeError set for
 * any other object. */
const img_index *imgpy_index_get(PyObject *obj);

/* The address space inside a Packed, likewise. */
img_packed *imgpy_packed_get(PyObject *obj);

/* Makes a LayerIndex, which owns index. If it fails, index is freed. */
PyObject *imgpy_index_wrap(img_index *index);

/* Sets the exception for err and returns NULL.  EBADMSG and E2BIG become FormatError(message,
 * member, offset), ENOMEM becomes MemoryError, EINTR leaves the exception that a signal's handler
 * raised, any other code becomes OSError(code, message).  Needs the GIL. */
PyObject *imgpy_raise(const img_error *err);

/* Around a call that may take long.  Releases the GIL, as Py_BEGIN_ALLOW_THREADS does, and takes it
 * again for a moment now and then to run the handlers of signals (which Python does in the main
 * thread only).  If a handler raises, the core's function fails with EINTR, and imgpy_raise leaves
 * the exception.  No lock may be held in between that a thread with the GIL waits for. */
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
