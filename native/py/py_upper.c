/* py_upper.c: the Python type UpperFiles: shows upperdir.h and the changes of change.h to Python.
 *
 * Methods that may wait for a disk, or for a lock that another thread of Python holds, release the
 * GIL. A declined change returns False, or None if the method returns a number.
 */
#include "py/py_upper.h"

#include "py/py_time.h"
#include "py/py_tree.h"
#include "upper/changeattr.h"
#include "upper/changedata.h"
#include "upper/changemake.h"
#include "upper/changename.h"
#include "upper/changexattr.h"

#include <sys/stat.h>

typedef struct {
    PyObject_HEAD img_upper *upper;
    PyObject *tree; /* the Tree, which must outlive it */
} UpperObject;

static void upper_dealloc(PyObject *self);

img_upper *imgpy_upper_get(PyObject *obj) {
    /* Only this type has this deallocator, because no type can inherit from it. */
    if (Py_TYPE(obj)->tp_dealloc != upper_dealloc) {
        PyErr_Format(PyExc_TypeError, "expected an UpperFiles, not %.100s", Py_TYPE(obj)->tp_name);
        return NULL;
    }
    if (!((UpperObject *)obj)->upper)
        (void)raise_errno(-EBADF); /* closed */
    return ((UpperObject *)obj)->upper;
}

/* ---- life --------------------------------------------------------------------------------- */

static PyObject *upper_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"tree",           "upper_fd",         "work_fd", "read_only",
                            "owners",         "max_fds",          "no_sync", "inodes_last",
                            "harmless_files", "harmless_devices", NULL};
    PyObject *tree_object;
    int read_only, owners, no_sync, inodes_last, harmless_files, harmless_devices;
    img_upper_options options = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Oii$ppIpppp", names, &tree_object,
                                     &options.upper_fd, &options.work_fd, &read_only, &owners,
                                     &options.max_fds, &no_sync, &inodes_last, &harmless_files,
                                     &harmless_devices))
        return NULL;
    img_tree *tree = imgpy_tree_get(tree_object);
    if (!tree)
        return NULL;
    options.read_only = read_only;
    options.owners = owners;
    options.no_sync = no_sync;
    options.inodes_last = inodes_last;
    options.harmless_files = harmless_files;
    options.harmless_devices = harmless_devices;
    UpperObject *self = (UpperObject *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->tree = Py_NewRef(tree_object);
    self->upper = img_upper_new(tree, &options);
    if (!self->upper) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static PyObject *upper_close(PyObject *self, PyObject *Py_UNUSED(none)) {
    img_upper *upper = ((UpperObject *)self)->upper;
    ((UpperObject *)self)->upper = NULL;
    Py_BEGIN_ALLOW_THREADS;
    img_upper_free(upper);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static void upper_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    img_upper_free(((UpperObject *)self)->upper);
    Py_XDECREF(((UpperObject *)self)->tree);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The result of a change as True, False (declined), or an exception. */
static PyObject *done(int result) {
    if (result < 0)
        return raise_errno(result);
    return PyBool_FromLong(result != IMG_DECLINED);
}

/* ---- locks -------------------------------------------------------------------------------- */

static PyObject *upper_reserve(PyObject *self, PyObject *on) {
    img_upper *upper = imgpy_upper_get(self);
    int wanted = PyObject_IsTrue(on);
    if (!upper || wanted < 0)
        return NULL;
    upper->reserved = wanted;
    Py_RETURN_NONE;
}

static PyObject *upper_lock(PyObject *self, PyObject *Py_UNUSED(none)) {
    img_upper *upper = imgpy_upper_get(self);
    if (!upper)
        return NULL;
    if (!img_upper_trylock(upper, 0)) {
        Py_BEGIN_ALLOW_THREADS;
        img_upper_lock(upper);
        Py_END_ALLOW_THREADS;
    }
    Py_RETURN_NONE;
}

static PyObject *upper_unlock(PyObject *self, PyObject *Py_UNUSED(none)) {
    img_upper *upper = imgpy_upper_get(self);
    if (!upper)
        return NULL;
    img_upper_unlock(upper);
    Py_RETURN_NONE;
}

static PyObject *upper_moving(PyObject *self, PyObject *Py_UNUSED(none)) {
    img_upper *upper = imgpy_upper_get(self);
    if (!upper)
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    img_upper_moving(upper);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *upper_moved(PyObject *self, PyObject *Py_UNUSED(none)) {
    img_upper *upper = imgpy_upper_get(self);
    if (!upper)
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    img_upper_moved(upper);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* ---- descriptors -------------------------------------------------------------------------- */

/* Converts an argument to a nodeid; false with an exception set. */
static bool take_id(PyObject *arg, img_id *out) {
    unsigned long value = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred())
        return false;
    if (value > UINT32_MAX) {
        (void)raise_errno(-ESTALE);
        return false;
    }
    *out = (img_id)value;
    return true;
}

static PyObject *descriptor_of(PyObject *self, PyObject *arg, int (*of)(img_upper *, img_id)) {
    img_upper *upper = imgpy_upper_get(self);
    img_id id;
    int fd;
    if (!upper || !take_id(arg, &id))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    fd = of(upper, id);
    Py_END_ALLOW_THREADS;
    return fd < 0 ? raise_errno(fd) : PyLong_FromLong(fd);
}

static PyObject *upper_pin(PyObject *self, PyObject *arg) {
    return descriptor_of(self, arg, img_upper_pin);
}

static PyObject *upper_object(PyObject *self, PyObject *arg) {
    return descriptor_of(self, arg, img_upper_object);
}

static PyObject *upper_unpin(PyObject *self, PyObject *arg) {
    img_upper *upper = imgpy_upper_get(self);
    img_id id;
    if (!upper || !take_id(arg, &id))
        return NULL;
    img_upper_unpin(upper, id);
    Py_RETURN_NONE;
}

static PyObject *upper_forget(PyObject *self, PyObject *args) {
    img_upper *upper = imgpy_upper_get(self);
    unsigned long long id, count;
    if (!upper || !PyArg_ParseTuple(args, "KK", &id, &count))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    img_forget(upper->tree, upper, id, count);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* ---- names -------------------------------------------------------------------------------- */

static PyObject *upper_make(PyObject *self, PyObject *args) {
    img_upper *upper = imgpy_upper_get(self);
    const char *name, *target;
    Py_ssize_t len, target_len;
    unsigned long long rdev;
    unsigned int parent;
    img_new what = {0};
    img_maker who = {0};
    img_id id = 0;
    int result;
    if (!upper || !PyArg_ParseTuple(args, "Iy#IKIIIy#", &parent, &name, &len, &what.mode, &rdev,
                                    &who.uid, &who.gid, &who.umask, &target, &target_len))
        return NULL;
    what.rdev = rdev;
    what.target = target;
    what.target_len = (size_t)target_len;
    Py_BEGIN_ALLOW_THREADS;
    result = img_make(upper, parent, name, (size_t)len, &what, &who, &id);
    Py_END_ALLOW_THREADS;
    if (result < 0)
        return raise_errno(result);
    if (result == IMG_DECLINED)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLong(id);
}

static PyObject *take_away(PyObject *self, PyObject *args,
                           int (*how)(img_upper *, img_id, const char *, size_t)) {
    img_upper *upper = imgpy_upper_get(self);
    unsigned int parent;
    const char *name;
    Py_ssize_t len;
    int result;
    if (!upper || !PyArg_ParseTuple(args, "Iy#", &parent, &name, &len))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    result = how(upper, parent, name, (size_t)len);
    Py_END_ALLOW_THREADS;
    return done(result);
}

static PyObject *upper_unlink(PyObject *self, PyObject *args) {
    return take_away(self, args, img_unlink);
}

static PyObject *upper_rmdir(PyObject *self, PyObject *args) {
    return take_away(self, args, img_rmdir);
}

static PyObject *upper_link(PyObject *self, PyObject *args) {
    img_upper *upper = imgpy_upper_get(self);
    unsigned int id, parent;
    const char *name;
    Py_ssize_t len;
    int result;
    if (!upper || !PyArg_ParseTuple(args, "IIy#", &id, &parent, &name, &len))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    result = img_link(upper, id, parent, name, (size_t)len);
    Py_END_ALLOW_THREADS;
    return done(result);
}

static PyObject *upper_rename(PyObject *self, PyObject *args) {
    img_upper *upper = imgpy_upper_get(self);
    unsigned int parent, to, flags;
    const char *name, *new_name;
    Py_ssize_t len, new_len;
    int result;
    if (!upper ||
        !PyArg_ParseTuple(args, "Iy#Iy#I", &parent, &name, &len, &to, &new_name, &new_len, &flags))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    result = img_rename(upper, parent, name, (size_t)len, to, new_name, (size_t)new_len, flags);
    Py_END_ALLOW_THREADS;
    return done(result);
}

/* ---- attributes and data ------------------------------------------------------------------ */

/* Converts a value and sets its bit in *what; does nothing if it is None. False with an exception
 * set. */
static bool take_number(PyObject *value, unsigned bit, uint32_t *out, unsigned *what) {
    if (value == Py_None)
        return true;
    *out = (uint32_t)PyLong_AsUnsignedLongMask(value);
    *what |= bit;
    return !PyErr_Occurred();
}

static bool take_ns(PyObject *value, unsigned bit, int64_t *s, uint32_t *ns, unsigned *what) {
    if (value == Py_None)
        return true;
    *what |= bit;
    return imgpy_take_time(value, s, ns);
}

static PyObject *upper_setattr(PyObject *self, PyObject *args) {
    img_upper *upper = imgpy_upper_get(self);
    unsigned int id;
    PyObject *mode, *uid, *gid, *size, *atime, *mtime;
    int kill, result;
    img_set set = {0};
    if (!upper ||
        !PyArg_ParseTuple(args, "IOOOOOO(III)p", &id, &mode, &uid, &gid, &size, &atime, &mtime,
                          &set.caller.uid, &set.caller.gid, &set.caller.pid, &kill) ||
        !take_number(mode, IMG_SET_MODE, &set.mode, &set.what) ||
        !take_number(uid, IMG_SET_UID, &set.uid, &set.what) ||
        !take_number(gid, IMG_SET_GID, &set.gid, &set.what) ||
        !take_ns(atime, IMG_SET_ATIME, &set.atime_s, &set.atime_ns, &set.what) ||
        !take_ns(mtime, IMG_SET_MTIME, &set.mtime_s, &set.mtime_ns, &set.what))
        return NULL;
    if (size != Py_None) {
        set.size = PyLong_AsUnsignedLongLong(size);
        set.what |= IMG_SET_SIZE;
        if (PyErr_Occurred())
            return NULL;
    }
    set.what |= kill ? IMG_KILL_SUIDGID : 0;
    Py_BEGIN_ALLOW_THREADS;
    result = img_setattr(upper, id, &set);
    Py_END_ALLOW_THREADS;
    return done(result);
}

static PyObject *upper_setxattr(PyObject *self, PyObject *args) {
    img_upper *upper = imgpy_upper_get(self);
    unsigned int id;
    const char *name, *value;
    Py_ssize_t len;
    int result;
    bool copy_up;
    if (!upper || !PyArg_ParseTuple(args, "Iyz#", &id, &name, &value, &len))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    /* pyfuse3 heeds XATTR_CREATE and XATTR_REPLACE itself, by a getxattr before. */
    result = img_set_xattr(upper, id, name, strlen(name), value, (size_t)len, 0, false, &copy_up);
    Py_END_ALLOW_THREADS;
    return done(result);
}

static PyObject *upper_no_such_xattr(PyObject *unused, PyObject *args) {
    (void)unused;
    const char *name;
    if (!PyArg_ParseTuple(args, "y", &name))
        return NULL;
    return PyLong_FromLong(-img_no_such_xattr(name));
}

static PyObject *upper_write(PyObject *self, PyObject *args) {
    img_upper *upper = imgpy_upper_get(self);
    unsigned int id;
    unsigned long long offset;
    Py_buffer data;
    ssize_t result;
    if (!upper || !PyArg_ParseTuple(args, "IKy*", &id, &offset, &data))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    /* pyfuse3 does not show the flags of a WRITE, so kill is NULL. Its sessions do not have
     * FUSE_HANDLE_KILLPRIV_V2, so the kernel takes set-id bits itself. */
    result = img_write(upper, id, offset, data.buf, (size_t)data.len, true, NULL);
    Py_END_ALLOW_THREADS;
    PyBuffer_Release(&data);
    if (result == IMG_WRITE_DECLINED)
        Py_RETURN_NONE;
    return result < 0 ? raise_errno((int)result) : PyLong_FromSsize_t(result);
}

static PyObject *upper_sync(PyObject *self, PyObject *args) {
    img_upper *upper = imgpy_upper_get(self);
    unsigned int id;
    int data_only, result;
    if (!upper || !PyArg_ParseTuple(args, "Ip", &id, &data_only))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    result = img_sync(upper, id, data_only);
    Py_END_ALLOW_THREADS;
    if (result < 0)
        return raise_errno(result);
    Py_RETURN_NONE;
}

/* ---- the type ----------------------------------------------------------------------------- */

static PyMethodDef upper_methods[] = {
    {"close", upper_close, METH_NOARGS, "Closes all descriptors; no thread may be using it."},
    {"reserve", upper_reserve, METH_O,
     "True: the fast path sends each change of names and attributes to Python. Under the lock."},
    {"lock", upper_lock, METH_NOARGS, "Takes the lock `change`."},
    {"unlock", upper_unlock, METH_NOARGS, "Releases the lock `change`."},
    {"moving", upper_moving, METH_NOARGS, "Takes `places`: names of the upper will go or move."},
    {"moved", upper_moved, METH_NOARGS, "Releases `places`: upper and tree have changed."},
    {"object", upper_object, METH_O, "An O_PATH descriptor of a node's object."},
    {"pin", upper_pin, METH_O, "A node's descriptor, good until unpin."},
    {"unpin", upper_unpin, METH_O, "Ends pin."},
    {"forget", upper_forget, METH_VARARGS, "Lowers the lookup count; may remove an orphan."},
    {"make", upper_make, METH_VARARGS, "Makes an object; its nodeid, None when declined."},
    {"unlink", upper_unlink, METH_VARARGS, "unlink(2); False when declined."},
    {"rmdir", upper_rmdir, METH_VARARGS, "rmdir(2); False when declined."},
    {"link", upper_link, METH_VARARGS, "link(2); False when declined."},
    {"rename", upper_rename, METH_VARARGS, "renameat2(2); False when declined."},
    {"setattr", upper_setattr, METH_VARARGS, "Sets what is not None; False when declined."},
    {"setxattr", upper_setxattr, METH_VARARGS,
     "setxattr(2), None: removexattr(2); False when declined."},
    {"no_such_xattr", upper_no_such_xattr, METH_VARARGS | METH_STATIC,
     "The errno for an xattr that is not there."},
    {"write", upper_write, METH_VARARGS, "Bytes written; None when declined."},
    {"sync", upper_sync, METH_VARARGS, "fsync(2) or fdatasync(2)."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot upper_slots[] = {
    {Py_tp_doc, "The objects of an upper directory by node (native/upper/upperdir.h, change.h)."},
    {Py_tp_new, upper_new},
    {Py_tp_dealloc, upper_dealloc},
    {Py_tp_methods, upper_methods},
    {0, NULL},
};

static PyType_Spec upper_spec = {
    .name = "fusemount._native.UpperFiles",
    .basicsize = sizeof(UpperObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = upper_slots,
};

int imgpy_upper_exec(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &upper_spec, NULL);
    if (!type)
        return -1;
    int result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return result;
}
