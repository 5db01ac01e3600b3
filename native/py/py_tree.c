/* py_tree.c: the Python type Tree: shows tree.h, merge.h and content.h to Python.
 *
 * Every method takes the tree's lock and releases it.  It may wait for the lock with the GIL held,
 * because a thread that holds the lock runs C code that does not ask for the GIL.  The exception is
 * add_layer, which asks for the GIL to handle signals.  So while layers are added, only one thread
 * may use the tree.
 */
#define _GNU_SOURCE /* renameat2 */
#include "py/py_tree.h"

#include "py/py_time.h"
#include "tree/content.h"
#include "tree/merge.h"
#include "tree/mergedir.h"
#include "tree/tree_check.h"
#include "tree/xattrs.h"

#include <stdio.h>
#include <string.h>
#include <structmember.h>
#include <sys/stat.h>

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

static void tree_dealloc(PyObject *self);

img_tree *imgpy_tree_get(PyObject *obj) {
    /* Only this type has this deallocator, because no type can inherit from it. */
    if (Py_TYPE(obj)->tp_dealloc == tree_dealloc)
        return tree_of(obj);
    PyErr_Format(PyExc_TypeError, "expected a Tree, not %.100s", Py_TYPE(obj)->tp_name);
    return NULL;
}

static void tree_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    img_tree_free(tree_of(self));
    Py_XDECREF(((TreeObject *)self)->indexes);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *tree_add_layer(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"index", "fd", "offset", "follow_symlink_parents", "packed", NULL};
    PyObject *index_object, *packed_object = Py_None;
    int fd, follow = 0, result;
    unsigned long long base;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OiK|pO", names, &index_object, &fd, &base,
                                     &follow, &packed_object))
        return NULL;
    const img_index *index = imgpy_index_get(index_object);
    img_packed *packed = NULL;
    if (!index || (packed_object != Py_None && !(packed = imgpy_packed_get(packed_object))))
        return NULL;
    PyObject *used = ((TreeObject *)self)->indexes; /* the objects that must outlive the tree */
    if (PyList_Append(used, index_object) < 0 || PyList_Append(used, packed_object) < 0)
        return NULL;
    img_error err = {0};
    img_tree *tree = tree_of(self);
    IMGPY_BEGIN_LONG;
    lock_write(tree);
    result = index->directory ? img_tree_add_directory(tree, index, fd, &err)
                              : img_tree_add_layer(tree, index, fd, base, packed, follow, &err);
    unlock(tree);
    IMGPY_END_LONG;
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

static PyObject *tree_set_generation(PyObject *self, PyObject *arg) {
    unsigned long generation = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred())
        return NULL;
    lock_write(tree_of(self));
    tree_of(self)->generation = (uint32_t)generation;
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

enum { ATTR_FIELDS = 16 };

static PyStructSequence_Field attr_fields[] = {
    {"ino", "nodeid"},
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
    {"blocks", "in units of 512 bytes; of a layer's file: its data in pages of 4 KiB"},
    {"inode", "st_ino: of a node from a layer the nodeid, else a number beyond 2^32"},
    {"meta", "only its attributes are copied up; the data are in a layer"},
    {"generation", "tells the node from others that have its nodeid at other times"},
    {NULL, NULL},
};

static PyStructSequence_Desc attr_desc = {
    .name = "fusemount._native.Attr",
    .doc = "Attributes of a node, as stat(2) has them.",
    .fields = attr_fields,
    .n_in_sequence = ATTR_FIELDS,
};

static PyObject *attr_of(PyTypeObject *type, const img_tree *tree, unsigned long long ino,
                         const img_node *node) {
    PyObject *items[ATTR_FIELDS] = {
        PyLong_FromUnsignedLongLong(ino),
        PyLong_FromUnsignedLong(node->mode),
        PyLong_FromUnsignedLong(img_node_links(tree, (img_id)ino, node)),
        PyLong_FromUnsignedLong(node->uid),
        PyLong_FromUnsignedLong(node->gid),
        PyLong_FromUnsignedLongLong(S_ISREG(node->mode) ? 0 : node->rdev),
        PyLong_FromUnsignedLongLong(node->size),
        imgpy_time_ns(node->mtime_s, node->mtime_ns),
        imgpy_time_ns(node->atime_s, node->atime_ns),
        imgpy_time_ns(node->ctime_s, node->ctime_ns),
        PyLong_FromLong(node->layer == IMG_LAYER_UPPER ? -1 : node->layer),
        PyBool_FromLong(node->flags & IMG_NODE_UPPER),
        PyLong_FromUnsignedLongLong(img_node_blocks(node)),
        PyLong_FromUnsignedLongLong(img_node_ino(node, (img_id)ino)),
        PyBool_FromLong(node->flags & IMG_NODE_META),
        PyLong_FromUnsignedLong(img_node_generation(tree, node)),
    };
    PyObject *attr = PyStructSequence_New(type);
    for (Py_ssize_t i = 0; i < ATTR_FIELDS; i++)
        if (attr && items[i])
            PyStructSequence_SET_ITEM(attr, i, items[i]);
        else
            Py_CLEAR(attr);
    return attr;
}

static PyObject *tree_getattr(PyObject *self, PyObject *arg) {
    unsigned long long ino = PyLong_AsUnsignedLongLong(arg);
    const imgpy_state *state = PyType_GetModuleState(Py_TYPE(self));
    if (PyErr_Occurred())
        return NULL;
    lock_read(tree_of(self));
    const img_node *node = node_or_raise(tree_of(self), ino);
    PyObject *attr = node ? attr_of(state->attr, tree_of(self), ino, node) : NULL;
    unlock(tree_of(self));
    return attr;
}

static PyObject *tree_set_static_nlink(PyObject *self, PyObject *Py_UNUSED(none)) {
    tree_of(self)->static_nlink = true;
    Py_RETURN_NONE;
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

static PyObject *tree_names(PyObject *self, PyObject *args) {
    unsigned long long ino;
    Py_ssize_t count = PY_SSIZE_T_MAX;
    if (!PyArg_ParseTuple(args, "K|n", &ino, &count))
        return NULL;
    img_tree *tree = tree_of(self);
    PyObject *list = PyList_New(0);
    lock_read(tree);
    const img_node *node = node_or_raise(tree, ino);
    for (uint32_t d = node ? node->names : 0; list && d && PyList_GET_SIZE(list) < count;
         d = img_dentry_at(tree, d)->link_next) {
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

static PyObject *tree_hidden(PyObject *self, PyObject *arg) {
    unsigned long long ino = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred())
        return NULL;
    img_tree *tree = tree_of(self);
    lock_read(tree);
    const img_node *node = img_tree_node(tree, ino);
    const img_dir *dir = node && img_is_dir(node) ? node->u.dir : NULL;
    uint32_t hidden = dir ? dir->used - dir->holes - dir->live : 0;
    unlock(tree);
    return PyLong_FromUnsignedLong(hidden);
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

/* Finds out where the contents of a layer's file are; false with an exception set. */
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
    IMGPY_BEGIN_LONG;
    result = img_content_copy(&content, fd, limit);
    IMGPY_END_LONG;
    if (result == -EINTR && PyErr_Occurred())
        return NULL;
    if (result < 0)
        return raise_errno(result);
    Py_RETURN_NONE;
}

static PyObject *tree_next_data(PyObject *self, PyObject *args) {
    unsigned long long ino, offset;
    int result;
    img_content content;
    img_extent e;
    if (!PyArg_ParseTuple(args, "KK", &ino, &offset) ||
        !content_or_raise(tree_of(self), ino, &content))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    result = img_content_data(&content, offset, &e);
    Py_END_ALLOW_THREADS;
    if (result < 0)
        return raise_errno(result);
    if (!result)
        Py_RETURN_NONE;
    return Py_BuildValue("(KK)", (unsigned long long)e.file_offset, (unsigned long long)e.length);
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

#define KEYWORDS(function) ((PyCFunction)(void (*)(void))(function)), METH_VARARGS | METH_KEYWORDS

static PyMethodDef tree_methods[] = {
    {"add_layer", KEYWORDS(tree_add_layer), "Adds a layer on top of the tree."},
    {"set_static_nlink", tree_set_static_nlink, METH_NOARGS,
     "From now on directories show one link."},
    {"set_owners", imgpy_tree_set_owners, METH_VARARGS, "Sets how stored ids are shown."},
    {"shown", imgpy_tree_shown, METH_VARARGS, "(uid, gid) of stored ones."},
    {"stored", imgpy_tree_stored, METH_VARARGS, "(uid, gid) of shown ones."},
    {"seal", tree_seal, METH_NOARGS, "Ends the adding of layers: all present names are theirs."},
    {"set_generation", tree_set_generation, METH_O, "Sets the generation of nodes from layers."},
    {"check", tree_check, METH_NOARGS, "Checks the tree's invariants."},
    {"lookup", tree_lookup, METH_VARARGS, "The nodeid of a name, or 0."},
    {"resolve", tree_resolve, METH_VARARGS, "The nodeid of a path; symlinks resolve in the root."},
    {"getattr", tree_getattr, METH_O, "Attributes of a node."},
    {"readdir", tree_readdir, METH_VARARGS, "Up to count (name, ino, cookie) beyond a cookie."},
    {"names", tree_names, METH_VARARGS, "The (parent, name) of a node, all or up to count."},
    {"is_lower_name", tree_is_lower_name, METH_VARARGS, "Whether the layers have that name there."},
    {"hidden", tree_hidden, METH_O, "How many names of the layers a directory hides."},
    {"readlink", tree_readlink, METH_O, "A symlink's target."},
    {"read", tree_read, METH_VARARGS, "Bytes of a layer's file."},
    {"copy_data", tree_copy_data, METH_VARARGS,
     "Copies a layer's file into fd, up to limit bytes."},
    {"next_data", tree_next_data, METH_VARARGS,
     "(offset, length) of the next data of a layer's file, from an offset on, or None."},
    {"xattrs", tree_xattrs, METH_O, "All xattrs."},
    {"getxattr", tree_getxattr, METH_VARARGS, "One xattr or None."},
    {"setxattr", imgpy_tree_setxattr, METH_VARARGS, "Sets an xattr; None removes it."},
    {"new_node", KEYWORDS(imgpy_tree_new_node), "A new node, in the upper or only in memory."},
    {"set_attr", KEYWORDS(imgpy_tree_set_attr), "Changes attributes."},
    {"add_name", imgpy_tree_add_name, METH_VARARGS, "Gives a node a name."},
    {"drop_name", imgpy_tree_drop_name, METH_VARARGS, "Removes a name and all below it."},
    {"drop_children", imgpy_tree_drop_children, METH_O, "Empties a directory, whiteouts included."},
    {"share_data", imgpy_tree_share_data, METH_VARARGS, "Gives a file the data of another one."},
    {"set_opaque", imgpy_tree_set_opaque, METH_O, "Cuts a directory off the layers below."},
    {"move", imgpy_tree_move, METH_VARARGS, "Moves a name to a free one."},
    {"exchange", imgpy_tree_exchange, METH_VARARGS, "Exchanges the nodes of two names."},
    {"ctimes", imgpy_tree_ctimes, METH_NOARGS,
     "(st_ino, ctime in ns) of each object in the upper."},
    {"remember", imgpy_tree_remember, METH_VARARGS, "Raises the kernel's lookup count."},
    {"forget", imgpy_tree_forget, METH_VARARGS, "Lowers it; for mounts without an upper."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef tree_getset[] = {
    {"nodes", tree_get_nodes, NULL, "Number of nodes.", NULL},
    {"nbytes", tree_get_nbytes, NULL, "Memory of the tree in bytes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot tree_slots[] = {
    {Py_tp_doc, "The merged file tree in memory (native/tree/tree.h)."},
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
    imgpy_state *state = PyModule_GetState(module);
    state->attr = PyStructSequence_NewType(&attr_desc);
    if (!state->attr || PyModule_AddType(module, state->attr) < 0)
        return -1;
    PyObject *type = PyType_FromModuleAndSpec(module, &tree_spec, NULL);
    if (!type)
        return -1;
    int result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return result < 0 ? -1 : PyModule_AddFunctions(module, functions);
}
