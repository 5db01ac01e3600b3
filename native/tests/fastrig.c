/* fastrig.c: runs the fast path between two sockets, for tests and fuzzing. */
#define _GNU_SOURCE
#include "fastrig.h"

#include "index/indexbuild.h"
#include "tree/merge.h"
#include "tree/tree_check.h"

#include <ftw.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>

uint32_t draw(uint32_t below) {
    static uint32_t state = 2463534242u;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state % below;
}

/* ---- the layer ---------------------------------------------------------------------------- */

typedef struct maker {
    img_builder builder;
    int archive;
    uint64_t end;
} maker;

static void add(maker *m, const char *dir, const char *name, img_kind kind, uint32_t mode,
                const void *data, size_t size, img_entry entry) {
    img_error err;
    entry.kind = (uint8_t)kind;
    entry.mode = mode;
    entry.dir_len = (uint16_t)strlen(dir);
    entry.name_len = (uint16_t)strlen(name);
    CHECK(img_builder_intern(&m->builder, dir, entry.dir_len, &entry.dir, &err) == 0);
    CHECK(img_builder_text(&m->builder, name, entry.name_len, &entry.name, &err) == 0);
    if (kind == IMG_SYMLINK) {
        entry.link_len = (uint16_t)size;
        CHECK(img_builder_text(&m->builder, data, size, &entry.link, &err) == 0);
    } else if (data) {
        CHECK(pwrite(m->archive, data, size, (off_t)m->end) == (ssize_t)size);
        entry.archive_data = m->end;
        entry.size = size;
        m->end += size;
    }
    CHECK(img_builder_entry(&m->builder, &entry, &err) == 0);
}

static void add_xattrs(maker *m) {
    static const struct {
        const char *name, *value;
        uint32_t size;
    } xattrs[] = {{"user.k", "value", 5}, {"user.empty", "", 0}, {"trusted.t", "t", 1}};
    img_entry entry = {.n_xattrs = 3};
    img_error err;
    for (size_t i = 0; i < 3; i++) {
        uint16_t name_len = (uint16_t)strlen(xattrs[i].name);
        uint32_t at;
        CHECK(img_builder_text(&m->builder, (char *)&name_len, 2, &at, &err) == 0);
        if (i == 0)
            entry.xattrs = at;
        CHECK(img_builder_text(&m->builder, (const char *)&xattrs[i].size, 4, &at, &err) == 0);
        CHECK(img_builder_text(&m->builder, xattrs[i].name, name_len, &at, &err) == 0);
        CHECK(img_builder_text(&m->builder, xattrs[i].value, xattrs[i].size, &at, &err) == 0);
    }
    add(m, "", "x", IMG_FILE, S_IFREG | 0644, "with xattrs", 11, entry);
}

static void add_contents(maker *m) {
    static char big[BIG_SIZE], page[4096];
    img_entry sparse = {.size = SPARSE_SIZE, .flags = IMG_ENTRY_SPARSE, .n_extents = 1};
    img_error err;
    bool made = big[1]; /* the pattern is made once a process */
    for (size_t i = 0; !made && i < sizeof big; i++)
        big[i] = (char)(i * 7 + i / 4096);
    add(m, "", "big", IMG_FILE, S_IFREG | 0644, big, sizeof big, (img_entry){0});
    memset(page, 'x', sizeof page);
    img_extent extent = {.file_offset = SPARSE_AT, .length = 4096, .archive_offset = m->end};
    CHECK(pwrite(m->archive, page, sizeof page, (off_t)m->end) == sizeof page);
    m->end += sizeof page;
    CHECK(img_builder_extents(&m->builder, &extent, 1, &sparse.first_extent, &err) == 0);
    add(m, "", "s", IMG_FILE, S_IFREG | 0644, NULL, 0, sparse);
    img_entry cut = {.size = 8192, .archive_data = 1 << 30};
    add(m, "", "cut", IMG_FILE, S_IFREG | 0644, NULL, 0, cut);
    for (int i = 0; i < MANY; i++) {
        char name[8];
        int len = snprintf(name, sizeof name, "%04d", i);
        add(m, "many", name, IMG_FILE, S_IFREG | 0644, name, (size_t)len, (img_entry){0});
    }
}

static img_index *make_layer(int archive) {
    maker m = {.archive = archive};
    img_error err;
    img_builder_init(&m.builder);
    add(&m, "", "d", IMG_DIR, S_IFDIR | 0755, NULL, 0, (img_entry){0});
    add(&m, "d", "sub", IMG_DIR, S_IFDIR | 0755, NULL, 0, (img_entry){0});
    add(&m, "d", "a", IMG_FILE, S_IFREG | 0644, "lower a", 7, (img_entry){0});
    add(&m, "", "l", IMG_SYMLINK, S_IFLNK | 0777, "d/a", 3, (img_entry){0});
    add(&m, "", "p", IMG_FIFO, S_IFIFO | 0600, NULL, 0, (img_entry){0});
    add(&m, "", "many", IMG_DIR, S_IFDIR | 0755, NULL, 0, (img_entry){0});
    add_xattrs(&m);
    add_contents(&m);
    img_index *index = img_builder_take(&m.builder, m.end, &err);
    CHECK(index);
    return index;
}

/* ---- life --------------------------------------------------------------------------------- */

static void make_pair(int *theirs, int *ours) {
    int fds[2], bytes = 64 << 20;
    struct timeval patience = {PATIENCE, 0};
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK(setsockopt(fds[i], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) == 0);
        CHECK(setsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
    }
    *theirs = fds[0];
    *ours = fds[1];
}

static int open_dir(const rig *r, const char *name) {
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", r->base, name);
    CHECK(mkdir(path, 0755) == 0);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static void make_upper(rig *r) {
    r->upper_fd = open_dir(r, "upper");
    r->work_fd = open_dir(r, "work");
    img_upper_options options = {
        .upper_fd = r->upper_fd, .work_fd = r->work_fd, .owners = true, .max_fds = 64};
    r->upper = img_upper_new(r->tree, &options);
    CHECK(r->upper);
    img_node_at(r->tree, IMG_ROOT)->flags |= IMG_NODE_UPPER;
}

rig *rig_new(unsigned flags, unsigned threads, const char *base) {
    rig *r = calloc(1, sizeof *r);
    img_error err;
    CHECK(r);
    (void)snprintf(r->base, sizeof r->base, "%s", base ? base : "/tmp/fastpath-XXXXXX");
    CHECK(base || mkdtemp(r->base));
    r->archive = open(r->base, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    CHECK(r->archive >= 0);
    r->index = make_layer(r->archive);
    r->tree = img_tree_new();
    CHECK(r->tree && img_tree_add_layer(r->tree, r->index, r->archive, 0, NULL, false, &err) == 0);
    img_tree_seal(r->tree);
    r->upper_fd = r->work_fd = r->python = r->relay = -1;
    if (flags & RIG_UPPER)
        make_upper(r);
    r->stats = img_stats_new();
    r->body = malloc(FAST_BUFFER);
    CHECK(r->stats && r->body);
    make_pair(&r->kernel, &r->device);
    if (flags & RIG_PYTHON)
        make_pair(&r->python, &r->relay);
    CHECK(pipe2(r->log, O_CLOEXEC | O_NONBLOCK) == 0);
    r->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r->unique = 10;
    r->options = (img_fastpath_options){
        .device_fd = r->device,
        .relay_fd = r->relay,
        .log_fd = r->log[1],
        .end_fd = r->end_fd,
        .upper_fd = r->upper_fd,
        .threads = threads,
        .spin_us = 50,
        .default_permissions = true,
        .push = flags & RIG_PUSH,
    };
    if (!(flags & RIG_UNSTARTED))
        rig_start(r);
    return r;
}

void rig_start(rig *r) {
    img_error err;
    r->path = img_fastpath_start(r->tree, r->upper, r->stats, &r->options, &err);
    CHECK(r->path);
    if (r->python < 0)
        return;
    struct {
        struct fuse_in_header head;
        struct fuse_init_in init;
    } hello;
    CHECK(python_receives(r, &hello, sizeof hello) == sizeof hello);
    CHECK(hello.head.opcode == FUSE_INIT && hello.init.major == FUSE_KERNEL_VERSION);
    struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = 1 << 16};
    python_answers(r, hello.head.unique, 0, &out, sizeof out);
}

void rig_stop(rig *r) {
    img_fastpath_stop(r->path);
    img_fastpath_free(r->path);
    r->path = NULL;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at) {
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

void rig_free(rig *r) {
    const int fds[] = {r->archive, r->upper_fd, r->work_fd, r->log[0], r->log[1],
                       r->end_fd,  r->kernel,   r->device,  r->python, r->relay};
    img_error err;
    if (r->path)
        rig_stop(r);
    if (img_tree_check(r->tree, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.message);
        abort();
    }
    img_upper_free(r->upper);
    img_tree_free(r->tree);
    img_index_free(r->index);
    img_stats_free(r->stats);
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
    CHECK(nftw(r->base, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0 || errno == EBUSY);
    free(r->body);
    free(r);
}

/* ---- in place of the kernel --------------------------------------------------------------------
 */

void tell_raw(rig *r, const void *message, size_t size) {
    CHECK(send(r->kernel, message, size, MSG_NOSIGNAL) == (ssize_t)size);
}

uint64_t tell(rig *r, uint32_t opcode, uint64_t node, const void *arg, size_t size,
              const void *more, size_t more_size) {
    struct fuse_in_header in = {.len = (uint32_t)(sizeof in + size + more_size),
                                .opcode = opcode,
                                .unique = r->unique += 2,
                                .nodeid = node};
    struct iovec iov[3] = {
        {&in, sizeof in}, {(void *)(uintptr_t)arg, size}, {(void *)(uintptr_t)more, more_size}};
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = 3};
    CHECK(sendmsg(r->kernel, &message, MSG_NOSIGNAL) == (ssize_t)in.len);
    return in.unique;
}

int answer_to(rig *r, uint64_t unique) {
    for (;;) {
        ssize_t n = recv(r->kernel, r->body, FAST_BUFFER, 0);
        struct fuse_out_header out;
        CHECK(n >= (ssize_t)sizeof out);
        memcpy(&out, r->body, sizeof out);
        CHECK(out.len == (size_t)n);
        if (!out.unique) {
            r->notified++;
            continue;
        }
        CHECK(out.unique == unique);
        CHECK(out.error <= 0 && out.error > -4096 && (!out.error || n == sizeof out));
        r->size = (size_t)n - sizeof out;
        memmove(r->body, r->body + sizeof out, r->size);
        return out.error;
    }
}

int ask2(rig *r, uint32_t opcode, uint64_t node, const void *arg, size_t size, const void *more,
         size_t more_size) {
    return answer_to(r, tell(r, opcode, node, arg, size, more, more_size));
}

int ask(rig *r, uint32_t opcode, uint64_t node, const void *arg, size_t size) {
    return ask2(r, opcode, node, arg, size, NULL, 0);
}

int ask_name(rig *r, uint32_t opcode, uint64_t node, const char *name) {
    return ask(r, opcode, node, name, strlen(name) + 1);
}

uint64_t tell_declined(rig *r) {
    struct fuse_rename2_in move = {.newdir = IMG_ROOT, .flags = 2 /* RENAME_EXCHANGE */};
    return tell(r, FUSE_RENAME2, IMG_ROOT, &move, sizeof move, "x\0d", 4);
}

int ask_declined(rig *r) {
    return answer_to(r, tell_declined(r));
}

/* ---- in place of pyfuse3 -----------------------------------------------------------------------
 */

size_t python_receives(rig *r, void *message, size_t room) {
    ssize_t n = recv(r->python, message, room, 0);
    CHECK(n >= 0 || errno == ECONNRESET);
    return n < 0 ? 0 : (size_t)n;
}

void python_answers(rig *r, uint64_t unique, int error, const void *body, size_t size) {
    struct fuse_out_header out = {
        .len = (uint32_t)(sizeof out + size), .error = error, .unique = unique};
    struct iovec iov[2] = {{&out, sizeof out}, {(void *)(uintptr_t)body, size}};
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = 2};
    CHECK(sendmsg(r->python, &message, MSG_NOSIGNAL) == (ssize_t)out.len);
}

bool logged(rig *r, const char *words) {
    char lines[8192];
    struct pollfd fd = {.fd = r->log[0], .events = POLLIN};
    if (poll(&fd, 1, PATIENCE * 1000) != 1)
        return false;
    ssize_t n = read(r->log[0], lines, sizeof lines - 1);
    CHECK(n > 0 && lines[n - 1] == '\n');
    lines[n] = 0;
    return strstr(lines, words);
}

/* ---- the tree ----------------------------------------------------------------------------- */

img_id look_up(rig *r, img_id parent, const char *name) {
    struct fuse_entry_out entry;
    CHECK(ask_name(r, FUSE_LOOKUP, parent, name) == 0 && r->size == sizeof entry);
    memcpy(&entry, r->body, sizeof entry);
    CHECK(entry.nodeid && entry.attr.ino == entry.nodeid);
    return (img_id)entry.nodeid;
}

img_id node_of(rig *r, const char *path) {
    img_id id = 0;
    (void)pthread_rwlock_rdlock(&r->tree->lock);
    CHECK(img_tree_resolve(r->tree, path, strlen(path), false, &id) == 0);
    (void)pthread_rwlock_unlock(&r->tree->lock);
    return id;
}

uint64_t lookups_of(rig *r, img_id id) {
    (void)pthread_rwlock_rdlock(&r->tree->lock);
    const img_node *node = img_tree_node(r->tree, id);
    uint64_t lookups = node ? __atomic_load_n(&node->lookups, __ATOMIC_RELAXED) : 0;
    (void)pthread_rwlock_unlock(&r->tree->lock);
    return lookups;
}

struct fuse_attr attr_of(rig *r, img_id id) {
    struct fuse_attr_out out;
    CHECK(ask(r, FUSE_GETATTR, id, NULL, 0) == 0 && r->size == sizeof out);
    memcpy(&out, r->body, sizeof out);
    return out.attr;
}

void copy_file_up(rig *r, const char *path, const char *contents) {
    int fd = openat(r->upper_fd, path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    CHECK(fd >= 0 && write(fd, contents, strlen(contents)) == (ssize_t)strlen(contents));
    (void)close(fd);
    img_id id = node_of(r, path);
    (void)pthread_rwlock_wrlock(&r->tree->lock);
    img_node *node = img_node_at(r->tree, id);
    node->flags |= IMG_NODE_UPPER;
    node->size = strlen(contents);
    (void)pthread_rwlock_unlock(&r->tree->lock);
}
