/* py_dirscan.c: directory layers for Python, a thin skin over layerfile.h and dirscan.h. */
#include "py_native.h"

#include "dirscan.h"
#include "layerfile.h"

#include <errno.h>
#include <string.h>

#define RANGES_MAX 340u /* as many as a user namespace may have (user_namespaces(7)) */

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

/* A sequence of (first, shown, count) into ranges, which holds RANGES_MAX. */
static int take_ranges(PyObject *given, img_id_range *ranges, size_t *n) {
    PyObject *items = PySequence_Fast(given, "id ranges must be a sequence");
    if (!items)
        return -1;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(items);
    int result = 0;
    if (count > (Py_ssize_t)RANGES_MAX) {
        PyErr_Format(PyExc_ValueError, "more than %u id ranges, the limit", RANGES_MAX);
        result = -1;
    }
    for (Py_ssize_t i = 0; result == 0 && i < count; i++) {
        img_id_range *r = &ranges[i];
        PyObject *item = PySequence_Fast_GET_ITEM(items, i);
        if (!PyTuple_Check(item) ||
            !PyArg_ParseTuple(item, "III", &r->first, &r->shown, &r->count)) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_TypeError, "an id range is (first, shown, count)");
            result = -1;
        }
    }
    *n = (size_t)(result < 0 ? 0 : count);
    Py_DECREF(items);
    return result;
}

static PyObject *scan_directory(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs) {
    static char *names[] = {"fd",         "uids",          "gids", "squash_uid",
                            "squash_gid", "trusted_marks", NULL};
    PyObject *uids = NULL, *gids = NULL;
    img_id_range uid_ranges[RANGES_MAX], gid_ranges[RANGES_MAX];
    long long squash_uid = -1, squash_gid = -1;
    int trusted = 0;
    int fd;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i|OOLLp:scan_directory", names, &fd, &uids,
                                     &gids, &squash_uid, &squash_gid, &trusted))
        return NULL;
    img_dirscan scan = {.uids = {uid_ranges, 0, squash_uid},
                        .gids = {gid_ranges, 0, squash_gid},
                        .trusted = trusted != 0};
    if ((uids && take_ranges(uids, uid_ranges, &scan.uids.n) < 0) ||
        (gids && take_ranges(gids, gid_ranges, &scan.gids.n) < 0))
        return NULL;
    img_error err = {0};
    img_index *index;
    Py_BEGIN_ALLOW_THREADS;
    index = img_scan_directory(fd, &scan, &err);
    Py_END_ALLOW_THREADS;
    if (!index) {
        if (err.code == EBADMSG || err.code == E2BIG || err.code == ENOMEM)
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
    {"scan_directory", (PyCFunction)(void (*)(void))scan_directory, METH_VARARGS | METH_KEYWORDS,
     "(LayerIndex of a directory, how many directories may not be read, one of them)."},
    {NULL, NULL, 0, NULL},
};

int imgpy_dirscan_exec(PyObject *module) {
    return PyModule_AddFunctions(module, functions);
}
