/* py_tree.h: what the files of the Python type Tree share: py_tree.c, py_treechange.c, py_idmap.c.
 */
#ifndef IMG_PY_TREE_H
#define IMG_PY_TREE_H

#include "py/py_native.h"

#include "tree/tree.h"

#include <errno.h>

typedef struct {
    PyObject_HEAD img_tree *tree;
    PyObject *indexes; /* list of the LayerIndex objects that the tree points into */
} TreeObject;

/* The tree inside a Tree, borrowed: it exists as long as obj. NULL with TypeError set for any other
 * object. */
img_tree *imgpy_tree_get(PyObject *obj);

/* Sets OSError for a negative errno, and returns NULL. */
static inline PyObject *raise_errno(int negative) {
    errno = -negative;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static inline img_tree *tree_of(PyObject *self) {
    return ((TreeObject *)self)->tree;
}

static inline void lock_read(img_tree *tree) {
    (void)pthread_rwlock_rdlock(&tree->lock);
}

static inline void lock_write(img_tree *tree) {
    (void)pthread_rwlock_wrlock(&tree->lock);
}

static inline void unlock(img_tree *tree) {
    (void)pthread_rwlock_unlock(&tree->lock);
}

/* The node; NULL with OSError (ESTALE) set when there is none. */
static inline img_node *node_or_raise(img_tree *tree, unsigned long long ino) {
    img_node *node = img_tree_node(tree, ino);
    if (!node)
        (void)raise_errno(-ESTALE);
    return node;
}

/* The directory; NULL with OSError (ESTALE, ENOTDIR) set when there is none. */
static inline img_node *dir_or_raise(img_tree *tree, unsigned long long ino) {
    img_node *node = node_or_raise(tree, ino);
    if (node && !img_is_dir(node)) {
        (void)raise_errno(-ENOTDIR);
        return NULL;
    }
    return node;
}

/* py_treechange.c: methods of Tree */
PyObject *imgpy_tree_setxattr(PyObject *self, PyObject *args);
PyObject *imgpy_tree_new_node(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *imgpy_tree_set_attr(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *imgpy_tree_add_name(PyObject *self, PyObject *args);
PyObject *imgpy_tree_drop_name(PyObject *self, PyObject *args);
PyObject *imgpy_tree_drop_children(PyObject *self, PyObject *arg);
PyObject *imgpy_tree_share_data(PyObject *self, PyObject *args);
PyObject *imgpy_tree_set_opaque(PyObject *self, PyObject *arg);
PyObject *imgpy_tree_move(PyObject *self, PyObject *args);
PyObject *imgpy_tree_exchange(PyObject *self, PyObject *args);
PyObject *imgpy_tree_remember(PyObject *self, PyObject *args);
PyObject *imgpy_tree_ctimes(PyObject *self, PyObject *unused);
PyObject *imgpy_tree_forget(PyObject *self, PyObject *args);

/* py_idmap.c: methods of Tree */
PyObject *imgpy_tree_set_owners(PyObject *self, PyObject *args);
PyObject *imgpy_tree_shown(PyObject *self, PyObject *args);
PyObject *imgpy_tree_stored(PyObject *self, PyObject *args);

#endif
