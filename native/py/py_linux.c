/* py_linux.c: Linux system calls that CPython 3.11 does not offer, and the functions of caller.h.
 *
 * Each function for a system call makes only this call (clone_mount: two).  It releases the GIL if
 * the call may wait.  Paths are str, bytes or path-like. Errors are OSError with the errno and, if
 * there is one, the path.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "base/clonemount.h"
#include "py/py_native.h"
#include "upper/caller.h"
#include "upper/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

/* None if result is 0, else OSError from errno. */
static PyObject *done(long result, PyObject *path) {
    if (result == 0)
        Py_RETURN_NONE;
    if (path)
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    return PyErr_SetFromErrno(PyExc_OSError);
}

PyDoc_STRVAR(mount_doc, "mount(source, target, fstype, flags, data, /)\n--\n\n"
                        "mount(2). fstype and data are text; data may be empty.");

static PyObject *linux_mount(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *source = NULL, *target = NULL, *result = NULL;
    const char *fstype, *data;
    unsigned long flags;
    int failed, saved;

    if (!PyArg_ParseTuple(args, "O&O&sks:mount", PyUnicode_FSConverter, &source,
                          PyUnicode_FSConverter, &target, &fstype, &flags, &data))
        goto out;
    Py_BEGIN_ALLOW_THREADS;
    failed = mount(PyBytes_AS_STRING(source), PyBytes_AS_STRING(target), *fstype ? fstype : NULL,
                   flags, *data ? data : NULL);
    saved = errno;
    Py_END_ALLOW_THREADS;
    errno = saved;
    result = done(failed, PyTuple_GET_ITEM(args, 1));
out:
    Py_XDECREF(source);
    Py_XDECREF(target);
    return result;
}

/* From linux/mount.h (struct mount_attr, MOUNT_ATTR_RDONLY) and linux/fcntl.h (AT_RECURSIVE), since
 * Linux 5.12. glibc has them since 2.36, in a sys/mount.h that conflicts with linux/mount.h. */
struct mount_attr_v0 {
    uint64_t attr_set;
    uint64_t attr_clr;
    uint64_t propagation;
    uint64_t userns_fd;
};
_Static_assert(sizeof(struct mount_attr_v0) == 32, "MOUNT_ATTR_SIZE_VER0");
enum { ATTR_RDONLY = 0x1, RECURSIVE = 0x8000, SYSCALL_MOUNT_SETATTR = 442 };

PyDoc_STRVAR(mount_setattr_doc, "mount_setattr(target, flags, attr_set, /)\n--\n\n"
                                "mount_setattr(2): adds attributes (MOUNT_ATTR_*) to a mount, with "
                                "AT_RECURSIVE to all mounts below it too.");

static PyObject *linux_mount_setattr(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *target = NULL, *result;
    unsigned int flags;
    unsigned long long set;
    long failed;
    int saved;

    if (!PyArg_ParseTuple(args, "O&IK:mount_setattr", PyUnicode_FSConverter, &target, &flags, &set))
        return NULL;
    struct mount_attr_v0 attr = {.attr_set = set};
    Py_BEGIN_ALLOW_THREADS;
    failed = syscall(SYSCALL_MOUNT_SETATTR, AT_FDCWD, PyBytes_AS_STRING(target), flags, &attr,
                     sizeof attr);
    saved = errno;
    Py_END_ALLOW_THREADS;
    errno = saved;
    result = done(failed, PyTuple_GET_ITEM(args, 0));
    Py_DECREF(target);
    return result;
}

PyDoc_STRVAR(umount2_doc, "umount2(target, flags, /)\n--\n\numount2(2).");

static PyObject *linux_umount2(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *target = NULL, *result;
    int flags, failed, saved;

    if (!PyArg_ParseTuple(args, "O&i:umount2", PyUnicode_FSConverter, &target, &flags))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    failed = umount2(PyBytes_AS_STRING(target), flags);
    saved = errno;
    Py_END_ALLOW_THREADS;
    errno = saved;
    result = done(failed, PyTuple_GET_ITEM(args, 0));
    Py_DECREF(target);
    return result;
}

PyDoc_STRVAR(mount_of_doc,
             "mount_of(fd, /)\n--\n\n"
             "(major, minor, unique mount ID) of the object of a descriptor (O_PATH too), without "
             "asking the file system; the ID is 0 before Linux 6.8, and if another user's FUSE "
             "mount denies access.");

static PyObject *linux_mount_of(PyObject *Py_UNUSED(module), PyObject *args) {
    /* linux/stat.h since 6.8: an ID that no other mount gets while the system runs */
    const unsigned int mnt_id_unique = 0x4000;
    struct statx st;
    const int flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC;
    int fd;

    if (!PyArg_ParseTuple(args, "i:mount_of", &fd))
        return NULL;
    if (statx(fd, "", flags, mnt_id_unique, &st) < 0 &&
        (errno != EACCES || statx(fd, "", flags, 0, &st) < 0))
        return PyErr_SetFromErrno(PyExc_OSError);
    unsigned long long id = st.stx_mask & mnt_id_unique ? st.stx_mnt_id : 0;
    return Py_BuildValue("IIK", st.stx_dev_major, st.stx_dev_minor, id);
}

PyDoc_STRVAR(born_doc,
             "born(fd, name, /)\n--\n\n"
             "A hash of the time of birth of a name in a directory, which is not "
             "followed, or of fd itself (b\"\"); 0: not known (native/upper/identity.h).");

static PyObject *linux_born(PyObject *Py_UNUSED(module), PyObject *args) {
    img_identity identity;
    const char *name;
    int fd, result;

    if (!PyArg_ParseTuple(args, "iy:born", &fd, &name))
        return NULL;
    result = img_identity_of(fd, name, &identity);
    if (result == 0)
        return PyLong_FromUnsignedLong(identity.born);
    errno = -result;
    return PyErr_SetFromErrno(PyExc_OSError);
}

PyDoc_STRVAR(clone_mount_doc, "clone_mount(fd, /)\n--\n\n"
                              "An O_PATH descriptor of the same directory in a mount of its own, "
                              "on which nothing is mounted (native/base/clonemount.h).");

static PyObject *linux_clone_mount(PyObject *Py_UNUSED(module), PyObject *args) {
    int fd, made;

    if (!PyArg_ParseTuple(args, "i:clone_mount", &fd))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    made = img_clone_mount(fd, "", false);
    Py_END_ALLOW_THREADS;
    if (made >= 0)
        return PyLong_FromLong(made);
    errno = -made;
    return PyErr_SetFromErrno(PyExc_OSError);
}

PyDoc_STRVAR(pivot_root_doc, "pivot_root(new_root, put_old, /)\n--\n\npivot_root(2).");

static PyObject *linux_pivot_root(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *new_root = NULL, *put_old = NULL, *result = NULL;
    long failed;
    int saved;

    if (!PyArg_ParseTuple(args, "O&O&:pivot_root", PyUnicode_FSConverter, &new_root,
                          PyUnicode_FSConverter, &put_old))
        goto out;
    Py_BEGIN_ALLOW_THREADS;
    failed = syscall(SYS_pivot_root, PyBytes_AS_STRING(new_root), PyBytes_AS_STRING(put_old));
    saved = errno;
    Py_END_ALLOW_THREADS;
    errno = saved;
    result = done(failed, PyTuple_GET_ITEM(args, 0));
out:
    Py_XDECREF(new_root);
    Py_XDECREF(put_old);
    return result;
}

PyDoc_STRVAR(unshare_doc, "unshare(flags, /)\n--\n\nunshare(2).");

/* Makes a system call that takes one int. */
static PyObject *with_int(PyObject *args, const char *format, int (*call)(int)) {
    int value, failed, saved;

    if (!PyArg_ParseTuple(args, format, &value))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    failed = call(value);
    saved = errno;
    Py_END_ALLOW_THREADS;
    errno = saved;
    return done(failed, NULL);
}

static PyObject *linux_unshare(PyObject *Py_UNUSED(module), PyObject *args) {
    return with_int(args, "i:unshare", unshare);
}

PyDoc_STRVAR(setns_doc, "setns(fd, nstype, /)\n--\n\nsetns(2).");

static PyObject *linux_setns(PyObject *Py_UNUSED(module), PyObject *args) {
    int fd, nstype, failed, saved;

    if (!PyArg_ParseTuple(args, "ii:setns", &fd, &nstype))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    failed = setns(fd, nstype);
    saved = errno;
    Py_END_ALLOW_THREADS;
    errno = saved;
    return done(failed, NULL);
}

PyDoc_STRVAR(fallocate_doc, "fallocate(fd, mode, offset, length, /)\n--\n\nfallocate(2).");

static PyObject *linux_fallocate(PyObject *Py_UNUSED(module), PyObject *args) {
    int fd, mode, failed, saved;
    long long offset, length;

    if (!PyArg_ParseTuple(args, "iiLL:fallocate", &fd, &mode, &offset, &length))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    failed = fallocate(fd, mode, offset, length);
    saved = errno;
    Py_END_ALLOW_THREADS;
    errno = saved;
    return done(failed, NULL);
}

PyDoc_STRVAR(syncfs_doc, "syncfs(fd, /)\n--\n\nsyncfs(2): the file system that holds fd.");

static PyObject *linux_syncfs(PyObject *Py_UNUSED(module), PyObject *args) {
    return with_int(args, "i:syncfs", syncfs);
}

PyDoc_STRVAR(pdeathsig_doc, "set_pdeathsig(signal, /)\n--\n\n"
                            "prctl(PR_SET_PDEATHSIG): the signal that this process gets when the "
                            "thread that forked it ends; 0: none.");

static PyObject *linux_set_pdeathsig(PyObject *Py_UNUSED(module), PyObject *args) {
    int number;

    if (!PyArg_ParseTuple(args, "i:set_pdeathsig", &number))
        return NULL;
    return done(prctl(PR_SET_PDEATHSIG, (unsigned long)number, 0UL, 0UL, 0UL), NULL);
}

PyDoc_STRVAR(dumpable_doc, "set_dumpable(on, /)\n--\n\n"
                           "prctl(PR_SET_DUMPABLE): whether processes of the same user, without "
                           "CAP_SYS_PTRACE, may trace this one or follow its links in /proc; "
                           "execve(2) sets it.");

static PyObject *linux_set_dumpable(PyObject *Py_UNUSED(module), PyObject *args) {
    int on;

    if (!PyArg_ParseTuple(args, "p:set_dumpable", &on))
        return NULL;
    return done(prctl(PR_SET_DUMPABLE, (unsigned long)on, 0UL, 0UL, 0UL), NULL);
}

PyDoc_STRVAR(close_from_doc, "close_from(first, /)\n--\n\n"
                             "close_range(2) of all descriptors from first on; ENOSYS before "
                             "Linux 5.9.");

static PyObject *linux_close_from(PyObject *Py_UNUSED(module), PyObject *args) {
    enum { SYSCALL_CLOSE_RANGE = 436 }; /* one number on all machines */
    unsigned int first;

    if (!PyArg_ParseTuple(args, "I:close_from", &first))
        return NULL;
    return done(syscall(SYSCALL_CLOSE_RANGE, first, ~0U, 0U), NULL);
}

PyDoc_STRVAR(fs_type_doc,
             "fs_type(fd, /)\n--\n\n"
             "f_type of fstatfs(2): the magic number of the file system (linux/magic.h).");

static PyObject *linux_fs_type(PyObject *Py_UNUSED(module), PyObject *args) {
    struct statfs st;
    int fd;

    if (!PyArg_ParseTuple(args, "i:fs_type", &fd))
        return NULL;
    if (fstatfs(fd, &st) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLongLong((long long)st.f_type);
}

PyDoc_STRVAR(caller_loses_doc, "caller_loses(caller, mode, gid, /)\n--\n\n"
                               "The set-id bits that a change by (uid, gid, pid) takes from a file "
                               "of that mode and group (native/upper/caller.h).");

static PyObject *linux_caller_loses(PyObject *Py_UNUSED(module), PyObject *args) {
    img_caller caller;
    unsigned int mode, gid;

    if (!PyArg_ParseTuple(args, "(III)II:caller_loses", &caller.uid, &caller.gid, &caller.pid,
                          &mode, &gid))
        return NULL;
    return PyLong_FromUnsignedLong(img_caller_loses(&caller, mode, gid));
}

PyDoc_STRVAR(caller_keeps_doc, "caller_keeps_set_id(uid, /)\n--\n\n"
                               "Whether that user's writes keep set-id bits.");

static PyObject *linux_caller_keeps(PyObject *Py_UNUSED(module), PyObject *args) {
    img_caller caller = {0};

    if (!PyArg_ParseTuple(args, "I:caller_keeps_set_id", &caller.uid))
        return NULL;
    return PyBool_FromLong(img_caller_keeps_set_id(&caller));
}

static PyMethodDef linux_functions[] = {
    {"fs_type", linux_fs_type, METH_VARARGS, fs_type_doc},
    {"mount", linux_mount, METH_VARARGS, mount_doc},
    {"mount_setattr", linux_mount_setattr, METH_VARARGS, mount_setattr_doc},
    {"born", linux_born, METH_VARARGS, born_doc},
    {"mount_of", linux_mount_of, METH_VARARGS, mount_of_doc},
    {"clone_mount", linux_clone_mount, METH_VARARGS, clone_mount_doc},
    {"umount2", linux_umount2, METH_VARARGS, umount2_doc},
    {"pivot_root", linux_pivot_root, METH_VARARGS, pivot_root_doc},
    {"unshare", linux_unshare, METH_VARARGS, unshare_doc},
    {"setns", linux_setns, METH_VARARGS, setns_doc},
    {"syncfs", linux_syncfs, METH_VARARGS, syncfs_doc},
    {"caller_keeps_set_id", linux_caller_keeps, METH_VARARGS, caller_keeps_doc},
    {"caller_loses", linux_caller_loses, METH_VARARGS, caller_loses_doc},
    {"fallocate", linux_fallocate, METH_VARARGS, fallocate_doc},
    {"set_pdeathsig", linux_set_pdeathsig, METH_VARARGS, pdeathsig_doc},
    {"set_dumpable", linux_set_dumpable, METH_VARARGS, dumpable_doc},
    {"close_from", linux_close_from, METH_VARARGS, close_from_doc},
    {NULL, NULL, 0, NULL},
};

static const struct {
    const char *name;
    long value;
} linux_constants[] = {
    {"MS_RDONLY", (long)MS_RDONLY},
    {"MS_NOSUID", (long)MS_NOSUID},
    {"MS_NODEV", (long)MS_NODEV},
    {"MS_NOEXEC", (long)MS_NOEXEC},
    {"MS_SYNCHRONOUS", (long)MS_SYNCHRONOUS},
    {"MS_DIRSYNC", (long)MS_DIRSYNC},
    {"MS_NOATIME", (long)MS_NOATIME},
    {"MS_NODIRATIME", (long)MS_NODIRATIME},
    {"MS_RELATIME", (long)MS_RELATIME},
    {"MS_STRICTATIME", (long)MS_STRICTATIME},
    {"MS_BIND", (long)MS_BIND},
    {"MS_REC", (long)MS_REC},
    {"MS_PRIVATE", (long)MS_PRIVATE},
    {"MS_SLAVE", (long)MS_SLAVE},
    {"MS_REMOUNT", (long)MS_REMOUNT},
    {"MOUNT_ATTR_RDONLY", ATTR_RDONLY},
    {"AT_RECURSIVE", RECURSIVE},
    {"MNT_DETACH", (long)MNT_DETACH},
    {"MNT_FORCE", (long)MNT_FORCE},
    {"UMOUNT_NOFOLLOW", (long)UMOUNT_NOFOLLOW},
    {"CLONE_NEWNS", (long)CLONE_NEWNS},
    {"CLONE_NEWPID", (long)CLONE_NEWPID},
    {"CLONE_NEWUSER", (long)CLONE_NEWUSER},
    {"CLONE_NEWUTS", (long)CLONE_NEWUTS},
    {"CLONE_NEWIPC", (long)CLONE_NEWIPC},
};

int imgpy_linux_exec(PyObject *module) {
    for (size_t i = 0; i < sizeof linux_constants / sizeof *linux_constants; i++)
        if (PyModule_AddIntConstant(module, linux_constants[i].name, linux_constants[i].value) < 0)
            return -1;
    return PyModule_AddFunctions(module, linux_functions);
}
