/* py_beneath.c: shows beneath.h to Python; fusemount/beneath.py explains what it is for. */
#include "py/py_native.h"

#include "base/beneath.h"

#include <errno.h>

static PyObject *open_by(int (*call)(int, const char *, int, mode_t), PyObject *args) {
    PyObject *path = NULL;
    int dir, flags, fd;
    unsigned int mode;
    if (!PyArg_ParseTuple(args, "iO&iI", &dir, PyUnicode_FSConverter, &path, &flags, &mode))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    fd = call(dir, PyBytes_AS_STRING(path), flags, (mode_t)mode);
    Py_END_ALLOW_THREADS;
    Py_DECREF(path);
    if (fd < 0) {
        errno = -fd;
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, PyTuple_GET_ITEM(args, 1));
    }
    return PyLong_FromLong(fd);
}

static PyObject *open_beneath(PyObject *Py_UNUSED(module), PyObject *args) {
    return open_by(img_open_beneath, args);
}

static PyObject *open_in_root(PyObject *Py_UNUSED(module), PyObject *args) {
    return open_by(img_open_in_root, args);
}

static PyObject *step_by_step(PyObject *Py_UNUSED(module), PyObject *on) {
    int wanted = PyObject_IsTrue(on);
    if (wanted < 0)
        return NULL;
    img_beneath_step_by_step(wanted);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"open_beneath", open_beneath, METH_VARARGS, "img_open_beneath"},
    {"open_in_root", open_in_root, METH_VARARGS, "img_open_in_root"},
    {"beneath_step_by_step", step_by_step, METH_O, "For tests: True: do not use openat2."},
    {NULL, NULL, 0, NULL},
};

int imgpy_beneath_exec(PyObject *module) {
    return PyModule_AddFunctions(module, functions);
}
