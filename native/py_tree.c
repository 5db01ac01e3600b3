/* py_tree.c: the Python type Tree, a thin skin over tree.h, merge.h and content.h.
 *
 * Every method takes the tree's lock for its own length.  Waiting for it with the GIL held is safe:
 * who holds the lock in another thread runs pure C and never asks for the GIL.
 */
#define _GNU_SOURCE /* renameat2 */
#include "py_native.h"

#include "content.h"
#include "merge.h"
#include "tree.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <structmember.h>
#include <sys/stat.h>

typedef struct {
    PyObject_HEAD img_tree *tree;
    PyObject *indexes; /* list of the LayerIndex objects that the tree points into */
} TreeObject;

static PyTypeObject *attr_type;

static PyObject *raise_errno(int negative) {
    errno = -negative;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static img_tree *tree_of(PyObject *self) {
    return ((TreeObject *)self)->tree;
}

static void lock_read(img_tree *tree) {
    (void)pthread_rwlock_rdlock(&tree->lock);
}

static void lock_write(img_tree *tree) {
    (void)pthread_rwlock_wrlock(&tree->lock);
}

static void unlock(img_tree *tree) {
    (void)pthread_rwlock_unlock(&tree->lock);
}

/* The node, or NULL with ESTALE raised: the caller named what is gone. */
static img_node *node_or_raise(img_tree *tree, unsigned long long ino) {
    img_node *node = img_tree_node(tree, ino);
    if (!node)
        (void)raise_errno(-ESTALE);
    return node;
}

static img_node *dir_or_raise(img_tree *tree, unsigned long long ino) {
    img_node *node = node_or_raise(tree, ino);
    if (node && !img_is_dir(node)) {
        (void)raise_errno(-ENOTDIR);
        return NULL;
    }
    return node;
}

/* ---- life --------------------------------------------------------------------------------- */

static PyObject *tree_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Tree", names))
        return NULL;
    TreeObject *self = (TreeObject *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->tree = img_tree_new();
    self->indexes = PyList_New(0);
    if (!self->tree || !self->indexes) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void tree_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    img_tree_free(tree_of(self));
    Py_XDECREF(((TreeObject *)self)->indexes);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *tree_add_layer(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"index", "fd", "offset", "follow_symlink_parents", NULL};
    PyObject *index_object;
    int fd, follow = 0, result;
    unsigned long long base;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OiK|p", names, &index_object, &fd, &base,
                                     &follow))
        return NULL;
    const img_index *index = imgpy_index_get(index_object);
    if (!index || PyList_Append(((TreeObject *)self)->indexes, index_object) < 0)
        return NULL;
    img_error err = {0};
    img_tree *tree = tree_of(self);
    Py_BEGIN_ALLOW_THREADS;
    lock_write(tree);
    result = img_tree_add_layer(tree, index, fd, base, follow, &err);
    unlock(tree);
    Py_END_ALLOW_THREADS;
    if (result < 0)
        return imgpy_raise(&err);
    Py_RETURN_NONE;
}

static PyObject *tree_seal(PyObject *self, PyObject *Py_UNUSED(none)) {
    lock_write(tree_of(self));
    img_tree_seal(tree_of(self));
    unlock(tree_of(self));
    Py_RETURN_NONE;
}

static PyObject *tree_check(PyObject *self, PyObject *Py_UNUSED(none)) {
    img_error err = {0};
    lock_read(tree_of(self));
    int result = img_tree_check(tree_of(self), &err);
    unlock(tree_of(self));
    if (result < 0)
        return imgpy_raise(&err);
    Py_RETURN_NONE;
}

static PyObject *tree_get_nodes(PyObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLong(tree_of(self)->n_nodes);
}

static PyObject *tree_get_nbytes(PyObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLongLong(img_tree_bytes(tree_of(self)));
}

/* ---- looking ------------------------------------------------------------------------------ */

static PyObject *tree_lookup(PyObject *self, PyObject *args) {
    unsigned long long parent;
    const char *name;
    Py_ssize_t len;
    if (!PyArg_ParseTuple(args, "Ky#", &parent, &name, &len))
        return NULL;
    img_tree *tree = tree_of(self);
    PyObject *found = NULL;
    lock_read(tree);
    if (dir_or_raise(tree, parent))
        found = PyLong_FromUnsignedLong(img_tree_lookup(tree, (img_id)parent, name, (size_t)len));
    unlock(tree);
    return found;
}

static PyObject *tree_resolve(PyObject *self, PyObject *args) {
    const char *path;
    Py_ssize_t len;
    int follow = 1;
    img_id id = 0;
    if (!PyArg_ParseTuple(args, "y#|p", &path, &len, &follow))
        return NULL;
    lock_read(tree_of(self));
    int result = img_tree_resolve(tree_of(self), path, (size_t)len, follow, &id);
    unlock(tree_of(self));
    return result < 0 ? raise_errno(result) : PyLong_FromUnsignedLong(id);
}

static PyObject *nanoseconds(int64_t seconds, uint32_t ns) {
    int64_t whole;
    if (!__builtin_mul_overflow(seconds, 1000000000, &whole) &&
        !__builtin_add_overflow(whole, (int64_t)ns, &whole))
        return PyLong_FromLongLong(whole);
    PyObject *s = PyLong_FromLongLong(seconds), *unit = PyLong_FromLong(1000000000);
    PyObject *product = s && unit ? PyNumber_Multiply(s, unit) : NULL;
    PyObject *rest = PyLong_FromUnsignedLong(ns);
    PyObject *sum = product && rest ? PyNumber_Add(product, rest) : NULL;
    Py_XDECREF(s);
    Py_XDECREF(unit);
    Py_XDECREF(product);
    Py_XDECREF(rest);
    return sum;
}

static PyStructSequence_Field attr_fields[] = {
    {"ino", "nodeid, which is also st_ino"},
    {"mode", "st_mode"},
    {"nlink", NULL},
    {"uid", NULL},
    {"gid", NULL},
    {"rdev", "dev_t"},
    {"size", "bytes"},
    {"mtime_ns", NULL},
    {"atime_ns", NULL},
    {"ctime_ns", NULL},
    {"layer", "index of the layer it came from, or -1"},
    {"upper", "its object exists in the upper directory"},
    {"blocks", "512-byte units; of a layer's file what its data takes in 4 KiB pages"},
    {NULL, NULL},
};

static PyStructSequence_Desc attr_desc = {
    .name = "fusemount._native.Attr",
    .doc = "Attributes of a node, as stat(2) has them.",
    .fields = attr_fields,
    .n_in_sequence = 13,
};

static uint64_t blocks_of(const img_node *node) {
    uint64_t bytes = S_ISREG(node->mode) ? node->size : 0;
    if (node->flags & IMG_NODE_SPARSE && !(node->flags & IMG_NODE_UPPER)) {
        bytes = 0;
        for (uint32_t i = 0; i < node->n_extents; i++)
            bytes += node->u.extents[i].length;
    }
    return (bytes + 4095) / 4096 * 8;
}

static PyObject *attr_of(unsigned long long ino, const img_node *node) {
    PyObject *items[13] = {
        PyLong_FromUnsignedLongLong(ino),
        PyLong_FromUnsignedLong(node->mode),
        PyLong_FromUnsignedLong(node->nlink),
        PyLong_FromUnsignedLong(node->uid),
        PyLong_FromUnsignedLong(node->gid),
        PyLong_FromUnsignedLongLong(node->rdev),
        PyLong_FromUnsignedLongLong(node->size),
        nanoseconds(node->mtime_s, node->mtime_ns),
        nanoseconds(node->atime_s, node->atime_ns),
        nanoseconds(node->ctime_s, node->ctime_ns),
        PyLong_FromLong(node->layer == IMG_LAYER_UPPER ? -1 : node->layer),
        PyBool_FromLong(node->flags & IMG_NODE_UPPER),
        PyLong_FromUnsignedLongLong(blocks_of(node)),
    };
    PyObject *attr = PyStructSequence_New(attr_type);
    for (Py_ssize_t i = 0; i < 13; i++)
        if (attr && items[i])
            PyStructSequence_SET_ITEM(attr, i, items[i]);
        else
            Py_CLEAR(attr);
    return attr;
}

static PyObject *tree_getattr(PyObject *self, PyObject *arg) {
    unsigned long long ino = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred())
        return NULL;
    lock_read(tree_of(self));
    const img_node *node = node_or_raise(tree_of(self), ino);
    PyObject *attr = node ? attr_of(ino, node) : NULL;
    unlock(tree_of(self));
    return attr;
}

static PyObject *tree_readdir(PyObject *self, PyObject *args) {
    unsigned long long ino;
    unsigned int cookie;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(args, "KIn", &ino, &cookie, &count))
        return NULL;
    img_tree *tree = tree_of(self);
    PyObject *list = PyList_New(0);
    lock_read(tree);
    const img_node *node = dir_or_raise(tree, ino);
    const img_dir *dir = node ? node->u.dir : NULL;
    for (uint32_t i = dir ? img_dir_seek(dir, cookie) : 0; list && dir && i < dir->used; i++) {
        if (!dir->slots[i].dentry || PyList_GET_SIZE(list) >= count)
            continue;
        const img_dentry *d = img_dentry_at(tree, dir->slots[i].dentry);
        if (!d->node)
            continue;
        PyObject *row = Py_BuildValue("(y#II)", d->name, (Py_ssize_t)d->name_len,
                                      (unsigned int)d->node, (unsigned int)d->cookie);
        if (!row || PyList_Append(list, row) < 0)
            Py_CLEAR(list);
        Py_XDECREF(row);
        if (list && PyList_GET_SIZE(list) >= count)
            break;
    }
    unlock(tree);
    if (PyErr_Occurred())
        Py_CLEAR(list);
    return list;
}

static PyObject *tree_names(PyObject *self, PyObject *arg) {
    unsigned long long ino = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred())
        return NULL;
    img_tree *tree = tree_of(self);
    PyObject *list = PyList_New(0);
    lock_read(tree);
    const img_node *node = node_or_raise(tree, ino);
    for (uint32_t d = node ? node->names : 0; list && d; d = img_dentry_at(tree, d)->link_next) {
        const img_dentry *dentry = img_dentry_at(tree, d);
        PyObject *row = Py_BuildValue("(Iy#)", (unsigned int)dentry->parent, dentry->name,
                                      (Py_ssize_t)dentry->name_len);
        if (!row || PyList_Append(list, row) < 0)
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    unlock(tree);
    if (PyErr_Occurred())
        Py_CLEAR(list);
    return list;
}

static PyObject *tree_is_lower_name(PyObject *self, PyObject *args) {
    unsigned long long parent;
    const char *name;
    Py_ssize_t len;
    if (!PyArg_ParseTuple(args, "Ky#", &parent, &name, &len))
        return NULL;
    img_tree *tree = tree_of(self);
    lock_read(tree);
    uint32_t d = img_tree_dentry(tree, (img_id)parent, name, (size_t)len);
    int lower = d && img_dentry_at(tree, d)->flags & IMG_NAME_LOWER;
    unlock(tree);
    return PyBool_FromLong(lower);
}

static PyObject *tree_has_whiteouts(PyObject *self, PyObject *arg) {
    unsigned long long ino = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred())
        return NULL;
    img_tree *tree = tree_of(self);
    lock_read(tree);
    const img_node *node = dir_or_raise(tree, ino);
    int more = node && node->u.dir && node->u.dir->used - node->u.dir->holes > node->u.dir->live;
    unlock(tree);
    return node ? PyBool_FromLong(more) : NULL;
}

static PyObject *tree_readlink(PyObject *self, PyObject *arg) {
    unsigned long long ino = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred())
        return NULL;
    PyObject *target = NULL;
    lock_read(tree_of(self));
    const img_node *node = node_or_raise(tree_of(self), ino);
    if (node && S_ISLNK(node->mode))
        target = PyBytes_FromStringAndSize(node->u.target, (Py_ssize_t)node->size);
    else if (node)
        (void)raise_errno(-EINVAL);
    unlock(tree_of(self));
    return target;
}

/* ---- contents ----------------------------------------------------------------------------- */

/* A snapshot of a layer file's whereabouts; false with an exception raised. */
static bool content_or_raise(img_tree *tree, unsigned long long ino, img_content *out) {
    lock_read(tree);
    const img_node *node = node_or_raise(tree, ino);
    bool good = node && S_ISREG(node->mode) && node->layer != IMG_LAYER_UPPER;
    if (good)
        *out = img_content_of(tree, node);
    else if (node)
        (void)raise_errno(img_is_dir(node) ? -EISDIR : -EINVAL);
    unlock(tree);
    return good;
}

static PyObject *tree_read(PyObject *self, PyObject *args) {
    unsigned long long ino, offset;
    Py_ssize_t size, got;
    img_content content;
    if (!PyArg_ParseTuple(args, "KKn", &ino, &offset, &size))
        return NULL;
    if (!content_or_raise(tree_of(self), ino, &content))
        return NULL;
    if (offset >= content.size || size <= 0)
        return PyBytes_FromStringAndSize(NULL, 0);
    if ((unsigned long long)size > content.size - offset)
        size = (Py_ssize_t)(content.size - offset);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (!bytes)
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    got = img_content_read(&content, offset, PyBytes_AS_STRING(bytes), (size_t)size);
    Py_END_ALLOW_THREADS;
    if (got < 0) {
        Py_DECREF(bytes);
        return raise_errno((int)got);
    }
    return bytes;
}

static PyObject *tree_copy_data(PyObject *self, PyObject *args) {
    unsigned long long ino, limit;
    int fd, result;
    img_content content;
    if (!PyArg_ParseTuple(args, "KiK", &ino, &fd, &limit) ||
        !content_or_raise(tree_of(self), ino, &content))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    result = img_content_copy(&content, fd, limit);
    Py_END_ALLOW_THREADS;
    if (result < 0)
        return raise_errno(result);
    Py_RETURN_NONE;
}

static PyObject *tree_extents(PyObject *self, PyObject *arg) {
    unsigned long long ino = PyLong_AsUnsignedLongLong(arg);
    img_content content;
    img_extent e;
    if (PyErr_Occurred() || !content_or_raise(tree_of(self), ino, &content))
        return NULL;
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list && img_content_extent(&content, i, &e); i++) {
        PyObject *row =
            Py_BuildValue("(KK)", (unsigned long long)e.file_offset, (unsigned long long)e.length);
        if (!row || PyList_Append(list, row) < 0)
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

/* ---- xattrs ------------------------------------------------------------------------------- */

static PyObject *tree_xattrs(PyObject *self, PyObject *arg) {
    unsigned long long ino = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred())
        return NULL;
    PyObject *dict = PyDict_New();
    lock_read(tree_of(self));
    const img_node *node = node_or_raise(tree_of(self), ino);
    for (uint32_t at = 0; dict && node && at < node->xattr_bytes;) {
        uint16_t name_len;
        uint32_t value_len;
        const char *p = node->xattrs + at;
        memcpy(&name_len, p, 2);
        memcpy(&value_len, p + 2, 4);
        PyObject *name = PyBytes_FromStringAndSize(p + 6, name_len);
        PyObject *value = PyBytes_FromStringAndSize(p + 6 + name_len, value_len);
        if (!name || !value || PyDict_SetItem(dict, name, value) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(name);
        Py_XDECREF(value);
        at += 6u + name_len + value_len;
    }
    unlock(tree_of(self));
    if (PyErr_Occurred())
        Py_CLEAR(dict);
    return dict;
}

static PyObject *tree_getxattr(PyObject *self, PyObject *args) {
    unsigned long long ino;
    const char *name;
    Py_ssize_t len;
    uint32_t value_len;
    if (!PyArg_ParseTuple(args, "Ky#", &ino, &name, &len))
        return NULL;
    PyObject *found = NULL;
    lock_read(tree_of(self));
    const img_node *node = node_or_raise(tree_of(self), ino);
    if (node) {
        const char *value = img_node_xattr(node, name, (size_t)len, &value_len);
        found = value ? PyBytes_FromStringAndSize(value, value_len) : Py_NewRef(Py_None);
    }
    unlock(tree_of(self));
    return found;
}

static PyObject *tree_setxattr(PyObject *self, PyObject *args) {
    unsigned long long ino;
    const char *name, *value;
    Py_ssize_t len, value_len;
    if (!PyArg_ParseTuple(args, "Ky#z#", &ino, &name, &len, &value, &value_len))
        return NULL;
    lock_write(tree_of(self));
    img_node *node = node_or_raise(tree_of(self), ino);
    int result =
        node ? img_tree_set_xattr(tree_of(self), node, name, (size_t)len, value, (size_t)value_len)
             : 0;
    unlock(tree_of(self));
    if (!node)
        return NULL;
    if (result < 0)
        return raise_errno(result);
    Py_RETURN_NONE;
}

/* ---- changing ----------------------------------------------------------------------------- */

static bool take_time(PyObject *ns, int64_t *seconds, uint32_t *rest) {
    long long value = PyLong_AsLongLong(ns);
    if (value == -1 && PyErr_Occurred())
        return false;
    long long part = value % 1000000000;
    *seconds = value / 1000000000 - (part < 0);
    *rest = (uint32_t)(part < 0 ? part + 1000000000 : part);
    return true;
}

static PyObject *tree_new_node(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"mode",     "uid",      "gid",      "rdev",   "size",
                            "mtime_ns", "atime_ns", "ctime_ns", "target", NULL};
    img_attributes a = {0};
    PyObject *mtime, *atime, *ctime;
    unsigned long long rdev, size;
    const char *target = NULL;
    Py_ssize_t target_len = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "IIIKKOOO|z#", names, &a.mode, &a.uid, &a.gid,
                                     &rdev, &size, &mtime, &atime, &ctime, &target, &target_len) ||
        !take_time(mtime, &a.mtime_s, &a.mtime_ns) || !take_time(atime, &a.atime_s, &a.atime_ns) ||
        !take_time(ctime, &a.ctime_s, &a.ctime_ns))
        return NULL;
    a.rdev = rdev;
    a.size = S_ISREG(a.mode) ? size : 0;
    img_tree *tree = tree_of(self);
    lock_write(tree);
    img_id id = img_tree_new_node(tree, &a, IMG_LAYER_UPPER);
    if (id) {
        img_node *node = img_node_at(tree, id);
        node->flags |= IMG_NODE_UPPER;
        if (S_ISLNK(a.mode) && img_tree_set_target(tree, node, target, (size_t)target_len) < 0) {
            (void)img_tree_release(tree, id);
            id = 0;
        }
    }
    unlock(tree);
    return id ? PyLong_FromUnsignedLong(id) : PyErr_NoMemory();
}

static PyObject *tree_set_attr(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"ino",      "mode",     "uid",      "gid",   "size",
                            "mtime_ns", "atime_ns", "ctime_ns", "upper", NULL};
    unsigned long long ino;
    PyObject *v[8] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "K|$OOOOOOOO", names, &ino, &v[0], &v[1], &v[2],
                                     &v[3], &v[4], &v[5], &v[6], &v[7]))
        return NULL;
    lock_write(tree_of(self));
    img_node *n = node_or_raise(tree_of(self), ino);
    if (n) {
        if (v[0]) /* the type stays */
            n->mode = (n->mode & S_IFMT) | ((uint32_t)PyLong_AsUnsignedLongMask(v[0]) & 07777u);
        if (v[1])
            n->uid = (uint32_t)PyLong_AsUnsignedLongMask(v[1]);
        if (v[2])
            n->gid = (uint32_t)PyLong_AsUnsignedLongMask(v[2]);
        if (v[3] && S_ISREG(n->mode))
            n->size = PyLong_AsUnsignedLongLong(v[3]);
        if (v[4])
            (void)take_time(v[4], &n->mtime_s, &n->mtime_ns);
        if (v[5] && !PyErr_Occurred())
            (void)take_time(v[5], &n->atime_s, &n->atime_ns);
        if (v[6] && !PyErr_Occurred())
            (void)take_time(v[6], &n->ctime_s, &n->ctime_ns);
        if (v[7] && PyObject_IsTrue(v[7]))
            n->flags |= IMG_NODE_UPPER;
    }
    unlock(tree_of(self));
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *tree_add_name(PyObject *self, PyObject *args) {
    unsigned long long parent, ino;
    const char *name;
    Py_ssize_t len;
    if (!PyArg_ParseTuple(args, "Ky#K", &parent, &name, &len, &ino))
        return NULL;
    img_tree *tree = tree_of(self);
    int result = 0;
    lock_write(tree);
    bool good = dir_or_raise(tree, parent) && node_or_raise(tree, ino);
    if (good && (len == 0 || (size_t)len > IMG_NAME_MAX))
        result = -ENAMETOOLONG;
    else if (good)
        result = img_tree_add_name(tree, (img_id)parent, name, (size_t)len, (img_id)ino, 0);
    unlock(tree);
    if (!good)
        return NULL;
    if (result < 0)
        return raise_errno(result);
    Py_RETURN_NONE;
}

/* The dentry with a node, or 0 with ENOENT raised. */
static uint32_t live_dentry(img_tree *tree, unsigned long long parent, const char *name,
                            Py_ssize_t len) {
    uint32_t d = img_tree_dentry(tree, (img_id)parent, name, (size_t)len);
    if (d && img_dentry_at(tree, d)->node)
        return d;
    (void)raise_errno(-ENOENT);
    return 0;
}

static PyObject *tree_drop_name(PyObject *self, PyObject *args) {
    unsigned long long parent;
    const char *name;
    Py_ssize_t len;
    int mark = 1;
    if (!PyArg_ParseTuple(args, "Ky#|p", &parent, &name, &len, &mark))
        return NULL;
    lock_write(tree_of(self));
    uint32_t d = live_dentry(tree_of(self), parent, name, len);
    if (d)
        img_tree_drop_subtree(tree_of(self), d, mark);
    unlock(tree_of(self));
    if (!d)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *tree_drop_children(PyObject *self, PyObject *arg) {
    unsigned long long ino = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred())
        return NULL;
    lock_write(tree_of(self));
    img_node *node = dir_or_raise(tree_of(self), ino);
    if (node)
        img_tree_drop_children(tree_of(self), (img_id)ino);
    unlock(tree_of(self));
    if (!node)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *tree_move(PyObject *self, PyObject *args) {
    unsigned long long p1, p2;
    const char *n1, *n2;
    Py_ssize_t l1, l2;
    if (!PyArg_ParseTuple(args, "Ky#Ky#", &p1, &n1, &l1, &p2, &n2, &l2))
        return NULL;
    img_tree *tree = tree_of(self);
    int result = 0;
    lock_write(tree);
    uint32_t d = dir_or_raise(tree, p2) ? live_dentry(tree, p1, n1, l1) : 0;
    if (d)
        result = img_tree_move(tree, d, (img_id)p2, n2, (size_t)l2, true);
    unlock(tree);
    if (!d)
        return NULL;
    if (result < 0)
        return raise_errno(result);
    Py_RETURN_NONE;
}

static PyObject *tree_exchange(PyObject *self, PyObject *args) {
    unsigned long long p1, p2;
    const char *n1, *n2;
    Py_ssize_t l1, l2;
    if (!PyArg_ParseTuple(args, "Ky#Ky#", &p1, &n1, &l1, &p2, &n2, &l2))
        return NULL;
    lock_write(tree_of(self));
    uint32_t a = live_dentry(tree_of(self), p1, n1, l1);
    uint32_t b = a ? live_dentry(tree_of(self), p2, n2, l2) : 0;
    if (b)
        img_tree_exchange(tree_of(self), a, b);
    unlock(tree_of(self));
    if (!b)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *tree_remember(PyObject *self, PyObject *args) {
    unsigned long long ino, count = 1;
    if (!PyArg_ParseTuple(args, "K|K", &ino, &count))
        return NULL;
    lock_write(tree_of(self));
    img_node *node = node_or_raise(tree_of(self), ino);
    if (node)
        node->lookups += count;
    unlock(tree_of(self));
    if (!node)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *tree_forget(PyObject *self, PyObject *args) {
    unsigned long long ino, count;
    bool freed = false;
    if (!PyArg_ParseTuple(args, "KK", &ino, &count))
        return NULL;
    lock_write(tree_of(self));
    img_node *node = img_tree_node(tree_of(self), ino);
    if (node) {
        node->lookups -= count < node->lookups ? count : node->lookups;
        freed = img_tree_release(tree_of(self), (img_id)ino);
    }
    unlock(tree_of(self));
    return PyBool_FromLong(freed);
}

#define KEYWORDS(function) ((PyCFunction)(void (*)(void))(function)), METH_VARARGS | METH_KEYWORDS

static PyMethodDef tree_methods[] = {
    {"add_layer", KEYWORDS(tree_add_layer), "Lays one more layer over the tree."},
    {"seal", tree_seal, METH_NOARGS, "No layer comes after: all names standing are the layers'."},
    {"check", tree_check, METH_NOARGS, "Proves the tree's invariants."},
    {"lookup", tree_lookup, METH_VARARGS, "The nodeid of a name, or 0."},
    {"resolve", tree_resolve, METH_VARARGS, "The nodeid of a path, links inside the root."},
    {"getattr", tree_getattr, METH_O, "Attributes of a node."},
    {"readdir", tree_readdir, METH_VARARGS, "Up to count (name, ino, cookie) beyond a cookie."},
    {"names", tree_names, METH_O, "All (parent, name) of a node."},
    {"is_lower_name", tree_is_lower_name, METH_VARARGS, "The layers below have that name there."},
    {"has_whiteouts", tree_has_whiteouts, METH_O, "The directory holds whiteouts."},
    {"readlink", tree_readlink, METH_O, "A symlink's target."},
    {"read", tree_read, METH_VARARGS, "Bytes of a layer's file."},
    {"copy_data", tree_copy_data, METH_VARARGS,
     "Copies a layer's file into fd, up to limit bytes."},
    {"extents", tree_extents, METH_O, "(offset, length) of the data in a layer's file."},
    {"xattrs", tree_xattrs, METH_O, "All xattrs."},
    {"getxattr", tree_getxattr, METH_VARARGS, "One xattr or None."},
    {"setxattr", tree_setxattr, METH_VARARGS, "Sets an xattr; None removes it."},
    {"new_node", KEYWORDS(tree_new_node), "A new node that stands in the upper."},
    {"set_attr", KEYWORDS(tree_set_attr), "Changes attributes."},
    {"add_name", tree_add_name, METH_VARARGS, "Gives a node a name."},
    {"drop_name", tree_drop_name, METH_VARARGS, "Takes a name, and all below it, away."},
    {"drop_children", tree_drop_children, METH_O, "Empties a directory, whiteouts included."},
    {"move", tree_move, METH_VARARGS, "Moves a name to a free place."},
    {"exchange", tree_exchange, METH_VARARGS, "Exchanges what two names mean."},
    {"remember", tree_remember, METH_VARARGS, "Raises the kernel's lookup count."},
    {"forget", tree_forget, METH_VARARGS, "Lowers it; True when the node is gone."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef tree_getset[] = {
    {"nodes", tree_get_nodes, NULL, "How many nodes live.", NULL},
    {"nbytes", tree_get_nbytes, NULL, "Memory of the tree in bytes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot tree_slots[] = {
    {Py_tp_doc, "The merged file tree in memory (native/tree.h)."},
    {Py_tp_new, tree_new},
    {Py_tp_dealloc, tree_dealloc},
    {Py_tp_methods, tree_methods},
    {Py_tp_getset, tree_getset},
    {0, NULL},
};

static PyType_Spec tree_spec = {
    .name = "fusemount._native.Tree",
    .basicsize = sizeof(TreeObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = tree_slots,
};

static PyObject *py_renameat2(PyObject *Py_UNUSED(module), PyObject *args) {
    int from_fd, to_fd, result;
    const char *from, *to;
    unsigned int flags;
    if (!PyArg_ParseTuple(args, "iyiyI", &from_fd, &from, &to_fd, &to, &flags))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    result = renameat2(from_fd, from, to_fd, to, flags);
    Py_END_ALLOW_THREADS;
    if (result < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"renameat2", py_renameat2, METH_VARARGS, "renameat2(2): (from_fd, from, to_fd, to, flags)."},
    {NULL, NULL, 0, NULL},
};

int imgpy_tree_exec(PyObject *module) {
    attr_type = PyStructSequence_NewType(&attr_desc);
    if (!attr_type || PyModule_AddType(module, attr_type) < 0)
        return -1;
    PyObject *type = PyType_FromModuleAndSpec(module, &tree_spec, NULL);
    if (!type)
        return -1;
    int result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return result < 0 ? -1 : PyModule_AddFunctions(module, functions);
}
