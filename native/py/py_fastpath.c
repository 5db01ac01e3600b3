/* py_fastpath.c: the Python type FastPath: starts and stops the fast path (fastpath.h), and keeps
 * the objects that the fast path borrows. */
#include "py/py_native.h"

#include "fast/fastpath.h"
#include "py/py_stats.h"
#include "py/py_tree.h"
#include "py/py_upper.h"

typedef struct {
    PyObject_HEAD img_fastpath *path;
    PyObject *tree, *upper, *stats; /* borrowed by path */
} FastPathObject;

static void stop(FastPathObject *self) {
    img_fastpath *path = self->path;
    self->path = NULL;
    if (!path)
        return;
    Py_BEGIN_ALLOW_THREADS;
    img_fastpath_stop(path);
    Py_END_ALLOW_THREADS;
    img_fastpath_free(path);
}

static PyObject *fastpath_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {
        "tree",     "upper",   "stats",   "device_fd",           "relay_fd", "log_fd",    "end_fd",
        "upper_fd", "threads", "spin_us", "default_permissions", "push",     "no_xattrs", NULL};
    PyObject *tree, *upper, *stats;
    img_fastpath_options options = {0};
    img_error err = {0};
    int permissions, push, no_xattrs;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO$iiiiiIIppp:FastPath", names, &tree, &upper,
                                     &stats, &options.device_fd, &options.relay_fd, &options.log_fd,
                                     &options.end_fd, &options.upper_fd, &options.threads,
                                     &options.spin_us, &permissions, &push, &no_xattrs))
        return NULL;
    options.default_permissions = permissions;
    options.push = push;
    options.no_xattrs = no_xattrs;
    img_tree *its_tree = imgpy_tree_get(tree);
    img_stats *its_stats = its_tree ? imgpy_stats_get(stats) : NULL;
    img_upper *its_upper = its_stats && upper != Py_None ? imgpy_upper_get(upper) : NULL;
    if (!its_stats || (upper != Py_None && !its_upper))
        return NULL;
    FastPathObject *self = (FastPathObject *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->tree = Py_NewRef(tree);
    self->upper = Py_NewRef(upper);
    self->stats = Py_NewRef(stats);
    self->path = img_fastpath_start(its_tree, its_upper, its_stats, &options, &err);
    if (!self->path) {
        Py_DECREF(self);
        return imgpy_raise(&err);
    }
    return (PyObject *)self;
}

static void fastpath_dealloc(PyObject *object) {
    FastPathObject *self = (FastPathObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    stop(self);
    Py_XDECREF(self->tree);
    Py_XDECREF(self->upper);
    Py_XDECREF(self->stats);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *fastpath_stop(PyObject *self, PyObject *Py_UNUSED(none)) {
    stop((FastPathObject *)self);
    Py_RETURN_NONE;
}

static PyMethodDef fastpath_methods[] = {
    {"stop", fastpath_stop, METH_NOARGS,
     "Ends the threads and waits for them; no request is answered any more."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot fastpath_slots[] = {
    {Py_tp_doc, "Answers the kernel's requests from a Tree, on threads without the GIL."},
    {Py_tp_new, fastpath_new},
    {Py_tp_dealloc, fastpath_dealloc},
    {Py_tp_methods, fastpath_methods},
    {0, NULL},
};

static PyType_Spec fastpath_spec = {
    .name = "fusemount._native.FastPath",
    .basicsize = sizeof(FastPathObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = fastpath_slots,
};

int imgpy_fastpath_exec(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &fastpath_spec, NULL);
    int failed = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
    Py_XDECREF(type);
    return failed;
}
