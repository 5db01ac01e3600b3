/* py_module.c: the module fusemount._native, made of the parts in the other py_*.c. */
#include "py/py_native.h"

static int native_traverse(PyObject *module, visitproc visit, void *arg) {
    imgpy_state *state = PyModule_GetState(module);
    Py_VISIT(state->layer_index);
    Py_VISIT(state->scanner);
    Py_VISIT(state->member);
    Py_VISIT(state->attr);
    Py_VISIT(state->begun);
    Py_VISIT(state->format_error);
    return 0;
}

static int native_clear(PyObject *module) {
    imgpy_state *state = PyModule_GetState(module);
    Py_CLEAR(state->layer_index);
    Py_CLEAR(state->scanner);
    Py_CLEAR(state->member);
    Py_CLEAR(state->attr);
    Py_CLEAR(state->begun);
    Py_CLEAR(state->format_error);
    return 0;
}

static void native_free(void *module) {
    (void)native_clear(module);
}

static PyModuleDef_Slot native_slots[] = {
    {Py_mod_exec, imgpy_index_exec},   {Py_mod_exec, imgpy_tree_exec},
    {Py_mod_exec, imgpy_upper_exec},   {Py_mod_exec, imgpy_linux_exec},
    {Py_mod_exec, imgpy_stats_exec},   {Py_mod_exec, imgpy_fastpath_exec},
    {Py_mod_exec, imgpy_dirscan_exec}, {Py_mod_exec, imgpy_beneath_exec},
    {Py_mod_exec, imgpy_packed_exec},  {0, NULL},
};

static struct PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fusemount._native",
    .m_doc = "The C core: tar scanning, the tree, and system calls; see _native.pyi.",
    .m_size = sizeof(imgpy_state),
    .m_slots = native_slots,
    .m_traverse = native_traverse,
    .m_clear = native_clear,
    .m_free = native_free,
};

PyMODINIT_FUNC PyInit__native(void);

PyMODINIT_FUNC PyInit__native(void) {
    return PyModuleDef_Init(&native_module);
}
