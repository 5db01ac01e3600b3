/* fastrig.h: runs the fast path between a socket in place of /dev/fuse and one in place of pyfuse3.
 *
 * There is one layer, which is made here, and an upper in a temporary directory.  The layer has:
 *     d/  d/sub/
 *     d/a    "lower a"
 *     l      -> d/a
 *     p      a fifo
 *     x      with xattrs
 *     big    BIG_SIZE bytes of a pattern
 *     cut    a file whose bytes are beyond the archive's end
 *     s      1 MiB with 4 KiB of data at 64 KiB
 *     many/0000 ... many/<MANY - 1>   each with its number as contents
 * A failed check ends the program (check.h).  An answer that does not come within PATIENCE seconds
 * is a failure, so no test hangs.
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
    int kernel, device; /* a pair: the test acts as the kernel on `kernel` */
    int python, relay;  /* a pair: the test acts as pyfuse3 on `python` */
    img_index *index;
    img_tree *tree;
    img_upper *upper;
    img_stats *stats;
    img_fastpath *path;
    img_fastpath_options options;
    uint64_t unique;
    unsigned notified; /* notifications that came: messages that are no answers */
    char *body;        /* of the last answer */
    size_t size;
} rig;

/* base: the directory to use; NULL: a new one. */
rig *rig_new(unsigned flags, unsigned threads, const char *base);
void rig_start(rig *r); /* after RIG_UNSTARTED, when r->options are set */
void rig_stop(rig *r);
void rig_free(rig *r);

/* Sends a request and waits for its answer. The answer's error (0 or negative); its body is in
 * r->body, r->size. */
int ask(rig *r, uint32_t opcode, uint64_t node, const void *arg, size_t size);
/* The same for an argument in two pieces: a structure, then names or data. */
int ask2(rig *r, uint32_t opcode, uint64_t node, const void *arg, size_t size, const void *more,
         size_t more_size);
int ask_name(rig *r, uint32_t opcode, uint64_t node, const char *name);
/* Sends a request without waiting. Its number. */
uint64_t tell(rig *r, uint32_t opcode, uint64_t node, const void *arg, size_t size,
              const void *more, size_t more_size);
/* The same for a request that the fast path always declines: an exchange of two names. */
uint64_t tell_declined(rig *r);
int ask_declined(rig *r);
/* Waits for the next answer, which must be that of this request. */
int answer_to(rig *r, uint64_t unique);
/* Sends any bytes. */
void tell_raw(rig *r, const void *message, size_t size);
/* Receives the next message to pyfuse3. Its size, at most room; 0 when the fast path has ended. */
size_t python_receives(rig *r, void *message, size_t room);
void python_answers(rig *r, uint64_t unique, int error, const void *body, size_t size);
/* Reads the log, and returns whether it has these words. */
bool logged(rig *r, const char *words);

/* The node of a name, which must exist, by a LOOKUP. */
img_id look_up(rig *r, img_id parent, const char *name);
img_id node_of(rig *r, const char *path); /* from the tree, without a request */
uint64_t lookups_of(rig *r, img_id id);
struct fuse_attr attr_of(rig *r, img_id id);
/* As copy-up does: makes a file in the upper with these contents, and sets the node's flag. */
void copy_file_up(rig *r, const char *path, const char *contents);

extern uint32_t draw(uint32_t below); /* the same numbers in every run */

#endif
