/* py_idmap.c: the methods of the Python type Tree that map owners (idmap.h). */
#include "py/py_tree.h"

#include "tree/idmap.h"

/* Converts a sequence of (stored, shown, count) to ranges, an array of IMG_ID_RANGES_MAX. 0, or -1
 * with an exception set. */
static int take_ranges(PyObject *given, img_id_range *ranges, size_t *n) {
    PyObject *items = PySequence_Fast(given, "id ranges must be a sequence");
    if (!items)
        return -1;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(items);
    int result = 0;
    if (count > (Py_ssize_t)IMG_ID_RANGES_MAX) {
        PyErr_Format(PyExc_ValueError, "more than %u id ranges, the limit", IMG_ID_RANGES_MAX);
        result = -1;
    }
    for (Py_ssize_t i = 0; result == 0 && i < count; i++) {
        img_id_range *r = &ranges[i];
        PyObject *item = PySequence_Fast_GET_ITEM(items, i);
        if (!PyTuple_Check(item) ||
            !PyArg_ParseTuple(item, "III", &r->stored, &r->shown, &r->count)) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_TypeError, "an id range is (stored, shown, count)");
            result = -1;
        }
    }
    *n = (size_t)(result < 0 ? 0 : count);
    Py_DECREF(items);
    return result;
}

static int take_map(PyObject *given, long long squash, img_id_map *map) {
    img_id_range ranges[IMG_ID_RANGES_MAX];
    size_t n = 0;
    if (take_ranges(given, ranges, &n) < 0)
        return -1;
    if (!img_id_map_set(map, ranges, n, squash)) {
        (void)PyErr_NoMemory();
        return -1;
    }
    return 0;
}

PyObject *imgpy_tree_set_owners(PyObject *self, PyObject *args) {
    img_tree *tree = imgpy_tree_get(self);
    PyObject *uids, *gids;
    long long squash_uid, squash_gid;
    if (!tree ||
        !PyArg_ParseTuple(args, "OOLL:set_owners", &uids, &gids, &squash_uid, &squash_gid) ||
        take_map(uids, squash_uid, &tree->owners.uids) < 0 ||
        take_map(gids, squash_gid, &tree->owners.gids) < 0)
        return NULL;
    Py_RETURN_NONE;
}

typedef uint32_t map_id(const img_id_map *map, uint32_t id);

/* Maps a uid and a gid. */
static PyObject *both(PyObject *self, PyObject *args, const char *format, map_id *map) {
    const img_tree *tree = imgpy_tree_get(self);
    unsigned uid, gid;
    if (!tree || !PyArg_ParseTuple(args, format, &uid, &gid))
        return NULL;
    return Py_BuildValue("(II)", map(&tree->owners.uids, uid), map(&tree->owners.gids, gid));
}

PyObject *imgpy_tree_shown(PyObject *self, PyObject *args) {
    return both(self, args, "II:shown", img_id_shown);
}

PyObject *imgpy_tree_stored(PyObject *self, PyObject *args) {
    return both(self, args, "II:stored", img_id_stored);
}
