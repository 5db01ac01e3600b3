/* py_packed.c: compressed tars: Unpacker, BegunPoint, Points, Packed.
 *
 * An Unpacker is used by one thread at a time, and so are Points while they are made; a BegunPoint
 * goes from the one to the other.  Finished Points and a Packed are used by any thread.
 */
#define _GNU_SOURCE /* F_DUPFD_CLOEXEC */
#include "py/py_native.h"

#include "base/checksum.h"
#include "packed/packed.h"
#include "packed/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

typedef struct unpacker_object {
    PyObject_HEAD img_unpacker *unpacker;
    PyObject *input; /* the bytes that were fed last */
    bool busy, hungry, ended;
} unpacker_object;

typedef struct begun_object {
    PyObject_HEAD img_begun *begun;
} begun_object;

typedef struct points_object {
    PyObject_HEAD img_points points;
    bool busy, ended;
} points_object;

typedef struct packed_object {
    PyObject_HEAD img_packed *packed;
    PyObject *directory; /* has the descriptor of the chunk cache's directory; or None */
    int shares;          /* how many close() it takes */
} packed_object;

static int codec_of(const char *name) {
    if (strcmp(name, "gzip") == 0)
        return IMG_GZIP;
    if (strcmp(name, "zstd") == 0)
        return IMG_ZSTD;
    PyErr_Format(PyExc_ValueError, "no codec: %s", name);
    return -1;
}

static int claim(bool *busy) {
    if (*busy) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is using this object");
        return -1;
    }
    *busy = true;
    return 0;
}

/* ---- BegunPoint --------------------------------------------------------------------------- */

static void begun_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    img_begun_free(((begun_object *)self)->begun);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *begun_out(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLongLong(img_begun_out(((begun_object *)self)->begun));
}

static PyGetSetDef begun_getset[] = {
    {"out", begun_out, NULL, "The point's offset in the tar.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot begun_slots[] = {
    {Py_tp_getset, begun_getset},
    {Py_tp_doc, "An access point that Points.add() finishes."},
    {Py_tp_dealloc, begun_dealloc},
    {0, NULL},
};

static PyType_Spec begun_spec = {
    .name = "fusemount._native.BegunPoint",
    .basicsize = sizeof(begun_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = begun_slots,
};

/* ---- Unpacker ----------------------------------------------------------------------------- */

static PyObject *unpacker_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"codec", NULL};
    const char *name;
    img_error err = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s:Unpacker", names, &name))
        return NULL;
    int codec = codec_of(name);
    unpacker_object *self = codec < 0 ? NULL : (unpacker_object *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->hungry = true;
    self->unpacker = img_unpacker_new((img_codec)codec, &err);
    if (!self->unpacker) {
        Py_DECREF(self);
        return imgpy_raise(&err);
    }
    return (PyObject *)self;
}

static void unpacker_dealloc(PyObject *op) {
    unpacker_object *self = (unpacker_object *)op;
    PyTypeObject *type = Py_TYPE(op);
    img_unpacker_free(self->unpacker);
    Py_XDECREF(self->input);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *unpacker_feed(PyObject *op, PyObject *data) {
    unpacker_object *self = (unpacker_object *)op;
    if (!PyBytes_Check(data) || !self->hungry || self->busy) {
        PyErr_SetString(PyExc_ValueError, "feed() takes bytes, when next() has returned None");
        return NULL;
    }
    Py_XSETREF(self->input, Py_NewRef(data));
    self->hungry = false;
    img_unpacker_feed(self->unpacker, PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data));
    Py_RETURN_NONE;
}

/* Fills the buffer as far as the input goes.  How many bytes; -1 with err. */
static Py_ssize_t fill(unpacker_object *self, char *out, size_t size, img_error *err) {
    size_t done = 0, n;
    while (done < size && !self->hungry && !self->ended) {
        int result = img_unpacker_next(self->unpacker, out + done, size - done, &n, err);
        if (result < 0)
            return -1;
        done += n;
        self->hungry = result == IMG_DECODED_HUNGRY;
        self->ended = result == IMG_DECODED_END;
    }
    return (Py_ssize_t)done;
}

static PyObject *unpacker_next(PyObject *op, PyObject *arg) {
    unpacker_object *self = (unpacker_object *)op;
    img_error err = {0};
    Py_ssize_t size = PyLong_AsSsize_t(arg), n;
    if (size < 1) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "the size must be greater than 0");
        return NULL;
    }
    if (self->hungry || self->ended)
        Py_RETURN_NONE;
    PyObject *piece = PyBytes_FromStringAndSize(NULL, size);
    if (!piece || claim(&self->busy) < 0) {
        Py_XDECREF(piece);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS n = fill(self, PyBytes_AS_STRING(piece), (size_t)size, &err);
    Py_END_ALLOW_THREADS self->busy = false;
    if (n < 0) {
        Py_DECREF(piece);
        return imgpy_raise(&err);
    }
    if (n == 0) {
        Py_DECREF(piece);
        Py_RETURN_NONE;
    }
    if (n < size)
        (void)_PyBytes_Resize(&piece, n);
    return piece;
}

static PyObject *unpacker_take(PyObject *op, PyTypeObject *defining, PyObject *const *args,
                               Py_ssize_t nargs, PyObject *kwnames) {
    unpacker_object *self = (unpacker_object *)op;
    imgpy_state *state = PyType_GetModuleState(defining);
    (void)args;
    if (nargs || (kwnames && PyTuple_GET_SIZE(kwnames))) {
        PyErr_SetString(PyExc_TypeError, "take() takes no arguments");
        return NULL;
    }
    if (self->busy)
        return PyErr_Format(PyExc_RuntimeError, "another thread is using this Unpacker");
    PyObject *list = PyList_New(0);
    for (img_begun *begun; list && (begun = img_unpacker_take(self->unpacker));) {
        begun_object *one = (begun_object *)state->begun->tp_alloc(state->begun, 0);
        if (!one)
            img_begun_free(begun);
        else
            one->begun = begun;
        if (!one || PyList_Append(list, (PyObject *)one) < 0)
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    return list;
}

static PyObject *unpacker_finish(PyObject *op, PyObject *ignored) {
    img_error err = {0};
    (void)ignored;
    if (img_unpacker_finish(((unpacker_object *)op)->unpacker, &err) < 0)
        return imgpy_raise(&err);
    Py_RETURN_NONE;
}

static PyObject *unpacker_ended(PyObject *op, void *closure) {
    (void)closure;
    return PyBool_FromLong(((unpacker_object *)op)->ended);
}

static PyObject *unpacker_bounds(PyObject *op, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLongLong(img_unpacker_bounds(((unpacker_object *)op)->unpacker));
}

static PyObject *unpacker_barren(PyObject *op, void *closure) {
    (void)closure;
    return PyBool_FromLong(img_unpacker_barren(((unpacker_object *)op)->unpacker));
}

static PyObject *unpacker_taken(PyObject *op, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLongLong(img_unpacker_taken(((unpacker_object *)op)->unpacker));
}

static PyMethodDef unpacker_methods[] = {
    {"feed", unpacker_feed, METH_O, "feed(data): the next bytes of the stream."},
    {"next", unpacker_next, METH_O, "next(size): plain bytes; None: feed more, or it has ended."},
    {"take", (PyCFunction)(void (*)(void))unpacker_take,
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS, "take(): the access points that were begun."},
    {"finish", unpacker_finish, METH_NOARGS, "finish(): no more comes; FormatError if it is cut."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef unpacker_getset[] = {
    {"ended", unpacker_ended, NULL, "True if what was fed last goes on behind the stream.", NULL},
    {"bounds", unpacker_bounds, NULL, "Members or frames that have ended.", NULL},
    {"barren", unpacker_barren, NULL, "True if somewhere much input gives no output.", NULL},
    {"taken", unpacker_taken, NULL, "Bytes of the stream that were decoded.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot unpacker_slots[] = {
    {Py_tp_doc, "A decoder of gzip or zstd streams that takes access points."},
    {Py_tp_new, unpacker_new},
    {Py_tp_dealloc, unpacker_dealloc},
    {Py_tp_methods, unpacker_methods},
    {Py_tp_getset, unpacker_getset},
    {0, NULL},
};

static PyType_Spec unpacker_spec = {
    .name = "fusemount._native.Unpacker",
    .basicsize = sizeof(unpacker_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = unpacker_slots,
};

/* ---- Points ------------------------------------------------------------------------------- */

static PyObject *points_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"codec", NULL};
    const char *name;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s:Points", names, &name))
        return NULL;
    int codec = codec_of(name);
    points_object *self = codec < 0 ? NULL : (points_object *)type->tp_alloc(type, 0);
    if (self)
        img_points_begin(&self->points, (img_codec)codec);
    return (PyObject *)self;
}

static void points_dealloc(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);
    img_points_free(&((points_object *)op)->points);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *points_add(PyObject *op, PyTypeObject *defining, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *kwnames) {
    points_object *self = (points_object *)op;
    imgpy_state *state = PyType_GetModuleState(defining);
    img_error err = {0};
    int result;
    if (nargs != 1 || kwnames || !PyObject_TypeCheck(args[0], state->begun) || self->ended) {
        PyErr_SetString(PyExc_TypeError, "add() takes a BegunPoint, before end()");
        return NULL;
    }
    if (claim(&self->busy) < 0)
        return NULL;
    img_begun *begun = ((begun_object *)args[0])->begun;
    Py_BEGIN_ALLOW_THREADS result = img_begun_finish(begun, &self->points, &err);
    Py_END_ALLOW_THREADS self->busy = false;
    if (result < 0)
        return imgpy_raise(&err);
    Py_RETURN_NONE;
}

static PyObject *points_add_frame(PyObject *op, PyObject *args) {
    points_object *self = (points_object *)op;
    unsigned long long out, in;
    img_error err = {0};
    if (!PyArg_ParseTuple(args, "KK:add_frame", &out, &in))
        return NULL;
    if (self->busy || self->ended)
        return PyErr_Format(PyExc_RuntimeError, "these points are in use, or ended");
    if (img_points_add(&self->points, out, in, true, NULL, &err) < 0)
        return imgpy_raise(&err);
    Py_RETURN_NONE;
}

static PyObject *points_end(PyObject *op, PyObject *args) {
    points_object *self = (points_object *)op;
    unsigned long long blob_bytes, tar_bytes, sidecar_bytes = 0;
    if (!PyArg_ParseTuple(args, "KK|K:end", &blob_bytes, &tar_bytes, &sidecar_bytes))
        return NULL;
    img_points_end(&self->points, blob_bytes, tar_bytes, sidecar_bytes);
    self->ended = true;
    Py_RETURN_NONE;
}

static PyObject *points_load(PyObject *cls, PyObject *args) {
    int fd, result;
    const char *name;
    Py_ssize_t len;
    img_error err = {0};
    if (!PyArg_ParseTuple(args, "iy#:load", &fd, &name, &len))
        return NULL;
    points_object *self = (points_object *)((PyTypeObject *)cls)->tp_alloc((PyTypeObject *)cls, 0);
    if (!self)
        return NULL;
    uint64_t key = img_checksum(name, (size_t)len, 0);
    Py_BEGIN_ALLOW_THREADS result = img_points_read(&self->points, fd, key, &err);
    Py_END_ALLOW_THREADS if (result < 0) {
        Py_DECREF(self);
        return imgpy_raise(&err);
    }
    self->ended = true;
    return (PyObject *)self;
}

static PyObject *points_save(PyObject *op, PyObject *args) {
    points_object *self = (points_object *)op;
    int fd, result;
    const char *name;
    Py_ssize_t len;
    img_error err = {0};
    if (!PyArg_ParseTuple(args, "iy#:save", &fd, &name, &len))
        return NULL;
    if (!self->ended || !self->points.head.n_points)
        return PyErr_Format(PyExc_ValueError, "points that have no end, or that a Packed has");
    uint64_t key = img_checksum(name, (size_t)len, 0);
    Py_BEGIN_ALLOW_THREADS result = img_points_write(&self->points, fd, key, &err);
    Py_END_ALLOW_THREADS if (result < 0) return imgpy_raise(&err);
    Py_RETURN_NONE;
}

static PyObject *points_rows(PyObject *op, PyObject *ignored) {
    const img_points *points = &((points_object *)op)->points;
    PyObject *rows = PyList_New(0);
    (void)ignored;
    for (uint64_t i = 0; rows && i < points->head.n_points; i++) {
        const img_point *point = &points->points[i];
        PyObject *row =
            Py_BuildValue("KKIO", (unsigned long long)point->out, (unsigned long long)point->in,
                          point->n_state, point->in_sidecar ? Py_True : Py_False);
        if (!row || PyList_Append(rows, row) < 0)
            Py_CLEAR(rows);
        Py_XDECREF(row);
    }
    return rows;
}

static PyObject *points_number(PyObject *op, void *closure) {
    const img_points_header *head = &((points_object *)op)->points.head;
    size_t offset = (size_t)(uintptr_t)closure;
    uint64_t number;
    memcpy(&number, (const char *)head + offset, sizeof number);
    return PyLong_FromUnsignedLongLong(number);
}

static PyMethodDef points_methods[] = {
    {"add", (PyCFunction)(void (*)(void))points_add, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     "add(begun): finishes a point and adds it; in the order of take()."},
    {"add_frame", points_add_frame, METH_VARARGS,
     "add_frame(out, at): a frame at `at` in the sidecar has the tar from `out` on."},
    {"end", points_end, METH_VARARGS,
     "end(blob_bytes, tar_bytes, sidecar_bytes=0): all points were added."},
    {"load", points_load, METH_VARARGS | METH_CLASS, "load(fd, name): points that were saved."},
    {"save", points_save, METH_VARARGS, "save(fd, name)"},
    {"rows", points_rows, METH_NOARGS,
     "(offset in the tar, in the blob, bytes of state, in the sidecar) of each."},
    {NULL, NULL, 0, NULL},
};

#define NUMBER(name, text)                                                                         \
    { #name, points_number, NULL, text, (void *)(uintptr_t)offsetof(img_points_header, name) }

static PyGetSetDef points_getset[] = {
    NUMBER(blob_bytes, "Bytes of the blob."),
    NUMBER(tar_bytes, "Bytes of the tar."),
    NUMBER(sidecar_bytes, "Bytes of the sidecar; 0: there is none."),
    NUMBER(n_points, "How many points there are."),
    NUMBER(pool_bytes, "Bytes of all states."),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot points_slots[] = {
    {Py_tp_doc, "Where a decoder can begin in one blob (native/packed/points.h)."},
    {Py_tp_new, points_new},
    {Py_tp_dealloc, points_dealloc},
    {Py_tp_methods, points_methods},
    {Py_tp_getset, points_getset},
    {0, NULL},
};

static PyType_Spec points_spec = {
    .name = "fusemount._native.Points",
    .basicsize = sizeof(points_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = points_slots,
};

/* ---- Packed ------------------------------------------------------------------------------- */

static void packed_dealloc(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);
    img_packed *packed = ((packed_object *)op)->packed;
    Py_BEGIN_ALLOW_THREADS img_packed_free(packed);
    Py_END_ALLOW_THREADS Py_XDECREF(((packed_object *)op)->directory);
    type->tp_free(op);
    Py_DECREF(type);
}

img_packed *imgpy_packed_get(PyObject *obj) {
    /* As for a LayerIndex, the deallocator tells the type. */
    if (Py_TYPE(obj)->tp_dealloc == packed_dealloc)
        return ((packed_object *)obj)->packed;
    PyErr_Format(PyExc_TypeError, "expected a Packed, not %.100s", Py_TYPE(obj)->tp_name);
    return NULL;
}

/* Replaces descriptors of the caller's by own ones.  -1: errno; then none is open. */
static int duplicate(img_packed_files *files) {
    int sidecar = files->sidecar_fd, blob = fcntl(files->blob_fd, F_DUPFD_CLOEXEC, 3);
    if (blob < 0)
        return -1;
    if (sidecar >= 0 && (sidecar = fcntl(sidecar, F_DUPFD_CLOEXEC, 3)) < 0) {
        (void)close(blob);
        return -1;
    }
    files->blob_fd = blob;
    files->sidecar_fd = sidecar;
    return 0;
}

static void close_all(const img_packed_files *files) {
    (void)close(files->blob_fd);
    if (files->sidecar_fd >= 0)
        (void)close(files->sidecar_fd);
}

/* Makes the address space; the Points object is empty afterwards. */
static img_packed *open_packed(img_packed_files *files, points_object *points,
                               const Py_buffer *digests, const char *name) {
    img_error err = {0};
    if (!points->ended || !points->points.head.n_points || digests->len % (Py_ssize_t)IMG_DIGEST) {
        PyErr_SetString(PyExc_ValueError, "points that are not ended or are used, or cut digests");
        return NULL;
    }
    if (duplicate(files) < 0)
        return (img_packed *)(void *)PyErr_SetFromErrno(PyExc_OSError);
    img_packed *packed = img_packed_new(files, &points->points, digests->buf,
                                        (uint64_t)digests->len / IMG_DIGEST, name, &err);
    if (!packed) {
        close_all(files);
        (void)imgpy_raise(&err);
    }
    return packed;
}

static PyObject *packed_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"points",    "digests",     "blob_fd", "blob_at", "sidecar_fd",
                            "directory", "chunks_path", "name",    NULL};
    PyObject *points, *directory;
    Py_buffer digests;
    unsigned long long blob_at;
    const char *name;
    img_packed_files files = {.log_fd = -1, .chunks_dir = -1};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Oy*iKiOyy:Packed", names, &points, &digests,
                                     &files.blob_fd, &blob_at, &files.sidecar_fd, &directory,
                                     &files.chunks_path, &name))
        return NULL;
    files.blob_at = blob_at;
    packed_object *self = NULL;
    if (directory != Py_None)
        files.chunks_dir = PyObject_AsFileDescriptor(directory);
    if (Py_TYPE(points)->tp_dealloc != points_dealloc)
        PyErr_SetString(PyExc_TypeError, "expected Points");
    else if (!PyErr_Occurred())
        self = (packed_object *)type->tp_alloc(type, 0);
    if (self) {
        self->directory = Py_NewRef(directory);
        self->shares = 1;
        self->packed = open_packed(&files, (points_object *)points, &digests, name);
        if (!self->packed)
            Py_CLEAR(self);
    }
    PyBuffer_Release(&digests);
    return (PyObject *)self;
}

static PyObject *packed_read(PyObject *op, PyObject *args) {
    unsigned long long offset;
    Py_ssize_t size;
    ssize_t n;
    if (!PyArg_ParseTuple(args, "Kn:read", &offset, &size))
        return NULL;
    if (size < 0)
        return PyErr_Format(PyExc_ValueError, "the size must not be negative");
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (!bytes)
        return NULL;
    img_packed *packed = ((packed_object *)op)->packed;
    Py_BEGIN_ALLOW_THREADS n =
        img_packed_read(packed, offset, PyBytes_AS_STRING(bytes), (size_t)size);
    Py_END_ALLOW_THREADS if (n < 0) {
        Py_DECREF(bytes);
        errno = (int)-n;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return bytes;
}

static PyObject *packed_close(PyObject *op, PyObject *ignored) {
    packed_object *self = (packed_object *)op;
    (void)ignored;
    if (self->shares == 0 || --self->shares > 0)
        Py_RETURN_NONE;
    Py_BEGIN_ALLOW_THREADS img_packed_close(self->packed);
    Py_END_ALLOW_THREADS Py_CLEAR(self->directory);
    Py_RETURN_NONE;
}

static PyObject *packed_share(PyObject *op, PyObject *ignored) {
    (void)ignored;
    ((packed_object *)op)->shares++;
    return Py_NewRef(op);
}

static PyObject *packed_note_used(PyObject *op, PyObject *arg) {
    unsigned long now = PyLong_AsUnsignedLong(arg);
    if (now == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    img_chunkfile *chunks = img_packed_chunks(((packed_object *)op)->packed);
    Py_BEGIN_ALLOW_THREADS img_chunkfile_note_used(chunks, (uint32_t)now);
    Py_END_ALLOW_THREADS Py_RETURN_NONE;
}

static PyObject *packed_log_to(PyObject *op, PyObject *arg) {
    int fd = (int)PyLong_AsLong(arg);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    img_packed_log_to(((packed_object *)op)->packed, fd);
    Py_RETURN_NONE;
}

static PyObject *packed_tell(PyObject *op, PyObject *arg) {
    int fd = (int)PyLong_AsLong(arg);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    img_packed_tell(((packed_object *)op)->packed, fd);
    Py_RETURN_NONE;
}

static PyObject *packed_counts(PyObject *op, PyObject *ignored) {
    img_packed *packed = ((packed_object *)op)->packed;
    img_packed_counts counts = img_packed_count(packed);
    const img_chunkfile *chunks = img_packed_chunks(packed);
    (void)ignored;
    return Py_BuildValue("{s:K,s:K,s:K,s:K}", "decoded", (unsigned long long)counts.decoded,
                         "loaded", (unsigned long long)counts.loaded, "wrong",
                         (unsigned long long)counts.wrong, "filled",
                         (unsigned long long)atomic_load(&chunks->filled));
}

static PyObject *packed_failed(PyObject *op, PyObject *ignored) {
    img_chunkfile *chunks = img_packed_chunks(((packed_object *)op)->packed);
    (void)ignored;
    return PyLong_FromLong(atomic_exchange(&chunks->failed, 0));
}

static PyObject *packed_size(PyObject *op, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLongLong(img_packed_size(((packed_object *)op)->packed));
}

static PyMethodDef packed_methods[] = {
    {"read", packed_read, METH_VARARGS, "read(offset, size): bytes of the tar."},
    {"share", packed_share, METH_NOARGS, "share(): itself, which takes one more close()."},
    {"close", packed_close, METH_NOARGS, "close(): closes the descriptors, at the last share."},
    {"note_used", packed_note_used, METH_O, "note_used(now): writes when chunks were read."},
    {"log_to", packed_log_to, METH_O, "log_to(fd): errors are lines there; -1: nowhere."},
    {"tell", packed_tell, METH_O, "tell(fd): an eventfd for each 64 MiB that are kept; -1: none."},
    {"failed", packed_failed, METH_NOARGS,
     "failed(): errno if the last chunk could not be kept, and nobody has asked since; else 0."},
    {"counts", packed_counts, METH_NOARGS, "What was decoded, kept, found wrong."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef packed_getset[] = {
    {"size", packed_size, NULL, "Bytes of the tar.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot packed_slots[] = {
    {Py_tp_doc, "The bytes of a compressed tar, read at any place (native/packed/packed.h)."},
    {Py_tp_new, packed_new},
    {Py_tp_dealloc, packed_dealloc},
    {Py_tp_methods, packed_methods},
    {Py_tp_getset, packed_getset},
    {0, NULL},
};

static PyType_Spec packed_spec = {
    .name = "fusemount._native.Packed",
    .basicsize = sizeof(packed_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = packed_slots,
};

/* ---- functions ---------------------------------------------------------------------------- */

static PyObject *punch_chunk(PyObject *module, PyObject *args) {
    int fd, result;
    unsigned long long n, chunk;
    (void)module;
    if (!PyArg_ParseTuple(args, "iKK:punch_chunk", &fd, &n, &chunk))
        return NULL;
    Py_BEGIN_ALLOW_THREADS result = img_chunk_punch(fd, n, chunk);
    Py_END_ALLOW_THREADS if (result < 0) {
        errno = -result;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyBool_FromLong(result);
}

static PyObject *stop_decoding_ahead(PyObject *module, PyObject *ignored) {
    (void)module;
    (void)ignored;
    Py_BEGIN_ALLOW_THREADS img_packed_stop_threads();
    Py_END_ALLOW_THREADS Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"punch_chunk", punch_chunk, METH_VARARGS,
     "punch_chunk(fd, n, chunk): removes one of n chunks; False: it is in use."},
    {"stop_decoding_ahead", stop_decoding_ahead, METH_NOARGS,
     "Ends the threads that decode ahead; they start again when they are needed."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec) {
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (type && PyModule_AddType(module, type) < 0)
        Py_CLEAR(type);
    return type;
}

int imgpy_packed_exec(PyObject *module) {
    imgpy_state *state = PyModule_GetState(module);
    PyType_Spec *rest[] = {&unpacker_spec, &points_spec, &packed_spec};
    state->begun = add_type(module, &begun_spec);
    if (!state->begun)
        return -1;
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) {
        PyTypeObject *type = add_type(module, rest[i]);
        if (!type)
            return -1;
        Py_DECREF(type);
    }
    if (PyModule_AddIntConstant(module, "CHUNK", (long)IMG_CHUNK_BYTES) < 0)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
