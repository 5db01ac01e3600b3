/* Requests that break the protocol, the end of either side, and random bytes: the fast path
 * answers, and neither crashes nor hangs.  The random requests change a file system of their own, a
 * tmpfs. */
#define _GNU_SOURCE /* unshare */
#include "fastrig.h"

#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>

/* ---- malformed ---------------------------------------------------------------------------- */

static void test_headers(void) {
    rig *r = rig_new(RIG_UPPER, 2, NULL);
    struct fuse_in_header head = {.len = sizeof head, .opcode = FUSE_GETATTR, .nodeid = 1};
    tell_raw(r, &head, sizeof head - 1);
    CHECK(logged(r, "39 bytes"));
    tell_raw(r, "x", 1);
    CHECK(logged(r, "1 bytes"));
    head.len = sizeof head + 1; /* too large, far too large, and 0 */
    tell_raw(r, &head, sizeof head);
    CHECK(logged(r, "says it has 41"));
    head.len = UINT32_MAX;
    tell_raw(r, &head, sizeof head);
    CHECK(logged(r, "dropped"));
    head.len = 0;
    tell_raw(r, &head, sizeof head);
    CHECK(logged(r, "dropped"));
    for (uint32_t opcode = 53; opcode < 70; opcode++)
        if (opcode != WIRE_COPY_FILE_RANGE_64) {
            CHECK(ask(r, opcode, IMG_ROOT, NULL, 0) == -ENOSYS);
            CHECK(logged(r, "not known"));
        }
    CHECK(ask(r, 0, 1, NULL, 0) == -ENOSYS && ask(r, UINT32_MAX, 1, NULL, 0) == -ENOSYS);
    CHECK(__atomic_load_n(&r->stats->malformed, __ATOMIC_RELAXED) >= 20);
    rig_free(r);
}

/* For each opcode, each length that is shorter than its structure. */
static void test_short_arguments(void) {
    static const struct {
        uint32_t opcode, least;
    } cases[] = {
        {FUSE_LOOKUP, 2},       {WIRE_STATX, sizeof(wire_statx_in)},
        {FUSE_SYMLINK, 4},      {FUSE_SETATTR, sizeof(struct fuse_setattr_in)},
        {FUSE_UNLINK, 2},       {FUSE_MKNOD, sizeof(struct fuse_mknod_in) + 2},
        {FUSE_RMDIR, 2},        {FUSE_MKDIR, sizeof(struct fuse_mkdir_in) + 2},
        {FUSE_REMOVEXATTR, 2},  {FUSE_RENAME, sizeof(struct fuse_rename_in) + 4},
        {FUSE_SETXATTR, 8 + 2}, {FUSE_RENAME2, sizeof(struct fuse_rename2_in) + 4},
        {FUSE_GETXATTR, 8 + 2}, {FUSE_LINK, sizeof(struct fuse_link_in) + 2},
        {FUSE_LISTXATTR, 8},    {FUSE_READ, sizeof(struct fuse_read_in)},
        {FUSE_FSYNC, 16},       {FUSE_WRITE, sizeof(struct fuse_write_in)},
        {FUSE_FSYNCDIR, 16},    {FUSE_READDIR, sizeof(struct fuse_read_in)},
        {FUSE_ACCESS, 8},       {FUSE_READDIRPLUS, sizeof(struct fuse_read_in)},
        {FUSE_LSEEK, 24},       {FUSE_CREATE, sizeof(struct fuse_create_in) + 2},
        {FUSE_FALLOCATE, 32},   {FUSE_COPY_FILE_RANGE, sizeof(struct fuse_copy_file_range_in)},
        {FUSE_FORGET, 8},       {WIRE_COPY_FILE_RANGE_64, sizeof(struct fuse_copy_file_range_in)},
        {FUSE_BATCH_FORGET, 8},
    };
    char bytes[128];
    rig *r = rig_new(RIG_UPPER | RIG_PYTHON, 2, NULL);
    memset(bytes, 1, sizeof bytes); /* no name has an end */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (uint32_t size = 0; size < cases[i].least; size++) {
            CHECK(ask(r, cases[i].opcode, IMG_ROOT, bytes, size) == -EINVAL);
            CHECK(logged(r, "short"));
        }
    rig_free(r);
}

static void test_names_without_an_end(void) {
    static const uint32_t opcodes[] = {FUSE_LOOKUP,     FUSE_UNLINK,  FUSE_RMDIR,    FUSE_MKDIR,
                                       FUSE_MKNOD,      FUSE_CREATE,  FUSE_LINK,     FUSE_RENAME,
                                       FUSE_RENAME2,    FUSE_SYMLINK, FUSE_GETXATTR, FUSE_SETXATTR,
                                       FUSE_REMOVEXATTR};
    char bytes[512];
    rig *r = rig_new(RIG_UPPER | RIG_PYTHON, 2, NULL);
    memset(bytes, 'n', sizeof bytes);
    for (size_t i = 0; i < sizeof opcodes / sizeof *opcodes; i++) {
        CHECK(ask(r, opcodes[i], IMG_ROOT, bytes, sizeof bytes) == -EINVAL);
        CHECK(logged(r, "no end"));
        CHECK(ask(r, opcodes[i], UINT64_C(1) << 40, bytes, sizeof bytes) == -ESTALE);
    }
    memset(bytes, 0, 32); /* one name, and no second */
    CHECK(ask(r, FUSE_SYMLINK, IMG_ROOT, bytes + 31, 64) == -EINVAL && logged(r, "no end"));
    struct fuse_rename2_in move = {.newdir = IMG_ROOT};
    CHECK(ask2(r, FUSE_RENAME2, IMG_ROOT, &move, sizeof move, "x\0yz", 4) == -EINVAL);
    CHECK(logged(r, "no end"));
    struct fuse_setxattr_in set = {.size = 4};
    CHECK(ask2(r, FUSE_SETXATTR, IMG_ROOT, &set, 8, "user.n\0abc", 10) == -EINVAL);
    CHECK(logged(r, "cut"));
    struct fuse_mkdir_in dir = {.mode = 0755};
    CHECK(ask2(r, FUSE_MKDIR, IMG_ROOT, &dir, sizeof dir, "a/b", 4) == -EINVAL);
    CHECK(ask2(r, FUSE_MKDIR, IMG_ROOT, &dir, sizeof dir, "\0", 2) == -EINVAL);
    CHECK(ask2(r, FUSE_MKDIR, IMG_ROOT, &dir, sizeof dir, "..", 3) < 0);
    rig_free(r);
}

/* ---- the ends ----------------------------------------------------------------------------- */

static bool has_ended(const rig *r) {
    struct pollfd fd = {.fd = r->end_fd, .events = POLLIN};
    return poll(&fd, 1, PATIENCE * 1000) == 1;
}

static void answers_eio(rig *r, const uint64_t *uniques, size_t n) {
    bool seen[16] = {false};
    for (size_t i = 0; i < n; i++) {
        struct fuse_out_header out;
        CHECK(recv(r->kernel, &out, sizeof out, 0) == sizeof out && out.error == -EIO);
        for (size_t k = 0; k < n; k++)
            seen[k] |= uniques[k] == out.unique;
    }
    for (size_t k = 0; k < n; k++)
        CHECK(seen[k]);
}

/* Sends requests that then wait for pyfuse3. Half of them it has received. */
static void keep_waiting(rig *r, uint64_t *uniques, size_t n) {
    char heard[256];
    struct fuse_write_in in = {.size = 2};
    for (size_t i = 0; i < n; i++)
        uniques[i] = i % 2 ? tell_declined(r)
                           : tell(r, FUSE_WRITE, node_of(r, "x"), &in, sizeof in, "XY", 2);
    for (size_t i = 0; i < n / 2; i++)
        CHECK(python_receives(r, heard, sizeof heard) > 0);
}

static void test_pyfuse3_goes(void) {
    rig *r = rig_new(RIG_UPPER | RIG_PYTHON, 2, NULL);
    uint64_t uniques[8];
    keep_waiting(r, uniques, 8);
    (void)close(r->python);
    r->python = -1;
    answers_eio(r, uniques, 8);
    CHECK(ask_declined(r) == -EIO);
    CHECK(attr_of(r, IMG_ROOT).ino == IMG_ROOT); /* other requests are still answered */
    rig_free(r);
}

static void test_stopped_while_requests_wait(void) {
    rig *r = rig_new(RIG_UPPER | RIG_PYTHON, 3, NULL);
    uint64_t uniques[8];
    keep_waiting(r, uniques, 8);
    char heard[256];
    for (int i = 0; i < 4; i++)
        CHECK(python_receives(r, heard, sizeof heard) > 0);
    CHECK(!r->notified);
    rig_stop(r);
    CHECK(has_ended(r));
    answers_eio(r, uniques, 8);
    rig_free(r);
}

static void test_the_kernel_goes(void) {
    for (unsigned threads = 1; threads < 5; threads++) {
        rig *r = rig_new(RIG_UPPER | RIG_PYTHON, threads, NULL);
        uint64_t uniques[4];
        (void)attr_of(r, IMG_ROOT);
        if (threads % 2)
            keep_waiting(r, uniques, 4);
        (void)close(r->kernel);
        r->kernel = -1;
        CHECK(has_ended(r));
        rig_free(r);
    }
}

static void test_without_pyfuse3(void) {
    rig *r = rig_new(RIG_UPPER, 1, NULL);
    CHECK(ask_declined(r) == -ENOSYS);
    rig_free(r);
}

/* Messages from pyfuse3 that answer no request, or are no answers. */
static void test_answers_without_a_request(void) {
    rig *r = rig_new(RIG_UPPER | RIG_PYTHON, 1, NULL);
    char heard[256], noise[64] = {0};
    python_answers(r, 4711, 0, noise, sizeof noise);
    CHECK(send(r->python, noise, 3, 0) == 3);
    uint64_t unique = tell_declined(r);
    CHECK(python_receives(r, heard, sizeof heard) > 0);
    python_answers(r, unique, 0, NULL, 0);
    CHECK(answer_to(r, unique) == 0);
    python_answers(r, unique, 0, NULL, 0); /* twice */
    CHECK(attr_of(r, IMG_ROOT).ino == IMG_ROOT);
    rig_free(r);
}

/* ---- random bytes ------------------------------------------------------------------------- */

static void *answer_enosys(void *arg) {
    rig *r = arg;
    static char heard[1 << 17];
    size_t n;
    while ((n = python_receives(r, heard, sizeof heard)) > 0) {
        struct fuse_in_header head;
        CHECK(n >= sizeof head);
        memcpy(&head, heard, sizeof head);
        CHECK(head.len == n);
        struct fuse_out_header out = {.len = sizeof out, .error = -ENOSYS, .unique = head.unique};
        if (send(r->python, &out, sizeof out, MSG_NOSIGNAL) < 0)
            break;
    }
    return NULL;
}

static void *read_answers(void *arg) {
    rig *r = arg;
    static char answer[FAST_BUFFER];
    ssize_t n;
    while ((n = recv(r->kernel, answer, sizeof answer, 0)) > 0) {
        struct fuse_out_header out;
        CHECK(n >= (ssize_t)sizeof out);
        memcpy(&out, answer, sizeof out);
        CHECK(out.len == (size_t)n);
        CHECK(out.unique == 0 || (out.error <= 0 && out.error > -512));
    }
    return NULL;
}

/* A number as an attacker would choose it. */
static uint64_t number(void) {
    static const uint64_t edges[] = {0,
                                     1,
                                     2,
                                     4095,
                                     4096,
                                     1 << 20,
                                     INT32_MAX,
                                     UINT32_MAX,
                                     INT64_MAX,
                                     UINT64_MAX,
                                     UINT64_C(1) << 32,
                                     UINT64_C(1) << 40};
    return draw(3) ? draw(300) : edges[draw(sizeof edges / sizeof *edges)];
}

/* The size of the structure that an operation's argument begins with; 0 if there is none. */
static const uint8_t structures[64] = {
    [FUSE_FORGET] = 8,
    [FUSE_GETATTR] = 16,
    [FUSE_SETATTR] = 88,
    [FUSE_MKNOD] = 16,
    [FUSE_MKDIR] = 8,
    [FUSE_RENAME] = 8,
    [FUSE_LINK] = 8,
    [FUSE_OPEN] = 8,
    [FUSE_READ] = 40,
    [FUSE_WRITE] = 40,
    [FUSE_RELEASE] = 24,
    [FUSE_FSYNC] = 16,
    [FUSE_SETXATTR] = 8,
    [FUSE_GETXATTR] = 8,
    [FUSE_LISTXATTR] = 8,
    [FUSE_OPENDIR] = 8,
    [FUSE_READDIR] = 40,
    [FUSE_RELEASEDIR] = 24,
    [FUSE_FSYNCDIR] = 16,
    [FUSE_ACCESS] = 8,
    [FUSE_CREATE] = 16,
    [FUSE_INTERRUPT] = 8,
    [FUSE_BATCH_FORGET] = 8,
    [FUSE_FALLOCATE] = 32,
    [FUSE_READDIRPLUS] = 40,
    [FUSE_RENAME2] = 16,
    [FUSE_LSEEK] = 24,
    [WIRE_STATX] = 24,
    [FUSE_COPY_FILE_RANGE] = 56,
    [WIRE_COPY_FILE_RANGE_64] = 56,
};

static size_t add_name(char *message, size_t size) {
    static const char *const names[] = {"d",  "a", "x", "big", "new", "many", "0001",  ".",
                                        "..", "l", "s", "n1",  "n2",  "sub",  "user.k"};
    const char *name = names[draw(sizeof names / sizeof *names)];
    memcpy(message + size, name, strlen(name) + 1);
    return size + strlen(name) + 1;
}

/* A request that is nearly right: a structure with some random numbers, then names. */
static size_t nearly_right(char *message) {
    struct fuse_in_header head = {.opcode = 1 + draw(53), .unique = 2u + 2u * draw(1 << 20)};
    size_t size = sizeof head;
    head.nodeid = draw(8) ? 1 + draw(40) : number();
    head.uid = draw(2);
    if (head.opcode == FUSE_DESTROY || head.opcode == FUSE_INIT)
        head.opcode = FUSE_CREATE;
    size_t arg = draw(9) ? structures[head.opcode] : draw(12) * 8;
    memset(message + size, 0, arg);
    for (uint32_t n = arg ? draw(4) : 0; n; n--) {
        uint64_t value = number();
        memcpy(message + size + draw((uint32_t)arg / 8) * 8, &value, 8);
    }
    size += arg;
    for (uint32_t n = draw(8) ? 2 : draw(3); n; n--)
        size = add_name(message, size);
    for (uint32_t n = draw(6) ? 0 : draw(8); n; n--)
        message[sizeof head + draw((uint32_t)(size - sizeof head + 1))] = (char)draw(256);
    head.len = (uint32_t)(draw(50) ? size : number());
    memcpy(message, &head, sizeof head);
    return size;
}

static size_t noise(char *message) {
    size_t size = 1 + draw(400);
    for (size_t i = 0; i < size; i++)
        message[i] = (char)draw(256);
    uint32_t len = (uint32_t)size, opcode = draw(60);
    if (size >= 8 && draw(4)) {
        memcpy(message, &len, 4);
        memcpy(message + 4, &opcode, 4);
    }
    return size;
}

static void own_file_system(char *base) {
    CHECK(unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    CHECK(mkdtemp(base) && mount("fuzz", base, "tmpfs", 0, "size=64m,mode=700") == 0);
}

static void test_random_requests(void) {
    enum { ROUNDS = 250000 };
    char base[] = "/tmp/fastpath-XXXXXX", message[1024];
    pthread_t python, kernel;
    own_file_system(base);
    rig *r = rig_new(RIG_UPPER | RIG_PYTHON | RIG_PUSH, 3, base);
    CHECK(pthread_create(&python, NULL, answer_enosys, r) == 0);
    CHECK(pthread_create(&kernel, NULL, read_answers, r) == 0);
    for (int i = 0; i < ROUNDS; i++)
        tell_raw(r, message, draw(12) ? nearly_right(message) : noise(message));
    /* all were sent, and the fast path has not ended */
    struct pollfd end = {.fd = r->end_fd, .events = POLLIN};
    CHECK(poll(&end, 1, 0) == 0);
    CHECK(shutdown(r->kernel, SHUT_WR) == 0);
    CHECK(has_ended(r));
    rig_stop(r);
    CHECK(shutdown(r->python, SHUT_RDWR) == 0 && shutdown(r->device, SHUT_RDWR) == 0);
    (void)pthread_join(python, NULL);
    (void)pthread_join(kernel, NULL);
    CHECK(r->stats->malformed > 1000);
    rig_free(r);
    CHECK(umount2(base, MNT_DETACH) == 0 && rmdir(base) == 0);
}

int main(void) {
    test_headers();
    test_short_arguments();
    test_names_without_an_end();
    test_pyfuse3_goes();
    test_stopped_while_requests_wait();
    test_the_kernel_goes();
    test_without_pyfuse3();
    test_answers_without_a_request();
    test_random_requests();
    return 0;
}
