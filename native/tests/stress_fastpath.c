/* Many clients, pyfuse3 and changes by Python at the same time, under the sanitizers for threads,
 * addresses and undefined behaviour: each request gets its answer, and the tree keeps its
 * invariants. */
#define _GNU_SOURCE /* pthread_mutex_clocklock, SEEK_DATA */
#include "fastrig.h"
#include "upper/changemake.h"
#include "upper/changename.h"

#include <sched.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <time.h>

enum { CLIENTS = 3, EACH = 60000, AT_ONCE = 48, CHANGES = 30000 };

/* The thread sanitizer of gcc 12 does not know this function; here it uses one that it knows. */
int pthread_mutex_clocklock(pthread_mutex_t *mutex, clockid_t clock, const struct timespec *until) {
    struct timespec now;
    int busy;
    do {
        busy = pthread_mutex_trylock(mutex);
        (void)sched_yield();
        (void)clock_gettime(clock, &now);
    } while (busy && (now.tv_sec < until->tv_sec ||
                      (now.tv_sec == until->tv_sec && now.tv_nsec < until->tv_nsec)));
    return busy;
}

typedef struct stress {
    rig *r;
    atomic_int waiting; /* requests without an answer yet */
    atomic_ullong unique;
    atomic_bool over;
} stress;

typedef struct client {
    stress *s;
    uint32_t state;
    pthread_t thread;
} client;

static uint32_t pick(uint32_t *state, uint32_t below) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state % below;
}

static const char *pick_name(uint32_t *state) {
    static const char *const names[] = {"d",    "a",    "x",   "big", "s",  "many", "0001", "0002",
                                        "0003", "0050", "sub", "l",   "n0", "n1",   "n2",   "n3"};
    return names[pick(state, sizeof names / sizeof *names)];
}

/* For a change the root; else a node that exists from the start, or one that was made since. */
static uint64_t pick_node(uint32_t *state, bool changing) {
    if (changing)
        return IMG_ROOT;
    return 1 + (pick(state, 2) ? MANY + pick(state, 40) : pick(state, 16));
}

/* ---- requests ----------------------------------------------------------------------------- */

typedef struct request {
    uint32_t opcode;
    size_t size;
    _Alignas(8) char arg[256];
    bool silent;
} request;

static void put_name(request *q, uint32_t *state) {
    const char *name = pick_name(state);
    memcpy(q->arg + q->size, name, strlen(name) + 1);
    q->size += strlen(name) + 1;
}

static void make_looking(request *q, uint32_t *state) {
    static const uint32_t sized[] = {FUSE_READ, FUSE_READDIR, FUSE_READDIRPLUS};
    struct fuse_read_in read = {.offset = pick(state, 8192), .size = 4096};
    switch (pick(state, 6)) {
    case 0:
    case 1:
        q->opcode = FUSE_LOOKUP;
        put_name(q, state);
        break;
    case 2:
        q->opcode = FUSE_GETATTR;
        break;
    case 3:
        q->opcode = FUSE_GETXATTR;
        q->size = sizeof(struct fuse_getxattr_in);
        memset(q->arg, 0, q->size);
        q->arg[1] = 1;
        memcpy(q->arg + q->size, "security.capability", 20);
        q->size += 20;
        break;
    default:
        q->opcode = sized[pick(state, 3)];
        read.offset = q->opcode == FUSE_READ ? read.offset : pick(state, 50);
        memcpy(q->arg, &read, q->size = sizeof read);
    }
}

static void make_data(request *q, uint32_t *state) {
    struct fuse_write_in write = {.offset = pick(state, 4096), .size = 100};
    struct fuse_setattr_in set = {.valid = pick(state, 2) ? FATTR_SIZE : FATTR_MODE,
                                  .size = pick(state, 5000),
                                  .mode = 0600 + pick(state, 0177)};
    struct fuse_lseek_in seek = {.offset = pick(state, 4096), .whence = SEEK_DATA};
    struct fuse_fallocate_in room = {.length = 4096 + pick(state, 8192)};
    switch (pick(state, 5)) {
    case 0:
        q->opcode = FUSE_SETATTR;
        memcpy(q->arg, &set, q->size = sizeof set);
        break;
    case 1:
        q->opcode = FUSE_LSEEK;
        memcpy(q->arg, &seek, q->size = sizeof seek);
        break;
    case 2:
        q->opcode = FUSE_FALLOCATE;
        memcpy(q->arg, &room, q->size = sizeof room);
        break;
    default:
        q->opcode = FUSE_WRITE;
        memcpy(q->arg, &write, sizeof write);
        memset(q->arg + sizeof write, 'w', write.size);
        q->size = sizeof write + write.size;
    }
}

static void make_changing(request *q, uint32_t *state) {
    static const struct fuse_create_in create = {.mode = S_IFREG | 0644};
    static const struct fuse_mkdir_in dir = {.mode = 0755};
    struct fuse_rename2_in move = {.newdir = pick(state, 3) ? IMG_ROOT : 2 + pick(state, 3)};
    static const uint32_t takes[] = {FUSE_UNLINK, FUSE_UNLINK, FUSE_RMDIR};
    switch (pick(state, 5)) {
    case 0:
    case 1:
        q->opcode = FUSE_CREATE;
        memcpy(q->arg, &create, q->size = sizeof create);
        break;
    case 2:
        q->opcode = FUSE_MKDIR;
        memcpy(q->arg, &dir, q->size = sizeof dir);
        break;
    case 3:
        q->opcode = FUSE_RENAME2;
        memcpy(q->arg, &move, q->size = sizeof move);
        put_name(q, state);
        break;
    default:
        q->opcode = takes[pick(state, 3)];
    }
    put_name(q, state);
}

static void make_forget(request *q, uint32_t *state) {
    struct fuse_forget_in forget = {.nlookup = pick(state, 3)};
    q->opcode = FUSE_FORGET;
    q->silent = true;
    memcpy(q->arg, &forget, q->size = sizeof forget);
}

static void *client_main(void *arg) {
    client *c = arg;
    stress *s = c->s;
    for (int i = 0; i < EACH; i++) {
        request q = {0};
        uint32_t what = pick(&c->state, 10);
        (what < 5   ? make_looking
         : what < 7 ? make_data
         : what < 9 ? make_changing
                    : make_forget)(&q, &c->state);
        struct fuse_in_header in = {.len = (uint32_t)(sizeof in + q.size), .opcode = q.opcode};
        in.unique = atomic_fetch_add(&s->unique, 2);
        in.nodeid = pick_node(&c->state, what >= 7 && what < 9);
        char message[sizeof in + sizeof q.arg];
        memcpy(message, &in, sizeof in);
        memcpy(message + sizeof in, q.arg, q.size);
        while (atomic_load(&s->waiting) > AT_ONCE)
            (void)sched_yield();
        if (!q.silent)
            atomic_fetch_add(&s->waiting, 1);
        tell_raw(s->r, message, in.len);
    }
    return NULL;
}

/* ---- the other threads
 * --------------------------------------------------------------------------- */

static void *read_answers(void *arg) {
    stress *s = arg;
    ssize_t n;
    while ((n = recv(s->r->kernel, s->r->body, FAST_BUFFER, 0)) > 0) {
        struct fuse_out_header out;
        CHECK(n >= (ssize_t)sizeof out);
        memcpy(&out, s->r->body, sizeof out);
        CHECK(out.len == (size_t)n);
        if (out.unique)
            atomic_fetch_sub(&s->waiting, 1);
    }
    return NULL;
}

/* Copies up as rootfs/ does: under `change`, first the object, then the tree. */
static int copy_one_up(rig *r, uint64_t nodeid) {
    char name[256] = "";
    img_tree *tree = r->tree;
    img_upper_lock(r->upper);
    (void)pthread_rwlock_rdlock(&tree->lock);
    const img_node *node = img_tree_node(tree, nodeid);
    const img_dentry *d = node && node->names ? img_dentry_at(tree, node->names) : NULL;
    if (d && d->parent == IMG_ROOT && S_ISREG(node->mode) && !(node->flags & IMG_NODE_UPPER))
        memcpy(name, d->name, d->name_len);
    (void)pthread_rwlock_unlock(&tree->lock);
    int fd = name[0] ? openat(r->upper_fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0644) : -1;
    if (fd >= 0) {
        (void)pthread_rwlock_wrlock(&tree->lock);
        img_node_at(tree, (img_id)nodeid)->flags |= IMG_NODE_UPPER;
        img_node_at(tree, (img_id)nodeid)->size = 0;
        (void)pthread_rwlock_unlock(&tree->lock);
        (void)close(fd);
    }
    img_upper_unlock(r->upper);
    return fd < 0 ? -ENOENT : 0;
}

static void *python_main(void *arg) {
    stress *s = arg;
    rig *r = s->r;
    char heard[4096];
    size_t n;
    while ((n = python_receives(r, heard, sizeof heard)) > 0) {
        struct fuse_in_header head;
        struct fuse_open_out opened = {0};
        memcpy(&head, heard, sizeof head);
        CHECK(head.len == n);
        int error = head.opcode == FUSE_OPEN ? copy_one_up(r, head.nodeid) : -ENOSYS;
        python_answers(r, head.unique, error, &opened, error ? 0 : sizeof opened);
    }
    return NULL;
}

/* Makes changes that no request asked for, as Python does, by the same functions. */
static void *changer_main(void *arg) {
    stress *s = arg;
    img_upper *upper = s->r->upper;
    uint32_t state = 4711;
    const img_new file = {.mode = S_IFREG | 0644};
    const img_maker who = {0};
    for (int i = 0; i < CHANGES; i++) {
        const char *a = pick_name(&state), *b = pick_name(&state);
        img_id id = 0;
        img_upper_lock(upper);
        switch (pick(&state, 4)) {
        case 0:
            (void)img_rename(upper, IMG_ROOT, a, strlen(a), IMG_ROOT, b, strlen(b), 0);
            break;
        case 1:
            (void)img_unlink(upper, IMG_ROOT, a, strlen(a));
            break;
        default:
            (void)img_make(upper, IMG_ROOT, a, strlen(a), &file, &who, &id);
        }
        img_upper_unlock(upper);
        img_forget(s->r->tree, upper, 1 + pick(&state, 60), pick(&state, 2));
    }
    return NULL;
}

int main(void) {
    rig *r = rig_new(RIG_UPPER | RIG_PYTHON | RIG_PUSH, 4, NULL);
    stress s = {.r = r};
    client clients[CLIENTS];
    pthread_t kernel, python, changer;
    atomic_store(&s.unique, 100);
    CHECK(pthread_create(&kernel, NULL, read_answers, &s) == 0);
    CHECK(pthread_create(&python, NULL, python_main, &s) == 0);
    CHECK(pthread_create(&changer, NULL, changer_main, &s) == 0);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        clients[i] = (client){.s = &s, .state = 88172645u + i};
        CHECK(pthread_create(&clients[i].thread, NULL, client_main, &clients[i]) == 0);
    }
    for (int i = 0; i < CLIENTS; i++)
        (void)pthread_join(clients[i].thread, NULL);
    (void)pthread_join(changer, NULL);
    time_t end = time(NULL) + PATIENCE;
    while (atomic_load(&s.waiting) && time(NULL) < end)
        (void)sched_yield();
    CHECK(atomic_load(&s.waiting) == 0); /* each request got one answer */
    rig_stop(r);
    CHECK(r->stats->pushed_files > 0 && r->stats->copy_up_waits > 0);
    CHECK(shutdown(r->device, SHUT_RDWR) == 0 && shutdown(r->python, SHUT_RDWR) == 0);
    (void)pthread_join(kernel, NULL);
    (void)pthread_join(python, NULL);
    rig_free(r);
    return 0;
}
