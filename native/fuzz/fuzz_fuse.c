/* fuzz_fuse.c: requests of the kernel through both doors.  The fast path answers them, or relays
 * them to a stand-in for pyfuse3, whose answers are hostile too.
 *
 * Kinds of pieces:
 *   0  a request: u8 opcode (bit 7: of uid 1000), u8 nodeid (255: beyond 32 bits), its arguments
 *   1  the answer to the next request that the stand-in gets: u8 errno (0: none), the body
 *   2  any bytes from the kernel          3  any bytes from the stand-in, before its answer
 * If the input has no answer, the stand-in copies up a node that is opened, and answers ENOSYS to
 * all other requests.
 *
 * Laws: a request gets exactly one answer, in time; the tree keeps its invariants.  Each input has
 * a rig (fastrig.h) of its own, on a file system in memory.
 */
#define _GNU_SOURCE /* unshare */
#include "fuzz.h"

#include "fast/fastrequest.h"
#include "fastrig.h"

#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>

enum { REQUEST, ANSWER, FROM_KERNEL, FROM_PYTHON };
enum { MESSAGES = 64, ROOM = 1 << 18 };

/* The file system is mounted here, in a mount namespace of this process, so that it leaves no
 * trace. No input of a fuzzer is in this directory. */
#define MOUNT_POINT "/sys"

typedef struct talk {
    rig *r;
    const uint8_t *data;
    size_t size, at;
    char *out;
    unsigned answers; /* to the current request */
} talk;

static void own_file_system(void) {
    static bool done;
    if (done)
        return;
    CHECK(unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    CHECK(mount("fuzz", MOUNT_POINT, "tmpfs", 0, "size=64m,mode=700") == 0);
    done = true;
}

/* ---- the stand-in ------------------------------------------------------------------------- */

/* Copies up, roughly: makes the object, then sets IMG_NODE_UPPER.  Returns an errno. */
static int copy_up(rig *r, uint64_t nodeid) {
    img_node *node = img_tree_node(r->tree, nodeid);
    char name[IMG_NAME_MAX + 1] = "";
    if (!node || !node->names)
        return ENOENT;
    if (node->flags & IMG_NODE_UPPER)
        return 0;
    const img_dentry *dentry = img_dentry_at(r->tree, node->names);
    memcpy(name, dentry->name, dentry->name_len);
    int dir = img_upper_pin(r->upper, dentry->parent), result = -1;
    if (dir < 0)
        return ENOENT; /* its directory is not in the upper yet */
    if (S_ISREG(node->mode)) {
        int fd = openat(dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        CHECK(fd >= 0);
        result = ftruncate(fd, (off_t)node->size);
        (void)close(fd);
    } else if (S_ISDIR(node->mode)) {
        result = mkdirat(dir, name, 0700);
    } else if (S_ISLNK(node->mode)) {
        result = symlinkat("target", dir, name);
    } else {
        result = mknodat(dir, name, S_IFIFO | 0600, 0);
    }
    img_upper_unpin(r->upper, dentry->parent);
    if (result == 0)
        node->flags |= IMG_NODE_UPPER;
    return result == 0 ? 0 : EIO;
}

static bool follows(talk *t, uint8_t kind, piece *out) {
    return t->at < t->size && t->data[t->at] == kind && next_piece(t->data, t->size, &t->at, out);
}

static void answer(talk *t) {
    static char heard[ROOM];
    struct fuse_in_header head;
    struct fuse_open_out opened = {0};
    piece p;
    CHECK(python_receives(t->r, heard, sizeof heard) >= sizeof head);
    memcpy(&head, heard, sizeof head);
    while (follows(t, FROM_PYTHON, &p)) {
        if (p.len)
            CHECK(send(t->r->python, p.data, p.len, MSG_NOSIGNAL) == (ssize_t)p.len);
        free(p.data);
    }
    bool given = follows(t, ANSWER, &p);
    int error = given && p.len ? p.data[0] : 0;
    if (error == 0 && head.opcode == FUSE_OPEN) {
        img_upper_lock(t->r->upper);
        error = copy_up(t->r, head.nodeid);
        img_upper_unlock(t->r->upper);
        python_answers(t->r, head.unique, -error, &opened, error ? 0 : sizeof opened);
    } else if (given) {
        python_answers(t->r, head.unique, -error, p.data + (p.len > 0), p.len ? p.len - 1 : 0);
    } else {
        python_answers(t->r, head.unique, -ENOSYS, NULL, 0);
    }
    if (given)
        free(p.data);
}

/* ---- the kernel --------------------------------------------------------------------------- */

/* Reads one message, and counts it if it answers the request `unique`. */
static void hear(talk *t, uint64_t unique) {
    struct fuse_out_header out;
    ssize_t n = recv(t->r->kernel, t->r->body, FAST_BUFFER, 0);
    CHECK(n >= (ssize_t)sizeof out);
    memcpy(&out, t->r->body, sizeof out);
    CHECK(out.len == (size_t)n);
    t->answers += unique && out.unique == unique;
}

/* Reads messages until the request is answered, if wait is set; then all that are left. */
static void converse(talk *t, uint64_t unique, bool wait) {
    struct pollfd fds[2] = {{.fd = t->r->kernel, .events = POLLIN},
                            {.fd = t->r->python, .events = POLLIN}};
    t->answers = 0;
    for (;;) {
        bool patient = wait && t->answers == 0;
        int n = poll(fds, 2, patient ? PATIENCE * 1000 : 0);
        CHECK(n >= 0 || errno == EINTR); /* libFuzzer has an alarm clock */
        if (n < 0)
            continue;
        if (n == 0)
            break;
        if (fds[1].revents & POLLIN)
            answer(t);
        if (fds[0].revents & POLLIN)
            hear(t, unique);
    }
    CHECK(t->answers <= 1 && (!wait || t->answers == 1));
}

static bool is_silent(uint32_t opcode) {
    return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT;
}

static void request(talk *t, const piece *p) {
    struct fuse_in_header head = {.unique = t->r->unique += 2, .pid = (uint32_t)getpid()};
    size_t arg = p->len > 2 ? p->len - 2 : 0;
    if (p->len < 2)
        return;
    head.opcode = p->data[0] & 0x7f;
    head.uid = head.gid = p->data[0] & 0x80 ? 1000 : 0;
    head.nodeid = p->data[1] == 255 ? UINT64_C(1) << 40 : p->data[1];
    head.len = (uint32_t)(sizeof head + arg);
    char *message = malloc(head.len);
    CHECK(message);
    memcpy(message, &head, sizeof head);
    if (arg)
        memcpy(message + sizeof head, p->data + 2, arg);
    fast_handle(t->r->path, t->r->device, message, head.len, t->out);
    free(message);
    converse(t, head.unique, !is_silent(head.opcode));
}

/* Gives any bytes to the fast path.  The unique of such a request is made odd, so that it is never
 * the unique of a request that is waited for. */
static void any_bytes(talk *t, piece *p) {
    struct fuse_in_header head;
    if (p->len >= sizeof head) {
        memcpy(&head, p->data, sizeof head);
        head.unique |= 1;
        memcpy(p->data, &head, sizeof head);
    }
    fast_handle(t->r->path, t->r->device, (char *)p->data, p->len, t->out);
    converse(t, 0, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char out[FAST_BUFFER];
    piece p;
    img_bytes text = {0};
    own_file_system();
    talk t = {.r = rig_new(RIG_UPPER | RIG_PYTHON | RIG_PUSH, 1, MOUNT_POINT),
              .data = data,
              .size = size,
              .out = out};
    for (unsigned n = 0; n < MESSAGES && next_piece(data, size, &t.at, &p); n++) {
        if (p.kind == REQUEST)
            request(&t, &p);
        else if (p.kind == FROM_KERNEL)
            any_bytes(&t, &p);
        free(p.data);
    }
    rig_stop(t.r);
    tree_text(t.r->tree, false, &text);
    img_bytes_free(&text);
    rig_free(t.r);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return mutate_pieces(data, size, max_size, seed);
}
