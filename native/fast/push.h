/* push.h: small files of the layers are put into the kernel's page cache ahead of a reader. */
#ifndef IMG_PUSH_H
#define IMG_PUSH_H

#include "fast/fast.h"

#include <stdatomic.h>

enum { FAST_HINTS = 16 }; /* a power of two */

/* Where pushing may be worthwhile. */
typedef struct fast_hint {
    img_id id; /* a file that was read, or a directory that was listed beyond cookie */
    uint32_t cookie;
    bool listed;
} fast_hint;

/* The state of pushing; a member of fast_notify, whose mutex is meant by "mutex". */
typedef struct fast_push {
    fast_hint hints[FAST_HINTS]; /* mutex: a ring; new ones overwrite the oldest */
    unsigned head, tail;         /* mutex */
    _Atomic uint32_t current;    /* the node that is being pushed; 0: none */
    bool fenced;                 /* mutex: the buffer was taken away */
    _Atomic uint64_t read_at;    /* when the last READ was, for listings */
    atomic_int files, bytes;     /* credit */
    char *buffer;                /* the data of the file that is being pushed */
} fast_push;

/* Makes and frees the buffer. 0 or a positive errno. */
int fast_push_set_up(fast_notify *notify);
void fast_push_tear_down(fast_notify *notify);

/* Call before an answer that lets a program see or change the node's pages: from here on nothing is
 * pushed into them. */
void fast_push_stop(fast_notify *notify, img_id id);
/* Whether the node is being pushed; if so its size must not change. */
bool fast_push_is_current(const fast_notify *notify, img_id id);

/* Call after a file of a layer was read or a directory was listed: the files that follow in the
 * directory, or in the listing, may be pushed. */
void fast_push_was_read(fast_notify *notify, img_id id);
void fast_push_was_listed(fast_notify *notify, img_id dir, uint32_t from_cookie);

/* Mutex held. The oldest hint; false when there is none. */
bool fast_push_take_hint(fast_push *push, fast_hint *out);
/* On the notify thread: pushes files until credit is used up, or until there is other work. */
void fast_push_follow(fast_notify *notify, fast_hint one);

#endif
