/* fastrig.h: the fast path between a socket that plays /dev/fuse and one that plays pyfuse3.
 *
 * One layer, made here, under an upper in a temporary directory:
 *     d/  d/a "lower a"  d/sub/  l -> d/a   p (fifo)   x (xattrs)   big (BIG_SIZE bytes of a
 * pattern) cut (its bytes lie beyond the archive's end)   s (1 MiB, 4 KiB of data at 64 KiB)
 *     many/0000 ... many/<MANY - 1>, each with its number as contents
 * What is wrong ends the program (check.h).  Every wait has an end: an answer that does not come
 * within PATIENCE seconds is a failure, not a hang.
 */
#ifndef IMG_FASTRIG_H
#define IMG_FASTRIG_H

#include "check.h"
#include "fast/fast.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MANY = 100, BIG_SIZE = 300 * 1024 + 7, SPARSE_SIZE = 1 << 20, SPARSE_AT = 65536 };
enum { PATIENCE = 20 };
enum { RIG_UPPER = 1, RIG_PYTHON = 2, RIG_PUSH = 4, RIG_UNSTARTED = 8 };

typedef struct rig {
    char base[64];
    int archive, upper_fd, work_fd, log[2], end_fd;
    int kernel, device; /* a pair: the test reads and writes kernel */
    int python, relay;  /* a pair: the test plays pyfuse3 on python */
    img_index *index;
    img_tree *tree;
    img_upper *upper;
    img_stats *stats;
    img_fastpath *path;
    img_fastpath_options options;
    uint64_t unique;
    unsigned notified; /* messages that answer nothing */
    char *body;        /* of the last answer */
    size_t size;
} rig;

/* base: a directory to use, or NULL for one of its own. */
rig *rig_new(unsigned flags, unsigned threads, const char *base);
void rig_start(rig *r); /* with RIG_UNSTARTED, when the options are as wanted */
void rig_stop(rig *r);
void rig_free(rig *r);

/* The answer's error (0 or negative); its body is in r->body, r->size. */
int ask(rig *r, uint32_t opcode, uint64_t node, const void *arg, size_t size);
/* The same for arguments in two pieces: a structure, then names or data. */
int ask2(rig *r, uint32_t opcode, uint64_t node, const void *arg, size_t size, const void *more,
         size_t more_size);
int ask_name(rig *r, uint32_t opcode, uint64_t node, const char *name);
/* Sends without waiting; the number of the request. */
uint64_t tell(rig *r, uint32_t opcode, uint64_t node, const void *arg, size_t size,
              const void *more, size_t more_size);
/* The same for a request that C always declines: an exchange of two names. */
uint64_t tell_declined(rig *r);
int ask_declined(rig *r);
/* Waits for an answer, which must be that one's. */
int answer_to(rig *r, uint64_t unique);
/* Sends any bytes. */
void tell_raw(rig *r, const void *message, size_t size);
/* What pyfuse3 is sent next: its size, at most room; 0 when the fast path has closed. */
size_t python_hears(rig *r, void *message, size_t room);
void python_says(rig *r, uint64_t unique, int error, const void *body, size_t size);
/* Whether the log says that; reads what it has. */
bool logged(rig *r, const char *words);

/* The node of a name, with one lookup more; CHECKs that it is there. */
img_id look_up(rig *r, img_id parent, const char *name);
img_id node_of(rig *r, const char *path); /* in the tree, without asking */
uint64_t lookups_of(rig *r, img_id id);
struct fuse_attr attr_of(rig *r, img_id id);
/* As copy-up does: a file of the upper with these contents; marks the node. */
void bring_up(rig *r, const char *path, const char *contents);

extern uint32_t draw(uint32_t below); /* the same numbers in every run */

#endif
