/* py_time.c: times as Python has them, in nanoseconds since 1970. */
#include "py/py_time.h"

PyObject *imgpy_time_ns(int64_t seconds, uint32_t ns) {
    int64_t total;
    if (!__builtin_mul_overflow(seconds, INT64_C(1000000000), &total) &&
        !__builtin_add_overflow(total, (int64_t)ns, &total))
        return PyLong_FromLongLong(total);
    /* The sum does not fit into 64 bits (before 1678, after 2261), so Python adds. */
    PyObject *s = PyLong_FromLongLong(seconds), *unit = PyLong_FromLong(1000000000);
    PyObject *part = PyLong_FromUnsignedLong(ns), *whole = NULL, *sum = NULL;
    if (s && unit && part)
        whole = PyNumber_Multiply(s, unit);
    if (whole)
        sum = PyNumber_Add(whole, part);
    Py_XDECREF(s);
    Py_XDECREF(unit);
    Py_XDECREF(part);
    Py_XDECREF(whole);
    return sum;
}

/* For times that do not fit into 64 bits. */
static bool take_long_time(PyObject *ns, int64_t *seconds, uint32_t *rest) {
    PyObject *second = PyLong_FromLong(1000000000);
    PyObject *pair = second ? PyNumber_Divmod(ns, second) : NULL;
    Py_XDECREF(second);
    if (!pair)
        return false;
    *seconds = PyLong_AsLongLong(PyTuple_GET_ITEM(pair, 0));
    *rest = (uint32_t)PyLong_AsUnsignedLongMask(PyTuple_GET_ITEM(pair, 1));
    Py_DECREF(pair);
    return !PyErr_Occurred();
}

bool imgpy_take_time(PyObject *ns, int64_t *seconds, uint32_t *rest) {
    int beyond; /* it does not fit into 64 bits: before 1678, after 2261 */
    long long value = PyLong_AsLongLongAndOverflow(ns, &beyond);
    if (value == -1 && PyErr_Occurred())
        return false;
    if (beyond)
        return take_long_time(ns, seconds, rest);
    long long part = value % 1000000000;
    *seconds = value / 1000000000 - (part < 0);
    *rest = (uint32_t)(part < 0 ? part + 1000000000 : part);
    return true;
}
