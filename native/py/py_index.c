/* py_index.c: the Python types of the tar scanner: FormatError, Member, LayerIndex, Scanner.
 *
 * A LayerIndex is immutable, so any thread may read its index while the object exists.  A Scanner
 * is used by one thread at a time: feed() releases the GIL, and a call by another thread meanwhile
 * is a RuntimeError.
 */
#include "py/py_native.h"

#include "py/py_time.h"
#include "tar/scanfd.h"
#include "tar/tarscan.h"

#include <errno.h>
#include <string.h>

typedef struct layer_index_object {
    PyObject_HEAD img_index *index;
} layer_index_object;

typedef struct scanner_object {
    PyObject_HEAD img_scanner *scanner;
    bool busy;
} scanner_object;

static void layer_index_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    img_index_free(((layer_index_object *)self)->index);
    type->tp_free(self);
    Py_DECREF(type);
}

const img_index *imgpy_index_get(PyObject *obj) {
    /* Only this type has this deallocator, because no type can inherit from it.  So the type need
     * not be in a global variable. */
    if (Py_TYPE(obj)->tp_dealloc == layer_index_dealloc)
        return ((layer_index_object *)obj)->index;
    PyErr_Format(PyExc_TypeError, "expected a LayerIndex, not %.100s", Py_TYPE(obj)->tp_name);
    return NULL;
}

/* Makes FormatError(message) and sets its three attributes. */
static PyObject *format_error(PyObject *type, const img_error *err) {
    PyObject *message =
        PyUnicode_DecodeUTF8(err->message, (Py_ssize_t)strlen(err->message), "backslashreplace");
    PyObject *member = PyBytes_FromString(err->member);
    PyObject *offset = PyLong_FromUnsignedLongLong(err->offset);
    PyObject *error = NULL;
    if (message && member && offset)
        error = PyObject_CallOneArg(type, message);
    if (error && (PyObject_SetAttrString(error, "message", message) < 0 ||
                  PyObject_SetAttrString(error, "member", member) < 0 ||
                  PyObject_SetAttrString(error, "offset", offset) < 0))
        Py_CLEAR(error);
    Py_XDECREF(message);
    Py_XDECREF(member);
    Py_XDECREF(offset);
    return error;
}

static void raise_format_error(const img_error *err) {
    /* The type is looked up by name: callers do not have the module, and errors are rare. */
    PyObject *module = PyImport_ImportModule("fusemount._native");
    PyObject *type = module ? PyObject_GetAttrString(module, "FormatError") : NULL;
    PyObject *error = type ? format_error(type, err) : NULL;
    if (error)
        PyErr_SetObject(type, error);
    Py_XDECREF(error);
    Py_XDECREF(type);
    Py_XDECREF(module);
}

bool imgpy_signalled(void *thread) {
    PyThreadState **state = thread;
    PyEval_RestoreThread(*state);
    bool raised = PyErr_CheckSignals() < 0;
    *state = PyEval_SaveThread();
    return raised;
}

PyObject *imgpy_raise(const img_error *err) {
    if (err->code == EINTR && PyErr_Occurred())
        return NULL;
    if (err->code == EBADMSG || err->code == E2BIG) {
        raise_format_error(err);
    } else if (err->code == ENOMEM) {
        PyErr_NoMemory();
    } else {
        PyObject *args = Py_BuildValue("(is)", err->code, err->message);
        if (args)
            PyErr_SetObject(PyExc_OSError, args);
        Py_XDECREF(args);
    }
    return NULL;
}

/* Makes an object that owns index. If it fails, index is freed. */
static PyObject *wrap(PyTypeObject *type, img_index *index) {
    layer_index_object *self = (layer_index_object *)type->tp_alloc(type, 0);
    if (!self) {
        img_index_free(index);
        return NULL;
    }
    self->index = index;
    return (PyObject *)self;
}

PyObject *imgpy_index_wrap(img_index *index) {
    /* The type is looked up by name, once a layer. */
    PyObject *module = PyImport_ImportModule("fusemount._native");
    PyObject *type = module ? PyObject_GetAttrString(module, "LayerIndex") : NULL;
    PyObject *wrapped = NULL;
    if (type)
        wrapped = wrap((PyTypeObject *)type, index);
    else
        img_index_free(index);
    Py_XDECREF(type);
    Py_XDECREF(module);
    return wrapped;
}

static PyObject *layer_index_scan(PyObject *cls, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"fd", "offset", "length", NULL};
    int fd;
    long long offset, length;
    img_error err = {0};
    img_index *index;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iLL:scan", names, &fd, &offset, &length))
        return NULL;
    if (offset < 0 || length < 0) {
        PyErr_SetString(PyExc_ValueError, "offset and length must not be negative");
        return NULL;
    }
    IMGPY_BEGIN_LONG;
    index = img_scan_fd(fd, (uint64_t)offset, (uint64_t)length, &err);
    IMGPY_END_LONG;
    return index ? wrap((PyTypeObject *)cls, index) : imgpy_raise(&err);
}

static PyObject *layer_index_load(PyObject *cls, PyObject *args) {
    int fd;
    const char *name = "";
    Py_ssize_t len = 0;
    img_error err = {0};
    img_index *index;
    if (!PyArg_ParseTuple(args, "i|y#:load", &fd, &name, &len))
        return NULL;
    uint64_t key = img_index_key(name, (size_t)len);
    IMGPY_BEGIN_LONG;
    index = img_index_read(fd, key, &err);
    IMGPY_END_LONG;
    return index ? wrap((PyTypeObject *)cls, index) : imgpy_raise(&err);
}

static PyObject *layer_index_save(PyObject *self, PyObject *args) {
    int fd, result;
    const char *name = "";
    Py_ssize_t len = 0;
    img_error err = {0};
    if (!PyArg_ParseTuple(args, "i|y#:save", &fd, &name, &len))
        return NULL;
    const img_index *index = ((layer_index_object *)self)->index;
    if (index->directory) {
        PyErr_SetString(PyExc_ValueError, "a directory's index is not kept: it may change");
        return NULL;
    }
    uint64_t key = img_index_key(name, (size_t)len);
    IMGPY_BEGIN_LONG;
    result = img_index_write(index, fd, key, &err);
    IMGPY_END_LONG;
    if (result < 0)
        return imgpy_raise(&err);
    Py_RETURN_NONE;
}

static Py_ssize_t layer_index_length(PyObject *self) {
    return (Py_ssize_t)((layer_index_object *)self)->index->head.n_entries;
}

static PyObject *layer_index_archive_bytes(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLongLong(((layer_index_object *)self)->index->head.archive_bytes);
}

static PyObject *layer_index_nbytes(PyObject *self, void *closure) {
    const img_index_header *head = &((layer_index_object *)self)->index->head;
    (void)closure;
    return PyLong_FromUnsignedLongLong(head->n_entries * sizeof(img_entry) +
                                       head->n_extents * sizeof(img_extent) + head->pool_bytes);
}

static PyObject *member_path(const img_index *index, const img_entry *entry) {
    Py_ssize_t dir = entry->dir_len, slash = dir ? 1 : 0;
    PyObject *path = PyBytes_FromStringAndSize(NULL, dir + slash + entry->name_len);
    if (!path)
        return NULL;
    char *at = PyBytes_AS_STRING(path);
    memcpy(at, index->pool + entry->dir, (size_t)dir);
    if (slash)
        at[dir] = '/';
    memcpy(at + dir + slash, index->pool + entry->name, entry->name_len);
    return path;
}

static PyObject *odd_members(const img_index *index, uint64_t n, uint64_t first) {
    if (n == 0 || first >= index->head.n_entries)
        return Py_BuildValue("(Ky)", (unsigned long long)n, "");
    return Py_BuildValue("(KN)", (unsigned long long)n, member_path(index, &index->entries[first]));
}

static PyObject *layer_index_oddities(PyObject *self, void *closure) {
    const img_index *index = ((layer_index_object *)self)->index;
    const img_oddities *odd = &index->oddities;
    (void)closure;
    const img_index_header *head = &index->head;
    PyObject *skipped = Py_BuildValue("(Ky#)", (unsigned long long)head->n_skipped,
                                      head->n_skipped ? index->pool + head->skipped_name : "",
                                      (Py_ssize_t)head->skipped_len);
    return Py_BuildValue("(NNN)", odd_members(index, odd->n_clamped, odd->first_clamped),
                         odd_members(index, odd->n_owner, odd->first_owner), skipped);
}

static PyObject *member_extents(const img_index *index, const img_entry *entry) {
    img_extent whole = {0, entry->size, entry->archive_data};
    const img_extent *extents = &whole;
    Py_ssize_t n = entry->kind == IMG_FILE && entry->size ? 1 : 0;
    if (index->directory)
        n = 0;
    if (entry->flags & IMG_ENTRY_SPARSE) {
        extents = index->extents + entry->first_extent;
        n = entry->n_extents;
    }
    PyObject *tuple = PyTuple_New(n);
    for (Py_ssize_t i = 0; tuple && i < n; i++) {
        PyObject *item = Py_BuildValue("(KKK)", (unsigned long long)extents[i].file_offset,
                                       (unsigned long long)extents[i].length,
                                       (unsigned long long)extents[i].archive_offset);
        if (item)
            PyTuple_SET_ITEM(tuple, i, item);
        else
            Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *member_xattrs(const img_index *index, const img_entry *entry) {
    const char *at = index->pool + entry->xattrs;
    PyObject *tuple = PyTuple_New((Py_ssize_t)entry->n_xattrs);
    for (uint32_t i = 0; tuple && i < entry->n_xattrs; i++) {
        uint16_t name_len;
        uint32_t value_len;
        memcpy(&name_len, at, sizeof name_len);
        memcpy(&value_len, at + sizeof name_len, sizeof value_len);
        const char *name = at + sizeof name_len + sizeof value_len;
        PyObject *item = Py_BuildValue("(y#y#)", name, (Py_ssize_t)name_len, name + name_len,
                                       (Py_ssize_t)value_len);
        if (item)
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, item);
        else
            Py_CLEAR(tuple);
        at = name + name_len + value_len;
    }
    return tuple;
}

static PyObject *member_kind(const img_entry *entry) {
    static const char *const names[] = {
        [IMG_FILE] = "file",         [IMG_DIR] = "dir",       [IMG_SYMLINK] = "symlink",
        [IMG_HARDLINK] = "hardlink", [IMG_CHAR] = "char",     [IMG_BLOCK] = "block",
        [IMG_FIFO] = "fifo",         [IMG_SOCKET] = "socket", [IMG_WHITEOUT] = "whiteout",
    };
    return PyUnicode_InternFromString(names[entry->kind]);
}

static PyStructSequence_Field member_fields[] = {
    {"kind", "file, dir, symlink, hardlink, char, block or fifo"},
    {"path", "normalised; b'' is the root"},
    {"link", "target of a symlink as written, of a hardlink normalised"},
    {"mode", "st_mode; 0 for a hardlink"},
    {"uid", NULL},
    {"gid", NULL},
    {"size", "of a file, as stat shows it"},
    {"mtime_ns", NULL},
    {"atime_ns", NULL},
    {"ctime_ns", NULL},
    {"rdev", "(major, minor)"},
    {"header_offset", "of the first header block in the archive"},
    {"extents", "((file offset, length, archive offset), ...)"},
    {"xattrs", "((name, value), ...)"},
    {"sparse", NULL},
    {NULL, NULL},
};
enum { MEMBER_FIELDS = sizeof member_fields / sizeof *member_fields - 1 };

static PyStructSequence_Desc member_desc = {
    .name = "fusemount._native.Member",
    .doc = "One member of an archive, as the tar has it.",
    .fields = member_fields,
    .n_in_sequence = MEMBER_FIELDS,
};

static PyObject *new_member(PyTypeObject *type, const img_index *index, const img_entry *entry) {
    PyObject *values[MEMBER_FIELDS] = {
        member_kind(entry),
        member_path(index, entry),
        PyBytes_FromStringAndSize(index->pool + entry->link, entry->link_len),
        PyLong_FromUnsignedLong(entry->mode),
        PyLong_FromUnsignedLong(entry->uid),
        PyLong_FromUnsignedLong(entry->gid),
        PyLong_FromUnsignedLongLong(entry->size),
        imgpy_time_ns(entry->mtime_s, entry->mtime_ns),
        imgpy_time_ns(entry->atime_s, entry->atime_ns),
        imgpy_time_ns(entry->ctime_s, entry->ctime_ns),
        Py_BuildValue("(II)", entry->rdev_major, entry->rdev_minor),
        PyLong_FromUnsignedLongLong(entry->archive_header),
        member_extents(index, entry),
        member_xattrs(index, entry),
        PyBool_FromLong(entry->flags & IMG_ENTRY_SPARSE),
    };
    PyObject *member = PyStructSequence_New(type);
    for (Py_ssize_t i = 0; i < MEMBER_FIELDS; i++) {
        if (!values[i])
            Py_CLEAR(member);
        if (member)
            PyStructSequence_SetItem(member, i, values[i]);
        else
            Py_XDECREF(values[i]);
    }
    return member;
}

static PyObject *layer_index_member(PyObject *self, PyTypeObject *defining, PyObject *const *args,
                                    Py_ssize_t nargs, PyObject *kwnames) {
    const img_index *index = ((layer_index_object *)self)->index;
    imgpy_state *state = PyType_GetModuleState(defining);
    if (nargs != 1 || (kwnames && PyTuple_GET_SIZE(kwnames))) {
        PyErr_SetString(PyExc_TypeError, "member() takes one argument, the number of a member");
        return NULL;
    }
    Py_ssize_t i = PyNumber_AsSsize_t(args[0], PyExc_IndexError);
    if (i == -1 && PyErr_Occurred())
        return NULL;
    if (i < 0 || (uint64_t)i >= index->head.n_entries) {
        PyErr_Format(PyExc_IndexError, "no member %zd of %llu", i,
                     (unsigned long long)index->head.n_entries);
        return NULL;
    }
    return new_member(state->member, index, &index->entries[i]);
}

static PyObject *layer_index_drop_entries(PyObject *self, PyObject *Py_UNUSED(none)) {
    img_index_drop_entries(((layer_index_object *)self)->index);
    Py_RETURN_NONE;
}

static PyMethodDef layer_index_methods[] = {
    {"scan", (PyCFunction)(void (*)(void))layer_index_scan,
     METH_VARARGS | METH_KEYWORDS | METH_CLASS,
     "scan(fd, offset, length): the index of the tar archive there."},
    {"load", layer_index_load, METH_VARARGS | METH_CLASS,
     "load(fd, name=b''): reads what save() wrote for that name."},
    {"save", layer_index_save, METH_VARARGS,
     "save(fd, name=b''): writes the index at fd's position, to be loaded by that name only."},
    {"drop_entries", layer_index_drop_entries, METH_NOARGS, "Frees the memory of the members."},
    {"member", (PyCFunction)(void (*)(void))layer_index_member,
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS, "member(i): a Member."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef layer_index_getset[] = {
    {"archive_bytes", layer_index_archive_bytes, NULL,
     "The offset of the end-of-archive mark, or of the end of input.", NULL},
    {"nbytes", layer_index_nbytes, NULL, "Memory of the arrays.", NULL},
    {"oddities", layer_index_oddities, NULL,
     "(number of members whose names lead out of the root, the first), the same for owners that "
     "are no ids, and for members of a vendor's type, which have no entry.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot layer_index_slots[] = {
    {Py_tp_doc, "A scanned archive; immutable."}, {Py_tp_dealloc, layer_index_dealloc},
    {Py_tp_methods, layer_index_methods},         {Py_tp_getset, layer_index_getset},
    {Py_sq_length, layer_index_length},           {0, NULL},
};

static PyType_Spec layer_index_spec = {
    .name = "fusemount._native.LayerIndex",
    .basicsize = sizeof(layer_index_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = layer_index_slots,
};

static PyObject *scanner_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Scanner", names))
        return NULL;
    scanner_object *self = (scanner_object *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->scanner = img_scanner_new();
    if (!self->scanner) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void scanner_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    img_scanner_free(((scanner_object *)self)->scanner);
    type->tp_free(self);
    Py_DECREF(type);
}

static int claim(scanner_object *self) {
    if (self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is feeding this Scanner");
        return -1;
    }
    self->busy = true;
    return 0;
}

static PyObject *scanner_feed(PyObject *op, PyObject *arg) {
    scanner_object *self = (scanner_object *)op;
    img_error err = {0};
    Py_buffer data;
    int result;
    if (PyObject_GetBuffer(arg, &data, PyBUF_SIMPLE) < 0)
        return NULL;
    if (claim(self) < 0) {
        PyBuffer_Release(&data);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS result =
        img_scanner_feed(self->scanner, data.buf, (size_t)data.len, &err);
    Py_END_ALLOW_THREADS self->busy = false;
    PyBuffer_Release(&data);
    if (result < 0)
        return imgpy_raise(&err);
    Py_RETURN_NONE;
}

static PyObject *scanner_finish(PyObject *op, PyTypeObject *defining, PyObject *const *args,
                                Py_ssize_t nargs, PyObject *kwnames) {
    scanner_object *self = (scanner_object *)op;
    imgpy_state *state = PyType_GetModuleState(defining);
    img_error err = {0};
    (void)args;
    if (nargs || (kwnames && PyTuple_GET_SIZE(kwnames))) {
        PyErr_SetString(PyExc_TypeError, "finish() takes no arguments");
        return NULL;
    }
    if (claim(self) < 0)
        return NULL;
    img_index *index = img_scanner_finish(self->scanner, &err);
    self->busy = false;
    return index ? wrap(state->layer_index, index) : imgpy_raise(&err);
}

static PyObject *scanner_ended(PyObject *op, void *closure) {
    scanner_object *self = (scanner_object *)op;
    (void)closure;
    if (claim(self) < 0)
        return NULL;
    self->busy = false;
    return PyBool_FromLong(img_scanner_ended(self->scanner));
}

static PyMethodDef scanner_methods[] = {
    {"feed", scanner_feed, METH_O, "feed(data): the next bytes of the archive."},
    {"finish", (PyCFunction)(void (*)(void))scanner_finish,
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS, "finish(): the LayerIndex; end of input."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef scanner_getset[] = {
    {"ended", scanner_ended, NULL, "True once the end-of-archive mark was seen.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot scanner_slots[] = {
    {Py_tp_doc, "The sans-I/O scanner: feed the archive's bytes in order, then finish()."},
    {Py_tp_new, scanner_new},
    {Py_tp_dealloc, scanner_dealloc},
    {Py_tp_methods, scanner_methods},
    {Py_tp_getset, scanner_getset},
    {0, NULL},
};

static PyType_Spec scanner_spec = {
    .name = "fusemount._native.Scanner",
    .basicsize = sizeof(scanner_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = scanner_slots,
};

static int add_types(PyObject *module, imgpy_state *state) {
    state->member = PyStructSequence_NewType(&member_desc);
    if (!state->member || PyModule_AddType(module, state->member) < 0)
        return -1;
    state->layer_index = (PyTypeObject *)PyType_FromModuleAndSpec(module, &layer_index_spec, NULL);
    if (!state->layer_index || PyModule_AddType(module, state->layer_index) < 0)
        return -1;
    state->scanner = (PyTypeObject *)PyType_FromModuleAndSpec(module, &scanner_spec, NULL);
    return state->scanner ? PyModule_AddType(module, state->scanner) : -1;
}

int imgpy_index_exec(PyObject *module) {
    imgpy_state *state = PyModule_GetState(module);
    PyObject *defaults = Py_BuildValue("{s:s,s:y,s:i}", "message", "", "member", "", "offset", 0);
    if (!defaults)
        return -1;
    state->format_error =
        PyErr_NewExceptionWithDoc("fusemount._native.FormatError",
                                  "An archive or index that breaks its format or passes a limit.",
                                  PyExc_ValueError, defaults);
    Py_DECREF(defaults);
    if (!state->format_error ||
        PyModule_AddObjectRef(module, "FormatError", state->format_error) < 0)
        return -1;
    if (PyModule_AddIntConstant(module, "INDEX_BYTES_MAX", (long)IMG_INDEX_BYTES_MAX) < 0)
        return -1;
    return add_types(module, state);
}
