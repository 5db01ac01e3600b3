/* upperdir.h: the objects of the upper directory by node: their paths, descriptors and locks.
 *
 * Law: this module finds, for a node of the tree, the file system object that holds its changes,
 * and does nothing else.  The operations on objects are in change.h.
 *
 * Paths.  A node's object has the same path in the upper as the node has in the tree.  A file that
 * has lost its last name is in the work directory as "orphan-<nodeid>" until the kernel forgets it
 * (img_forget).  Each file that the kernel knows may be open, because the kernel sends no OPEN.
 *
 * A user who can write to a directory of the upper can replace an object at any time: by a symlink,
 * a hardlink of another file, a fifo.  So paths are resolved by beneath.h, and an opened object
 * must be the one that the tree has (img_node.object, img_node.born); else the answer is -EIO.
 *
 * Descriptors are kept by upperfds.h.  Regular files are open O_RDWR (O_RDONLY when the mount is
 * read-only, or when their file system has become read-only: img_upper_pin_to_write), directories
 * O_RDONLY | O_DIRECTORY; all with O_NOFOLLOW | O_CLOEXEC, and O_NOATIME if that is permitted.  A
 * descriptor is closed when its node is freed; the tree calls back when it frees one.
 *
 * Locks.  They are taken in this order only:
 *     1. change   one change of the upper and the tree at a time.  Python holds it for all steps of
 *                 an operation (large data are copied before, without it).  So a thread that
 *                 must not wait asks for the lock with a time limit.  If the thread does not get
 *                 the lock, it sends the request to Python.
 *     2. places   a read-write lock.  Held for writing during the system call that removes or moves
 *                 a name and the change of the tree that goes with it; for reading while a path is
 *                 turned into a descriptor.  Never held while data are read or written.
 *     3. the tree's lock.  No system call is made under it.
 *     4. the lock of the descriptors (upperfds.h).
 * All functions may be called from any thread.  Errors: negative errno values.
 */
#ifndef IMG_UPPERDIR_H
#define IMG_UPPERDIR_H

#include "base/upperfds.h"
#include "tree/tree.h"
#include "upper/identity.h"

#include <sys/stat.h>

typedef struct img_upper_options {
    int upper_fd, work_fd; /* borrowed; work_fd -1: the upper is only read */
    bool read_only;
    bool no_sync;     /* volatile: fsync does nothing */
    bool owners;      /* chown works (prefix trusted.overlay.); else owners are stored in marks */
    bool inodes_last; /* an object of the upper's file system keeps its st_ino while it exists */
    bool harmless_files, harmless_devices; /* harmless.h */
    unsigned max_fds;                      /* descriptors kept, at most */
} img_upper_options;

/* An object that has more directories above it cannot be opened in the upper, and so not changed
 * (-ENAMETOOLONG): its path is walked under locks that everybody shares, and with mkdir(2) and
 * rename(2) any user can make it as long as he likes. */
#define IMG_UPPER_DEPTH_MAX 4096u
/* R. True if nothing in a directory that is in this one could be opened. */
bool img_upper_is_deepest(const img_tree *tree, img_id dir);

/* Public for the files of this room that change the upper (change.h). */
typedef struct img_upper {
    img_tree *tree;
    img_upper_options options;
    pthread_mutex_t change;
    pthread_rwlock_t places;
    pthread_mutex_t times[16]; /* by nodeid: img_times_lock */
    img_fds *fds;
    uint64_t freed;     /* W of the tree: upper nodes freed so far */
    uint64_t serial;    /* change: names in the work directory, "c<serial>" */
    uint32_t releasing; /* atomic: threads in img_forget that remove a file */
    uint64_t orphaned;  /* atomic: when a file became an orphan, CLOCK_MONOTONIC ns */
    uint64_t rested;    /* atomic: until when a thread that rests awaits no release */
    bool awaited;       /* atomic: a thread awaits a release */
    bool reserved;      /* change: the fast path leaves all changes to Python */
    uint32_t uid, gid;  /* owner of the objects that this process makes */
} img_upper;

/* tree must outlive it. NULL when memory is short. */
img_upper *img_upper_new(img_tree *tree, const img_upper_options *options);
void img_upper_free(img_upper *upper);

/* Takes the lock `change`. */
void img_upper_lock(img_upper *upper);
/* Takes the lock `change`; false when it is not free within that time. */
bool img_upper_trylock(img_upper *upper, unsigned milliseconds);
void img_upper_unlock(img_upper *upper);

/* Take and release `places` for writing. `change` must be held, and img_upper_pin must not be
 * called in between. */
void img_upper_moving(img_upper *upper);
void img_upper_moved(img_upper *upper);

/* The descriptor of a node's object (IMG_NODE_UPPER), which stays open until it is unpinned.
 * -ESTALE: no such node, or it has no object in the upper; -EINVAL: neither file nor directory;
 * -EIO: another object is at its path; -EMFILE: no descriptor is left, because all are pinned. */
int img_upper_pin(img_upper *upper, img_id id);
/* The same for a file that will be written to; -EROFS when it can only be read. */
int img_upper_pin_to_write(img_upper *upper, img_id id);
void img_upper_unpin(img_upper *upper, img_id id);
/* Keeps fd, which is of a file that was just made, as the node's descriptor; closes it when there
 * is no room. */
void img_upper_keep(img_upper *upper, img_id id, int fd);
/* Closes the node's descriptor, at once or when it is unpinned for the last time. */
void img_upper_drop(img_upper *upper, img_id id);

/* Finds directory and name of the object of a node of any type (also of symlinks and devices), for
 * system calls that take both. They are valid while `change` is held. *pinned: the directory's
 * node, to be unpinned (0: none). name must have 256 bytes. */
int img_upper_locate(img_upper *upper, img_id id, int *dir_fd, char *name, img_id *pinned);

/* An O_PATH descriptor of the object of a node of any type, which the caller closes; -EIO when
 * another object is at its path. `change` must be held. For system calls that take no such
 * descriptor there is img_fd_path. */
int img_upper_object(img_upper *upper, img_id id);
/* The same, or the kept descriptor if there is one, which is pinned (*pinned; else 0). Ended by
 * img_upper_let_go. */
int img_upper_hold(img_upper *upper, img_id id, img_id *pinned);
void img_upper_let_go(img_upper *upper, int fd, img_id pinned);
/* R. Whether an object that was seen is the node's. */
bool img_upper_is(const img_upper *upper, const img_node *node, const img_identity *seen);
/* R. What img_upper_is compares with. */
img_identity img_upper_identity(const img_node *node);
/* The same comparison, without the node. */
bool img_upper_same(const img_upper *upper, img_identity is, const img_identity *seen);

/* The name of the node's orphan in the work directory; out must have IMG_ORPHAN_BYTES. */
#define IMG_ORPHAN_BYTES 20
void img_upper_orphan(img_id id, char *out);

/* Call it after an operation has found the upper full; true: try the operation once more.  The
 * space of an unlinked file is freed only when the kernel has sent a FORGET.  This function waits a
 * short while for FORGETs, and until those that have come are done.
 *
 * The threads that call it serve everybody, and "full" may be one object of one user: an xattr that
 * has no room is ENOSPC too.  So it waits only if a file was unlinked lately, and one thread at a
 * time waits.  A thread without which nothing of its kind is served rests: after it has waited, it
 * does not wait again for some time. */
bool img_upper_await_release(img_upper *upper, bool rests);
/* To call when a file becomes an orphan. */
void img_upper_note_orphan(img_upper *upper);

/* The kernel has forgotten `count` lookups of the node.  If nothing keeps the node any more, frees
 * it, removes its orphan and closes its descriptor. upper may be NULL (no upper). */
void img_forget(img_tree *tree, img_upper *upper, uint64_t id, uint64_t count);

#endif
