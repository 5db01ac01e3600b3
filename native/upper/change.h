/* change.h: changes of the running file system that one system call on the upper completes.
 *
 * Law: the upper first, then the tree; what fails in the upper has changed neither.  Either an
 * operation is done whole, or it is declined (IMG_DECLINED) before anything was changed: what needs
 * copy-up, ACL inheritance, opaque marks, redirects or stored owners takes more than one step, and
 * is rootfs/ in Python's.  Both doors of an operation (the fast path, and pyfuse3's handler through
 * fusemount._native) come here first, so there is one version of each rule.
 *
 * One step, and so safe at a crash: an object is made under its final name where the system makes
 * it with its final owner and mode; else it is made in the work directory and renamed.
 *
 * Every function takes the places and tree locks it needs; the caller holds change (upperdir.h),
 * save for img_write, img_allocate, img_copy_range and img_sync, which change no names and need
 * none. The caller has checked permissions (the kernel, default_permissions). Errors: negative
 * errno values of the upper's file system, or those named here.
 */
#ifndef IMG_CHANGE_H
#define IMG_CHANGE_H

#include "upper/caller.h"
#include "upper/upperdir.h"

#include <sys/types.h>

enum { IMG_DECLINED = 1 };

typedef struct img_maker {
    uint32_t uid, gid; /* of the caller */
    uint32_t umask;    /* applied unless the directory has a default ACL (then: declined) */
} img_maker;

typedef struct img_new {
    uint32_t mode; /* with its type */
    uint64_t rdev;
    const char *target; /* of a symlink */
    size_t target_len;
} img_new;

/* Makes an object and its node. -EEXIST, -ENOENT (the directory was removed), -EROFS,
 * -ENAMETOOLONG (over 255).
 * A set-gid directory hands down its group, and to directories the bit.
 * Declined: the directory is not in the upper or has a default ACL; a directory over a lower name;
 * an owner or mode that the upper cannot hold; a device that it cannot, or 0:0, which would be a
 * whiteout; set-id bits and devices that stand in marks (harmless.h). */
int img_make(img_upper *upper, img_id parent, const char *name, size_t len, const img_new *what,
             const img_maker *who, img_id *out);

/* A regular file without a name, as open(2) with O_TMPFILE makes it: an orphan from the start,
 * which img_link may give a name. The caller remembers it before anybody can forget it. An owner
 * that the upper cannot hold is -EOPNOTSUPP, for nobody else can make it. A default ACL is
 * inherited. */
int img_make_nameless(img_upper *upper, img_id parent, uint32_t mode, const img_maker *who,
                      img_id *out);

/* -ENOENT, -EISDIR, -EROFS. A name of the layers leaves a whiteout. A file that the kernel knows
 * (lookups) and that loses its last name moves to its orphan's place in the same step.
 * Declined: the directory is not in the upper. */
int img_unlink(img_upper *upper, img_id parent, const char *name, size_t len);

/* -ENOENT, -ENOTDIR, -ENOTEMPTY, -EROFS. Declined: a name of the layers, or whiteouts inside. */
int img_rmdir(img_upper *upper, img_id parent, const char *name, size_t len);

/* -EEXIST, -EPERM (a directory), -ENOENT (the directory was removed), -EROFS, -ENAMETOOLONG.
 * A file without a name (O_TMPFILE, or open and unlinked) gets one again.
 * Declined: either is not in the upper. */
int img_link(img_upper *upper, img_id id, img_id parent, const char *name, size_t len);

/* renameat2(2) with flags 0 or RENAME_NOREPLACE; -ENOENT, -EEXIST, -EISDIR, -ENOTDIR, -ENOTEMPTY,
 * -EROFS, -ENAMETOOLONG; onto a hardlink of itself it does nothing.
 * Declined: other flags; the source or a directory not in the upper; directories that merge with
 * a layer, that replace one, or that go over a lower name. */
int img_rename(img_upper *upper, img_id parent, const char *name, size_t len, img_id to,
               const char *new_name, size_t new_len, unsigned flags);

enum {
    IMG_SET_MODE = 1,
    IMG_SET_UID = 2,
    IMG_SET_GID = 4,
    IMG_SET_SIZE = 8,
    IMG_SET_ATIME = 16,
    IMG_SET_MTIME = 32,
    IMG_SET_ATIME_NOW = 64,
    IMG_SET_MTIME_NOW = 128,
    IMG_SET_CTIME = 256,    /* of a regular file, in the tree alone: no call sets an object's */
    IMG_KILL_SUIDGID = 512, /* FUSE_HANDLE_KILLPRIV_V2: set-id bits go as the kernel says */
    IMG_SAME_OWNER = 1024   /* chown(2) to the owner it has, if `caller` may */
};

typedef struct img_set {
    unsigned what;
    uint32_t mode, uid, gid; /* mode: the 07777 part */
    img_caller caller;       /* of chown and IMG_KILL_SUIDGID, IMG_SAME_OWNER; uid 0 may all */
    uint64_t size;
    int64_t atime_s, mtime_s, ctime_s;
    uint32_t atime_ns, mtime_ns, ctime_ns;
} img_set;

/* chmod, chown, truncate, utimens of a node in the upper. security.capability goes with chown and
 * truncate (unconditionally), set-id bits with chown, and with truncate when IMG_KILL_SUIDGID; they
 * go before the rest of the change, be they real or in marks (harmless.h).
 * What changes nothing (the same mtime on a file of the layers: the kernel sends that after unlink
 * and link) is done at once. A node without names and without object is set in the tree.
 * -EROFS, -EINVAL (size of what is no file). Declined: not in the upper; mode of what has an ACL;
 * mode or owner where owners cannot be given. */
int img_setattr(img_upper *upper, img_id id, const img_set *set);

/* setxattr(2) with flags XATTR_CREATE and XATTR_REPLACE, or with value NULL removexattr(2):
 * -EEXIST, -ENODATA, and what the upper says. An ACL changes the mode too, as the upper has it;
 * kill: it takes the set-gid bit (FUSE_SETXATTR_ACL_KILL_SGID). *raise: declined since the node's
 * object is not in the upper. Declined too: where owners cannot be given; a node that has no
 * object. */
int img_set_xattr(img_upper *upper, img_id id, const char *name, size_t len, const char *value,
                  size_t value_len, int flags, bool kill, bool *raise);

/* Whether other file systems have such names: xattr(7), "Extended attribute namespaces"; else the
 * answer is -EOPNOTSUPP. */
bool img_is_xattr_name(const char *name);

/* Writes all of data to a file of the upper, and tells the tree its new size and blocks.
 * cached: from the kernel's cache: it took away what the writer was to lose when he wrote, and what
 * was given to the file since stays; else security.capability goes. kill: whose write takes set-id
 * bits (img_caller_loses); NULL: nobody's. Returns size, or a negative errno, and then a
 * part may have been written: the kernel, which writes back its cache, takes no short count as word
 * of what was lost.
 * Declined (IMG_WRITE_DECLINED): not in the upper. */
#define IMG_WRITE_DECLINED ((ssize_t)-4096)
ssize_t img_write(img_upper *upper, img_id id, uint64_t offset, const void *data, size_t size,
                  bool cached, const img_caller *kill);
/* fallocate(2). IMG_DECLINED: not in the upper. kill: as above; the kernel does not ask for it
 * here, so it is on for all whose writes take them. */
int img_allocate(img_upper *upper, img_id id, int mode, uint64_t offset, uint64_t length,
                 const img_caller *kill);
/* copy_file_range(2) into a file of the upper, from one or from a layer's file. kill: as above.
 * IMG_WRITE_DECLINED: the target is not in the upper. */
ssize_t img_copy_range(img_upper *upper, img_id from, uint64_t from_offset, img_id to,
                       uint64_t to_offset, uint64_t length, const img_caller *kill);
/* fsync(2) or fdatasync(2) of a file or directory; 0 for what has nothing in the upper, and for all
 * of a volatile one. */
int img_sync(img_upper *upper, img_id id, bool data_only);

#endif
