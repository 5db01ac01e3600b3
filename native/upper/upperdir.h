/* upperdir.h: the objects of the upper directory by node: their places, descriptors and locks.
 *
 * Law: from a node of the tree to the file system object that holds its changes, and nothing more;
 * what an operation does with it is change.h.
 *
 * Places.  A node's object stands in the upper at its visible path; a file whose last name is gone
 * stands in the work directory as "orphan-<nodeid>" until the kernel forgets it (img_forget),
 * since opens are not announced: any file the kernel knows may be open.
 *
 * Who can write to a directory of the upper may put anything in the place of an object at any time:
 * a symlink, a hardlink of another file, a fifo.  So paths are resolved by beneath.h, and what was
 * opened must be the object that the tree has (img_node.object), else it is -EIO.
 *
 * Descriptors are upperfds.h's.  Regular files are open O_RDWR (O_RDONLY when the mount is
 * read-only, or their file system has become so: img_upper_pin_to_write), directories O_RDONLY |
 * O_DIRECTORY, always O_NOFOLLOW | O_CLOEXEC, and O_NOATIME
 * where we may.  A descriptor never outlives its node: the tree says when it frees one.
 *
 * Locks, taken in this order and never the other way round:
 *     1. change   one change of the upper and the tree at a time.  Python holds it for all steps of
 *                 an operation (large data are copied before, without it), so who must not wait
 *                 asks for it with a time limit, and else hands the request to Python.
 *     2. places   a read-write lock: held for writing around the system call that takes away or
 *                 moves a name together with the change of the tree; for reading while a path is
 *                 turned into a descriptor.  Never held over the reading or writing of data.
 *     3. the tree's lock.  No system call is made under it.
 *     4. that of the descriptors.
 * All functions may be called from any thread.  Errors: negative errno values.
 */
#ifndef IMG_UPPERDIR_H
#define IMG_UPPERDIR_H

#include "base/upperfds.h"
#include "tree/tree.h"

#include <sys/stat.h>

typedef struct img_upper_options {
    int upper_fd, work_fd; /* borrowed; work_fd -1: the upper is only looked at */
    bool read_only;
    bool no_sync;     /* volatile: fsync does nothing */
    bool owners;      /* files can be given away (prefix trusted.overlay.): see rootfs/objects.py */
    bool inodes_last; /* an object of the upper's file system has one st_ino as long as it is */
    bool harmless_files, harmless_devices; /* harmless.h */
    unsigned max_fds;                      /* descriptors kept, at most */
} img_upper_options;

/* Public for the files of this room that change the upper (change.h). */
typedef struct img_upper {
    img_tree *tree;
    img_upper_options options;
    pthread_mutex_t change;
    pthread_rwlock_t places;
    pthread_mutex_t times[16]; /* by nodeid: changeattr.c */
    img_fds *fds;
    uint64_t freed;     /* W of the tree: upper nodes freed so far */
    uint64_t serial;    /* change: names in the work directory, "c<serial>" */
    uint32_t releasing; /* atomic: threads that give back what was forgotten */
    bool reserved;      /* change: the fast path leaves all changes to Python */
    uint32_t uid, gid;  /* what an object is made with */
} img_upper;

/* tree must outlive it. NULL when memory is short. */
img_upper *img_upper_new(img_tree *tree, const img_upper_options *options);
void img_upper_free(img_upper *upper);

void img_upper_lock(img_upper *upper);
/* False when it was not to be had within that time. */
bool img_upper_trylock(img_upper *upper, unsigned milliseconds);
void img_upper_unlock(img_upper *upper);

/* The writing side of places; change must be held, and no img_upper_pin may come in between. */
void img_upper_moving(img_upper *upper);
void img_upper_moved(img_upper *upper);

/* The descriptor of a node's object (IMG_NODE_UPPER), good until it is unpinned.
 * -ESTALE: no such node, or nothing of it in the upper; -EINVAL: neither file nor directory; -EIO:
 * another object stands in its place;
 * -EMFILE when all kept ones are pinned. */
int img_upper_pin(img_upper *upper, img_id id);
/* The same for a file that is to be written: -EROFS where it can only be read. */
int img_upper_pin_to_write(img_upper *upper, img_id id);
void img_upper_unpin(img_upper *upper, img_id id);
/* Takes over fd as id's descriptor (a file just made). Closes it when there is no room. */
void img_upper_keep(img_upper *upper, img_id id, int fd);
/* Closes the node's descriptor, at once or when its last pin goes. */
void img_upper_drop(img_upper *upper, img_id id);

/* (dir_fd, name) that a system call may use for the object of a node of any kind (symlinks,
 * devices), as long as change is held. The directory is pinned as *pinned (0: nothing to unpin).
 * name must hold 256 bytes. */
int img_upper_place(img_upper *upper, img_id id, int *dir_fd, char *name, img_id *pinned);

/* An O_PATH descriptor of the object of a node of any kind, the caller's to close; -EIO when
 * another stands in its place. As long as change is held. img_fd_path is what other system calls
 * take. */
int img_upper_object(img_upper *upper, img_id id);
/* The same, or the descriptor that is kept, pinned as *pinned (0: none); for img_upper_let_go. */
int img_upper_hold(img_upper *upper, img_id id, img_id *pinned);
void img_upper_let_go(img_upper *upper, int fd, img_id pinned);
/* R. Whether st is of the node's object. */
bool img_upper_is(const img_upper *upper, const img_node *node, const struct stat *st);

/* The orphan's name in the work directory; out must hold IMG_ORPHAN_BYTES. */
#define IMG_ORPHAN_BYTES 20
void img_upper_orphan(img_id id, char *out);

/* Waits until the kernel's word of files that are gone, which follows their removal, has been heard
 * and their space given back: who found the upper full tries once more after it. */
void img_upper_await_release(img_upper *upper);

/* The kernel has forgotten `count` lookups of the node.  Frees it when that was its last hold, and
 * then removes its orphan and closes its descriptor. upper may be NULL (no upper). */
void img_forget(img_tree *tree, img_upper *upper, uint64_t id, uint64_t count);

#endif
