/* py_dirscan.c: shows directory layers (layerfile.h, dirscan.h, dirmarks.h) to Python. */
#include "py/py_native.h"

#include "dir/dirmarks.h"
#include "dir/dirscan.h"
#include "dir/layerfile.h"

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
    int fd;
    if (!PyArg_ParseTuple(args, "iI:scan_directory", &fd, &scan.obeyed))
        return NULL;
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
    return Py_BuildValue("(NKyKy)", wrapped, (unsigned long long)scan.unreadable,
                         scan.first_unreadable, (unsigned long long)scan.disobeyed,
                         scan.first_disobeyed);
}

static PyObject *root_marks(PyObject *Py_UNUSED(module), PyObject *arg) {
    int fd = PyObject_AsFileDescriptor(arg);
    return fd < 0 ? NULL : PyLong_FromUnsignedLong(img_dirmarks_of_root(fd));
}

static PyMethodDef functions[] = {
    {"open_layer_root", open_layer_root, METH_O, "The descriptor of a directory layer's root."},
    {"scan_directory", scan_directory, METH_VARARGS,
     "(LayerIndex of a directory, number of directories that may not be read, one of them, number "
     "of objects with marks that were not obeyed, one of them)."},
    {"root_marks", root_marks, METH_O,
     "The kinds of marks that the root of a directory layer has: MARKS_*."},
    {NULL, NULL, 0, NULL},
};

int imgpy_dirscan_exec(PyObject *module) {
    return PyModule_AddFunctions(module, functions) < 0 ||
                   PyModule_AddIntConstant(module, "MARKS_TRUSTED", IMG_MARKS_TRUSTED) < 0 ||
                   PyModule_AddIntConstant(module, "MARKS_USER", IMG_MARKS_USER) < 0 ||
                   PyModule_AddIntConstant(module, "MARKS_OWNER", IMG_MARKS_OWNER) < 0 ||
                   PyModule_AddIntConstant(module, "MARKS_NAMES", IMG_MARKS_NAMES) < 0 ||
                   PyModule_AddIntConstant(module, "MARKS_UPPER", IMG_MARKS_UPPER) < 0 ||
                   PyModule_AddIntConstant(module, "MARKS_USERXATTR", IMG_MARKS_USERXATTR) < 0
               ? -1
               : 0;
}
