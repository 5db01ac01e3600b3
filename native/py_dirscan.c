/* py_dirscan.c: directory layers for Python, a thin skin over layerfile.h and dirscan.h. */
#include "py_native.h"

#include "dirscan.h"
#include "layerfile.h"

#include <errno.h>
#include <string.h>

static PyObject *open_layer_root(PyObject *Py_UNUSED(module), PyObject *arg) {
    PyObject *path;
    int fd;
    if (!PyUnicode_FSConverter(arg, &path))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    fd = img_layer_open_root(PyBytes_AS_STRING(path));
    Py_END_ALLOW_THREADS;
    Py_DECREF(path);
    if (fd < 0) {
        errno = -fd;
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, arg);
    }
    return PyLong_FromLong(fd);
}

static PyObject *scan_directory(PyObject *Py_UNUSED(module), PyObject *args) {
    img_dirscan scan = {0};
    int fd, user_marks = 0, trusted = 0;
    if (!PyArg_ParseTuple(args, "i|pp:scan_directory", &fd, &user_marks, &trusted))
        return NULL;
    scan.user_marks = user_marks;
    scan.trusted = trusted;
    img_error err = {0};
    img_index *index;
    IMGPY_BEGIN_LONG;
    index = img_scan_directory(fd, &scan, &err);
    IMGPY_END_LONG;
    if (!index) {
        if (err.code == EINTR || err.code == EBADMSG || err.code == E2BIG || err.code == ENOMEM)
            return imgpy_raise(&err);
        errno = err.code;
        PyObject *member = PyBytes_FromString(err.member);
        if (member)
            (void)PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, member);
        Py_XDECREF(member);
        return NULL;
    }
    PyObject *wrapped = imgpy_index_wrap(index);
    if (!wrapped)
        return NULL;
    return Py_BuildValue("(NKy)", wrapped, (unsigned long long)scan.unreadable,
                         scan.first_unreadable);
}

static PyMethodDef functions[] = {
    {"open_layer_root", open_layer_root, METH_O, "The descriptor of a directory layer's root."},
    {"scan_directory", scan_directory, METH_VARARGS,
     "(LayerIndex of a directory, how many directories may not be read, one of them)."},
    {NULL, NULL, 0, NULL},
};

int imgpy_dirscan_exec(PyObject *module) {
    return PyModule_AddFunctions(module, functions);
}
