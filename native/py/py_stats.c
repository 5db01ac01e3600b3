/* py_stats.c: the Python type Stats: counters of requests (stats.h).
 *
 * Threads add to the counters without the GIL or another lock.  A snapshot consists of dicts, lists
 * and ints, so it can be written as JSON.
 */
#include "py/py_stats.h"

typedef struct {
    PyObject_HEAD img_stats *stats;
} StatsObject;

static PyObject *stats_type_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *keywords[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Stats", keywords))
        return NULL;
    StatsObject *self = (StatsObject *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->stats = img_stats_new();
    if (!self->stats) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void stats_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    img_stats_free(((StatsObject *)self)->stats);
    type->tp_free(self);
    Py_DECREF(type);
}

img_stats *imgpy_stats_get(PyObject *obj) {
    /* Only this type has this deallocator, because no type can inherit from it. */
    if (Py_TYPE(obj)->tp_dealloc == stats_dealloc)
        return ((StatsObject *)obj)->stats;
    PyErr_Format(PyExc_TypeError, "expected a Stats, not %.100s", Py_TYPE(obj)->tp_name);
    return NULL;
}

static PyObject *stats_add(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "add(opcode, door, ns, failed, bytes)");
        return NULL;
    }
    unsigned long opcode = PyLong_AsUnsignedLong(args[0]);
    if (PyErr_Occurred())
        return NULL;
    unsigned long door = PyLong_AsUnsignedLong(args[1]);
    if (PyErr_Occurred())
        return NULL;
    if (opcode > UINT32_MAX || door >= IMG_DOORS) {
        PyErr_SetString(PyExc_ValueError, "no such opcode or door");
        return NULL;
    }
    unsigned long long ns = PyLong_AsUnsignedLongLong(args[2]);
    if (PyErr_Occurred())
        return NULL;
    int failed = PyObject_IsTrue(args[3]);
    if (failed < 0)
        return NULL;
    unsigned long long bytes = PyLong_AsUnsignedLongLong(args[4]);
    if (PyErr_Occurred())
        return NULL;
    img_stats_add(((StatsObject *)self)->stats, (unsigned)door, (uint32_t)opcode, ns, failed != 0,
                  bytes);
    Py_RETURN_NONE;
}

static PyObject *stats_now(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(args)) {
    return PyLong_FromUnsignedLongLong(img_stats_now());
}

static PyObject *stats_percentile(PyObject *Py_UNUSED(self), PyObject *args) {
    img_op_stats op = {0};
    PyObject *buckets;
    double p;
    if (!PyArg_ParseTuple(args, "O!d:percentile", &PyList_Type, &buckets, &p))
        return NULL;
    if (PyList_GET_SIZE(buckets) != IMG_STATS_BUCKETS) {
        PyErr_Format(PyExc_ValueError, "expected %d buckets", IMG_STATS_BUCKETS);
        return NULL;
    }
    for (Py_ssize_t b = 0; b < IMG_STATS_BUCKETS; b++) {
        op.buckets[b] = PyLong_AsUnsignedLongLong(PyList_GET_ITEM(buckets, b));
        if (PyErr_Occurred())
            return NULL;
    }
    return PyLong_FromUnsignedLongLong(img_stats_percentile(&op, p));
}

static uint64_t load(const uint64_t *counter) {
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* Puts value into dict and gives up the reference. -1 with an exception set, also for NULL. */
static int put(PyObject *dict, const char *key, PyObject *value) {
    int result = value ? PyDict_SetItemString(dict, key, value) : -1;
    Py_XDECREF(value);
    return result;
}

static int put_number(PyObject *dict, const char *key, uint64_t value) {
    return put(dict, key, PyLong_FromUnsignedLongLong(value));
}

static PyObject *bucket_list(const img_op_stats *op) {
    PyObject *list = PyList_New(IMG_STATS_BUCKETS);
    for (Py_ssize_t b = 0; list && b < IMG_STATS_BUCKETS; b++) {
        PyObject *number = PyLong_FromUnsignedLongLong(op->buckets[b]);
        if (number)
            PyList_SET_ITEM(list, b, number);
        else
            Py_CLEAR(list);
    }
    return list;
}

/* op: a copy, to which no thread adds. "count" is the sum of the buckets, so that the two agree. */
static PyObject *described(const img_op_stats *op) {
    uint64_t count = 0;
    for (unsigned b = 0; b < IMG_STATS_BUCKETS; b++)
        count += op->buckets[b];
    PyObject *dict = PyDict_New();
    if (!dict)
        return NULL;
    if (put_number(dict, "count", count) < 0 || put_number(dict, "errors", op->errors) < 0 ||
        put_number(dict, "bytes", op->bytes) < 0 || put_number(dict, "total_ns", op->ns) < 0 ||
        put_number(dict, "mean_ns", count ? op->ns / count : 0) < 0 ||
        put_number(dict, "p50_ns", img_stats_percentile(op, 0.50)) < 0 ||
        put_number(dict, "p90_ns", img_stats_percentile(op, 0.90)) < 0 ||
        put_number(dict, "p99_ns", img_stats_percentile(op, 0.99)) < 0 ||
        put_number(dict, "max_ns", img_stats_percentile(op, 1.0)) < 0 ||
        put(dict, "buckets", bucket_list(op)) < 0)
        Py_CLEAR(dict);
    return dict;
}

/* Copies counters to which other threads may be adding. False when there is no request in them. */
static bool copied(const img_op_stats *op, img_op_stats *copy) {
    uint64_t any = 0;
    for (unsigned b = 0; b < IMG_STATS_BUCKETS; b++)
        any |= copy->buckets[b] = load(&op->buckets[b]);
    copy->count = load(&op->count);
    copy->errors = load(&op->errors);
    copy->ns = load(&op->ns);
    copy->bytes = load(&op->bytes);
    return any != 0;
}

/* {"native": {...}, "python": {...}}; a door is left out if no request came through it. */
static PyObject *doors_of(const img_stats *stats, unsigned opcode) {
    static const char *const doors[IMG_DOORS] = {"native", "python"};
    PyObject *dict = PyDict_New();
    for (unsigned door = 0; dict && door < IMG_DOORS; door++) {
        img_op_stats copy;
        if (copied(&stats->ops[door][opcode], &copy) &&
            put(dict, doors[door], described(&copy)) < 0)
            Py_CLEAR(dict);
    }
    return dict;
}

static PyObject *ops_of(const img_stats *stats) {
    PyObject *ops = PyDict_New();
    for (unsigned opcode = 0; ops && opcode < IMG_STATS_OPCODES; opcode++) {
        const char *name = img_opcode_name(opcode);
        PyObject *doors = doors_of(stats, opcode);
        if (!doors || (PyDict_GET_SIZE(doors) &&
                       PyDict_SetItemString(ops, name ? name : "UNKNOWN", doors) < 0))
            Py_CLEAR(ops);
        Py_XDECREF(doors);
    }
    return ops;
}

static PyObject *stats_snapshot(PyObject *self, PyObject *Py_UNUSED(args)) {
    const img_stats *stats = ((StatsObject *)self)->stats;
    const struct {
        const char *name;
        const uint64_t *counter;
    } counters[] = {
        {"copy_up_waits", &stats->copy_up_waits},
        {"pushed_files", &stats->pushed_files},
        {"pushed_bytes", &stats->pushed_bytes},
        {"push_misses", &stats->push_misses},
        {"wakeups", &stats->wakeups},
        {"spins", &stats->spins},
        {"malformed", &stats->malformed},
    };
    PyObject *dict = PyDict_New();
    if (!dict || put(dict, "ops", ops_of(stats)) < 0)
        goto failed;
    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++)
        if (put_number(dict, counters[i].name, load(counters[i].counter)) < 0)
            goto failed;
    return dict;
failed:
    Py_XDECREF(dict);
    return NULL;
}

static PyMethodDef stats_methods[] = {
    {"add", (PyCFunction)(void (*)(void))stats_add, METH_FASTCALL,
     "add(opcode, door, ns, failed, bytes, /)\n--\n\nCounts one request."},
    {"now", stats_now, METH_NOARGS | METH_STATIC,
     "now()\n--\n\nns of CLOCK_MONOTONIC; the ns given to add() are a difference of two."},
    {"percentile", stats_percentile, METH_VARARGS | METH_STATIC,
     "percentile(buckets, p, /)\n--\n\nns that the fraction p of the requests did not exceed. "
     "buckets "
     "may be the difference of two snapshots."},
    {"snapshot", stats_snapshot, METH_NOARGS,
     "snapshot()\n--\n\nAll counters; _native.pyi describes the form."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot stats_slots[] = {
    {Py_tp_doc, "Counters of requests, by operation and door (native/base/stats.h)."},
    {Py_tp_new, stats_type_new},
    {Py_tp_dealloc, stats_dealloc},
    {Py_tp_methods, stats_methods},
    {0, NULL},
};

static PyType_Spec stats_spec = {
    .name = "fusemount._native.Stats",
    .basicsize = sizeof(StatsObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = stats_slots,
};

int imgpy_stats_exec(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &stats_spec, NULL);
    if (!type)
        return -1;
    int result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    if (result < 0 || PyModule_AddIntConstant(module, "DOOR_NATIVE", IMG_DOOR_NATIVE) < 0)
        return -1;
    return PyModule_AddIntConstant(module, "DOOR_PYTHON", IMG_DOOR_PYTHON);
}
