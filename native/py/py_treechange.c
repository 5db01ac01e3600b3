/* py_treechange.c: the methods of the Python type Tree that change the tree. */
#include "py/py_tree.h"

#include "py/py_time.h"
#include "tree/xattrs.h"
#include "upper/upperdir.h"

#include <sys/stat.h>

PyObject *imgpy_tree_new_node(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"mode",     "uid",      "gid",    "rdev",  "size",  "mtime_ns",
                            "atime_ns", "ctime_ns", "target", "inode", "upper", NULL};
    img_attributes a = {0};
    PyObject *mtime, *atime, *ctime;
    unsigned long long rdev, size, inode = 0;
    const char *target = NULL;
    Py_ssize_t target_len = 0;
    int upper = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "IIIKKOOO|z#Kp", names, &a.mode, &a.uid, &a.gid,
                                     &rdev, &size, &mtime, &atime, &ctime, &target, &target_len,
                                     &inode, &upper) ||
        !imgpy_take_time(mtime, &a.mtime_s, &a.mtime_ns) ||
        !imgpy_take_time(atime, &a.atime_s, &a.atime_ns) ||
        !imgpy_take_time(ctime, &a.ctime_s, &a.ctime_ns))
        return NULL;
    a.rdev = rdev;
    a.size = S_ISREG(a.mode) ? size : 0;
    if (S_ISREG(a.mode))
        a.rdev = 0; /* for a file it means blocks (tree.h), which set_attr sets */
    img_tree *tree = tree_of(self);
    lock_write(tree);
    img_id id = img_tree_new_node(tree, &a, IMG_LAYER_UPPER);
    if (id) {
        img_node *node = img_node_at(tree, id);
        if (upper)
            node->flags |= IMG_NODE_UPPER;
        node->ino = inode ? IMG_INO_UPPER + inode : 0;
        node->object = inode;
        if (S_ISLNK(a.mode) && img_tree_set_target(tree, node, target, (size_t)target_len) < 0) {
            (void)img_tree_release(tree, id);
            id = 0;
        }
    }
    unlock(tree);
    return id ? PyLong_FromUnsignedLong(id) : PyErr_NoMemory();
}

PyObject *imgpy_tree_set_attr(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"ino",      "mode",  "uid",    "gid",  "size",   "mtime_ns", "atime_ns",
                            "ctime_ns", "upper", "blocks", "meta", "object", "born",     NULL};
    unsigned long long ino;
    PyObject *v[12] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "K|$OOOOOOOOOOOO", names, &ino, &v[0], &v[1],
                                     &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &v[8], &v[9], &v[10],
                                     &v[11]))
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
            (void)imgpy_take_time(v[4], &n->mtime_s, &n->mtime_ns);
        if (v[5] && !PyErr_Occurred())
            (void)imgpy_take_time(v[5], &n->atime_s, &n->atime_ns);
        if (v[6] && !PyErr_Occurred())
            (void)imgpy_take_time(v[6], &n->ctime_s, &n->ctime_ns);
        if (v[7] && PyObject_IsTrue(v[7]))
            n->flags |= IMG_NODE_UPPER;
        if (v[9]) {
            n->flags &= (uint16_t)~IMG_NODE_META;
            if (PyObject_IsTrue(v[9]))
                n->flags |= IMG_NODE_META;
        }
        if (v[8] && S_ISREG(n->mode) && img_node_data_in_upper(n))
            n->blocks = PyLong_AsUnsignedLongLong(v[8]);
    }
    if (n && v[10]) {
        n->object = PyLong_AsUnsignedLongLong(v[10]);
        n->born = v[11] ? (uint32_t)PyLong_AsUnsignedLongMask(v[11]) : 0;
    }
    unlock(tree_of(self));
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

PyObject *imgpy_tree_add_name(PyObject *self, PyObject *args) {
    unsigned long long parent, ino;
    const char *name;
    Py_ssize_t len;
    int lower = 0;
    if (!PyArg_ParseTuple(args, "Ky#K|p", &parent, &name, &len, &ino, &lower))
        return NULL;
    img_tree *tree = tree_of(self);
    uint16_t flags = lower ? IMG_NAME_LOWER : 0;
    int result = 0;
    lock_write(tree);
    bool good = dir_or_raise(tree, parent) && node_or_raise(tree, ino);
    if (good && (len == 0 || (size_t)len > IMG_NAME_MAX))
        result = -ENAMETOOLONG;
    else if (good)
        result = img_tree_add_name(tree, (img_id)parent, name, (size_t)len, (img_id)ino, flags);
    unlock(tree);
    if (!good)
        return NULL;
    if (result < 0)
        return raise_errno(result);
    Py_RETURN_NONE;
}

/* The dentry of a name that is no whiteout; 0 with OSError (ENOENT) set. */
static uint32_t live_dentry(img_tree *tree, unsigned long long parent, const char *name,
                            Py_ssize_t len) {
    uint32_t d = img_tree_dentry(tree, (img_id)parent, name, (size_t)len);
    if (d && img_dentry_at(tree, d)->node)
        return d;
    (void)raise_errno(-ENOENT);
    return 0;
}

PyObject *imgpy_tree_drop_name(PyObject *self, PyObject *args) {
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

PyObject *imgpy_tree_drop_children(PyObject *self, PyObject *arg) {
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

PyObject *imgpy_tree_share_data(PyObject *self, PyObject *args) {
    unsigned long long ino, source;
    if (!PyArg_ParseTuple(args, "KK", &ino, &source))
        return NULL;
    img_tree *tree = tree_of(self);
    lock_write(tree);
    const img_node *node = node_or_raise(tree, ino), *from = node ? node_or_raise(tree, source) : 0;
    bool good = from && S_ISREG(node->mode) && S_ISREG(from->mode);
    if (good)
        img_tree_share_data(tree, (img_id)ino, (img_id)source);
    else if (from)
        (void)raise_errno(-EINVAL);
    unlock(tree);
    if (!good)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *imgpy_tree_set_opaque(PyObject *self, PyObject *arg) {
    unsigned long long ino = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred())
        return NULL;
    lock_write(tree_of(self));
    const img_node *node = dir_or_raise(tree_of(self), ino);
    if (node)
        img_tree_set_opaque(tree_of(self), (img_id)ino);
    unlock(tree_of(self));
    if (!node)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *imgpy_tree_move(PyObject *self, PyObject *args) {
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

PyObject *imgpy_tree_exchange(PyObject *self, PyObject *args) {
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

PyObject *imgpy_tree_remember(PyObject *self, PyObject *args) {
    unsigned long long ino, count = 1;
    if (!PyArg_ParseTuple(args, "K|K", &ino, &count))
        return NULL;
    lock_read(tree_of(self));
    const img_node *node = node_or_raise(tree_of(self), ino);
    if (node)
        img_tree_remember(tree_of(self), (img_id)ino, count);
    unlock(tree_of(self));
    if (!node)
        return NULL;
    Py_RETURN_NONE;
}

/* Whether the node's object is at a path of the upper (an orphan is not). */
static bool is_in_upper(const img_node *node, img_id id) {
    return node->flags & IMG_NODE_UPPER && node->object && (node->names || id == IMG_ROOT);
}

PyObject *imgpy_tree_ctimes(PyObject *self, PyObject *unused) {
    (void)unused;
    const img_tree *tree = tree_of(self);
    PyObject *list = PyList_New(0);
    lock_read(tree_of(self));
    for (uint32_t id = 1; list && id < tree->nodes.used; id++) {
        const img_node *node = img_tree_node(tree, id);
        int64_t ns;
        if (!node || !is_in_upper(node, id) ||
            __builtin_mul_overflow(node->ctime_s, 1000000000, &ns) ||
            __builtin_add_overflow(ns, (int64_t)node->ctime_ns, &ns))
            continue;
        PyObject *pair = Py_BuildValue("(KL)", (unsigned long long)node->object, (long long)ns);
        if (!pair || PyList_Append(list, pair) < 0)
            Py_CLEAR(list);
        Py_XDECREF(pair);
    }
    unlock(tree_of(self));
    return list;
}

PyObject *imgpy_tree_forget(PyObject *self, PyObject *args) {
    unsigned long long ino, count;
    if (!PyArg_ParseTuple(args, "KK", &ino, &count))
        return NULL;
    img_forget(tree_of(self), NULL, ino, count);
    Py_RETURN_NONE;
}

PyObject *imgpy_tree_setxattr(PyObject *self, PyObject *args) {
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
