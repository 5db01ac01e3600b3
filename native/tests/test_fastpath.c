/* Tests the fast path's answers, operation by operation, between two sockets (fastrig.h). */
#define _GNU_SOURCE /* SEEK_DATA */
#include "fastrig.h"

#include <sys/statvfs.h>
#include <sys/xattr.h>

static void init_cases(rig *r, struct fuse_init_in *in, size_t size, int error) {
    CHECK(ask(r, FUSE_INIT, 0, in, size) == error);
}

static void test_init(void) {
    rig *r = rig_new(0, 1, NULL);
    struct fuse_init_in in = {.major = 7, .minor = 33, .max_readahead = 1 << 20};
    init_cases(r, &in, sizeof in, -EPROTO);
    CHECK(logged(r, "7.33"));
    in = (struct fuse_init_in){.major = 8, .minor = 40};
    init_cases(r, &in, sizeof in, -EPROTO);
    init_cases(r, &in, 8, -EPROTO); /* without flags */
    in = (struct fuse_init_in){.major = 7, .minor = 45, .max_readahead = 1 << 20};
    init_cases(r, &in, sizeof in, 0);
    struct fuse_init_out out;
    CHECK(r->size == sizeof out);
    memcpy(&out, r->body, sizeof out);
    CHECK(out.major == 7 && out.flags == 0 && out.flags2 == 0); /* nothing was offered */
    CHECK(out.max_write == FAST_MAX_WRITE && out.max_readahead == 1 << 20);
    in.flags = UINT32_MAX;
    in.flags2 = UINT32_MAX;
    init_cases(r, &in, sizeof in, 0);
    memcpy(&out, r->body, sizeof out);
    const uint32_t stateless = FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT |
                               FUSE_WRITEBACK_CACHE | FUSE_HANDLE_KILLPRIV_V2 | FUSE_DONT_MASK |
                               FUSE_POSIX_ACL | FUSE_CACHE_SYMLINKS | FUSE_DO_READDIRPLUS;
    CHECK((out.flags & stateless) == stateless);
    const uint32_t not_ours = FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_ATOMIC_O_TRUNC |
                              FUSE_HANDLE_KILLPRIV | FUSE_AUTO_INVAL_DATA;
    CHECK(!(out.flags & not_ours) && out.flags2 == 0);
    init_cases(r, &in, offsetof(struct fuse_init_in, flags2), 0); /* as before 7.36 */
    rig_free(r);
}

static void test_lookup_and_forget(void) {
    rig *r = rig_new(0, 2, NULL);
    char name[258] = "";
    img_id d = look_up(r, IMG_ROOT, "d"), a = look_up(r, d, "a");
    CHECK(look_up(r, d, "a") == a && lookups_of(r, a) == 2);
    CHECK(look_up(r, d, ".") == d && look_up(r, d, "..") == IMG_ROOT);
    struct fuse_entry_out entry;
    CHECK(ask_name(r, FUSE_LOOKUP, d, "none") == 0 && r->size == sizeof entry);
    memcpy(&entry, r->body, sizeof entry);
    CHECK(!entry.nodeid && entry.entry_valid >= 86400);
    memset(name, 'n', 255);
    CHECK(ask_name(r, FUSE_LOOKUP, d, name) == 0);
    name[255] = 'n';
    CHECK(ask_name(r, FUSE_LOOKUP, d, name) == -ENAMETOOLONG);
    CHECK(ask_name(r, FUSE_LOOKUP, a, "x") == -ENOTDIR);
    CHECK(ask_name(r, FUSE_LOOKUP, 999999, "x") == -ESTALE);
    CHECK(ask_name(r, FUSE_LOOKUP, 0, "x") == -ESTALE);
    CHECK(ask_name(r, FUSE_LOOKUP, UINT64_C(1) << 40, "x") == -ESTALE);
    struct fuse_forget_in forget = {.nlookup = 1};
    (void)tell(r, FUSE_FORGET, a, &forget, sizeof forget, NULL, 0);
    (void)attr_of(r, a); /* FORGET has no answer, so this request's answer comes next */
    struct {
        struct fuse_batch_forget_in head;
        struct fuse_forget_one one[3];
    } batch = {{.count = 7}, {{a, 1}, {d, 2}, {UINT64_C(1) << 40, 1}}}; /* count is wrong */
    (void)tell(r, FUSE_BATCH_FORGET, 0, &batch, sizeof batch, NULL, 0);
    for (int i = 0; i < 1000 && (lookups_of(r, a) || lookups_of(r, d)); i++)
        (void)attr_of(r, IMG_ROOT);
    CHECK(lookups_of(r, a) == 0 && lookups_of(r, d) == 0);
    (void)tell(r, FUSE_FORGET, a, &forget, sizeof forget, NULL,
               0); /* one lookup more than were counted */
    CHECK(look_up(r, d, "a") == a);
    rig_free(r);
}

static void test_attributes(void) {
    rig *r = rig_new(RIG_UPPER, 2, NULL);
    img_id a = node_of(r, "d/a"), x = node_of(r, "x");
    struct fuse_attr attr = attr_of(r, a);
    CHECK(attr.ino == a && attr.size == 7 && attr.mode == (S_IFREG | 0644) && attr.nlink == 1);
    CHECK(attr_of(r, IMG_ROOT).nlink == 4);
    CHECK(ask(r, FUSE_GETATTR, 12345678, NULL, 0) == -ESTALE);
    wire_statx_in in = {.sx_mask = 0xfff};
    wire_statx_out out;
    CHECK(ask(r, WIRE_STATX, a, &in, sizeof in) == 0 && r->size == sizeof out);
    memcpy(&out, r->body, sizeof out);
    CHECK(out.stat.ino == a && out.stat.size == 7 && out.stat.mode == (S_IFREG | 0644));
    CHECK(!(out.stat.mask & 0x800)); /* STATX_BTIME: layers do not record it */
    copy_file_up(r, "x", "upper");
    CHECK(ask(r, WIRE_STATX, x, &in, sizeof in) == 0);
    memcpy(&out, r->body, sizeof out);
    CHECK(out.stat.size == 5 && (!(out.stat.mask & 0x800) || out.stat.btime.tv_sec > 0));
    CHECK(ask(r, WIRE_STATX, 7777777, &in, sizeof in) == -ESTALE);
    CHECK(ask(r, FUSE_READLINK, node_of(r, "l"), NULL, 0) == 0);
    CHECK(r->size == 3 && memcmp(r->body, "d/a", 3) == 0);
    CHECK(ask(r, FUSE_READLINK, a, NULL, 0) == -EINVAL);
    struct fuse_access_in mask = {.mask = 1};
    CHECK(ask(r, FUSE_ACCESS, a, &mask, sizeof mask) == -EACCES);
    CHECK(ask(r, FUSE_ACCESS, IMG_ROOT, &mask, sizeof mask) == 0);
    struct fuse_statfs_out fs;
    CHECK(ask(r, FUSE_STATFS, IMG_ROOT, NULL, 0) == 0 && r->size == sizeof fs);
    memcpy(&fs, r->body, sizeof fs);
    CHECK(fs.st.namelen == 255 && fs.st.blocks > 0);
    CHECK(ask(r, FUSE_OPEN, a, NULL, 0) == -ENOSYS && ask(r, FUSE_FLUSH, a, NULL, 0) == -ENOSYS);
    CHECK(ask(r, FUSE_IOCTL, a, NULL, 0) == -ENOTTY);
    rig_free(r);
}

/* ---- listings ----------------------------------------------------------------------------- */

/* Lists names from *offset on into names (16 bytes each), as many as size bytes hold. Their number.
 */
static size_t page(rig *r, bool plus, img_id dir, uint32_t size, uint64_t *offset,
                   char names[][16]) {
    struct fuse_read_in in = {.offset = *offset, .size = size};
    size_t n = 0, head = plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
    CHECK(ask(r, plus ? FUSE_READDIRPLUS : FUSE_READDIR, dir, &in, sizeof in) == 0);
    CHECK(r->size <= size);
    for (size_t at = 0; at < r->size;) {
        struct fuse_direntplus one;
        struct fuse_dirent *entry = plus ? &one.dirent : (void *)&one;
        CHECK(r->size - at >= head);
        memcpy(&one, r->body + at, head);
        CHECK(entry->namelen < 16 && r->size - at >= FUSE_DIRENT_ALIGN(head + entry->namelen));
        memcpy(names[n], r->body + at + head, entry->namelen);
        names[n++][entry->namelen] = 0;
        CHECK(entry->off > *offset);
        *offset = entry->off;
        if (plus)
            CHECK(!one.entry_out.nodeid || one.entry_out.nodeid == entry->ino);
        at += FUSE_DIRENT_ALIGN(head + entry->namelen);
    }
    return n;
}

static void remove_from_tree(rig *r, const char *dir, const char *name) {
    img_id parent = node_of(r, dir);
    (void)pthread_rwlock_wrlock(&r->tree->lock);
    img_tree_drop_name(r->tree, img_tree_dentry(r->tree, parent, name, strlen(name)), true);
    (void)pthread_rwlock_unlock(&r->tree->lock);
}

static void test_listing_by_pages(void) {
    static char names[4096][16];
    for (int plus = 0; plus < 2; plus++) {
        rig *r = rig_new(0, 2, NULL);
        img_id many = node_of(r, "many");
        bool seen[MANY] = {false};
        uint64_t offset = 0;
        size_t n, total = 0;
        CHECK(page(r, plus, many, 8, &offset, names) == 0 && offset == 0); /* no entry fits */
        while ((n = page(r, plus, many, 600, &offset, names))) {
            for (size_t i = 0; i < n; i++) {
                if (total++ < 2) {
                    CHECK(names[i][0] == '.');
                    continue;
                }
                int number = atoi(names[i]);
                CHECK(!seen[number]);
                seen[number] = true;
            }
            if (total > 20 && total < 40) { /* one that is to come, and one that was listed */
                remove_from_tree(r, "many", "0099");
                remove_from_tree(r, "many", "0003");
                seen[99] = true;
                total += 60;
            }
        }
        for (int i = 0; i < MANY; i++)
            CHECK(seen[i]);
        if (plus) {
            CHECK(lookups_of(r, node_of(r, "many/0007")) == 1); /* "." and ".." are not counted */
            CHECK(lookups_of(r, many) == 0);
        }
        offset = UINT64_C(1) << 33;
        CHECK(page(r, plus, many, 600, &offset, names) == 0);
        struct fuse_read_in in = {.size = 600};
        CHECK(ask(r, FUSE_READDIR, node_of(r, "x"), &in, sizeof in) == -ENOTDIR);
        CHECK(ask(r, FUSE_READDIR, 1 << 20, &in, sizeof in) == -ESTALE);
        rig_free(r);
    }
}

/* ---- xattrs ------------------------------------------------------------------------------- */

static int get_xattr(rig *r, img_id id, const char *name, uint32_t size) {
    struct fuse_getxattr_in in = {.size = size};
    return ask2(r, FUSE_GETXATTR, id, &in, sizeof in, name, strlen(name) + 1);
}

static void test_xattrs(void) {
    rig *r = rig_new(RIG_PYTHON, 2, NULL);
    img_id x = node_of(r, "x");
    struct fuse_getxattr_out size;
    CHECK(get_xattr(r, x, "user.k", 0) == 0 && r->size == sizeof size);
    memcpy(&size, r->body, sizeof size);
    CHECK(size.size == 5);
    CHECK(get_xattr(r, x, "user.k", 5) == 0 && r->size == 5 && !memcmp(r->body, "value", 5));
    CHECK(get_xattr(r, x, "user.k", 4) == -ERANGE && get_xattr(r, x, "user.none", 9) == -ENODATA);
    CHECK(get_xattr(r, x, "user.empty", 9) == 0 && r->size == 0);
    CHECK(get_xattr(r, 1 << 20, "user.k", 9) == -ESTALE);
    struct fuse_getxattr_in in = {.size = 0};
    static const char all[] = "user.k\0user.empty\0trusted.t";
    CHECK(ask(r, FUSE_LISTXATTR, x, &in, sizeof in) == 0);
    memcpy(&size, r->body, sizeof size);
    CHECK(size.size == sizeof all);
    in.size = sizeof all - 1;
    CHECK(ask(r, FUSE_LISTXATTR, x, &in, sizeof in) == -ERANGE);
    in.size = sizeof all;
    CHECK(ask(r, FUSE_LISTXATTR, x, &in, sizeof in) == 0 && r->size == sizeof all);
    CHECK(memcmp(r->body, all, sizeof all) == 0);
    rig_free(r);
}

static int set_xattr(rig *r, img_id id, const char *name_and_value, size_t len, uint32_t size,
                     uint32_t flags) {
    struct fuse_setxattr_in set = {.size = size, .flags = flags};
    return ask2(r, FUSE_SETXATTR, id, &set, FUSE_COMPAT_SETXATTR_IN_SIZE, name_and_value, len);
}

/* On the root, which is in the upper, and on a file that is copied up for it. */
static void test_set_xattrs(void) {
    enum { CREATE = 1, REPLACE = 2 };
    rig *r = rig_new(RIG_UPPER | RIG_PYTHON, 2, NULL);
    CHECK(set_xattr(r, IMG_ROOT, "trusted.n\0abc", 13, 3, REPLACE) == -ENODATA);
    CHECK(set_xattr(r, IMG_ROOT, "trusted.n\0abc", 13, 3, CREATE) == 0);
    CHECK(set_xattr(r, IMG_ROOT, "trusted.n\0abc", 13, 3, CREATE) == -EEXIST);
    CHECK(get_xattr(r, IMG_ROOT, "trusted.n", 9) == 0 && r->size == 3);
    CHECK(fgetxattr(r->upper_fd, "trusted.n", NULL, 0) == 3);
    CHECK(ask_name(r, FUSE_REMOVEXATTR, IMG_ROOT, "trusted.n") == 0);
    CHECK(ask_name(r, FUSE_REMOVEXATTR, IMG_ROOT, "trusted.n") == -ENODATA);
    CHECK(fgetxattr(r->upper_fd, "trusted.n", NULL, 0) == -1 && errno == ENODATA);
    CHECK(set_xattr(r, IMG_ROOT, "trusted.overlay.opaque\0y", 24, 1, 0) ==
          0); /* set by a program, so it is escaped */
    CHECK(fgetxattr(r->upper_fd, "trusted.overlay.opaque", NULL, 0) == -1);
    CHECK(fgetxattr(r->upper_fd, "trusted.overlay.overlay.opaque", NULL, 0) == 1);
    img_id x = node_of(r, "x");
    struct fuse_setxattr_in set = {.size = 3};
    char heard[256];
    uint64_t unique =
        tell(r, FUSE_SETXATTR, x, &set, FUSE_COMPAT_SETXATTR_IN_SIZE, "trusted.n\0abc", 13);
    CHECK(python_receives(r, heard, sizeof heard) > 0);
    const struct fuse_in_header *head = (const void *)heard;
    const struct fuse_open_in *open = (const void *)(head + 1);
    CHECK(head->unique == unique && head->opcode == FUSE_OPEN && head->nodeid == x);
    CHECK(open->flags == O_WRONLY); /* asks for the attributes only */
    copy_file_up(r, "x", "data");
    python_answers(r, unique, 0, NULL, 0);
    CHECK(answer_to(r, unique) == 0 && get_xattr(r, x, "trusted.n", 9) == 0);
    rig_free(r);
}

/* ---- contents ----------------------------------------------------------------------------- */

static int read_at(rig *r, img_id id, uint64_t offset, uint32_t size) {
    struct fuse_read_in in = {.offset = offset, .size = size};
    return ask(r, FUSE_READ, id, &in, sizeof in);
}

static int write_at(rig *r, img_id id, uint64_t offset, const char *data) {
    struct fuse_write_in in = {.offset = offset, .size = (uint32_t)strlen(data)};
    return ask2(r, FUSE_WRITE, id, &in, sizeof in, data, strlen(data));
}

static void test_read(void) {
    rig *r = rig_new(0, 2, NULL);
    img_id big = node_of(r, "big"), sparse = node_of(r, "s");
    CHECK(read_at(r, big, 4096, 8192) == 0 && r->size == 8192);
    for (size_t i = 0; i < r->size; i++)
        CHECK(r->body[i] == (char)((i + 4096) * 7 + (i + 4096) / 4096));
    CHECK(read_at(r, big, 0, 1 << 20) == 0 && r->size == BIG_SIZE);
    CHECK(read_at(r, big, BIG_SIZE - 1, 4096) == 0 && r->size == 1);
    CHECK(read_at(r, big, BIG_SIZE, 4096) == 0 && r->size == 0);
    CHECK(read_at(r, big, UINT64_MAX, UINT32_MAX) == 0 && r->size == 0);
    CHECK(read_at(r, sparse, SPARSE_AT - 1, 4098) == 0 && r->size == 4098);
    CHECK(!r->body[0] && r->body[1] == 'x' && r->body[4096] == 'x' && !r->body[4097]);
    CHECK(read_at(r, node_of(r, "cut"), 0, 8192) == -EIO);
    CHECK(read_at(r, node_of(r, "d"), 0, 1) == -EISDIR);
    CHECK(read_at(r, node_of(r, "l"), 0, 1) == -EINVAL);
    CHECK(read_at(r, 1 << 22, 0, 1) == -ESTALE);
    CHECK(ftruncate(r->archive, 5000) == 0); /* while it is in use: an error, no SIGBUS */
    CHECK(read_at(r, big, 0, BIG_SIZE) == -EIO);
    CHECK(read_at(r, big, 0, 1024) == 0 && r->size == 1024);
    rig_free(r);
}

static void test_seek(void) {
    rig *r = rig_new(RIG_UPPER, 2, NULL);
    img_id s = node_of(r, "s");
    static const struct {
        uint64_t from;
        uint32_t whence;
        uint64_t found;
        int error;
    } cases[] = {
        {0, SEEK_DATA, SPARSE_AT, 0},
        {0, SEEK_HOLE, 0, 0},
        {SPARSE_AT + 5, SEEK_DATA, SPARSE_AT + 5, 0},
        {SPARSE_AT + 5, SEEK_HOLE, SPARSE_AT + 4096, 0},
        {SPARSE_AT + 4096, SEEK_DATA, 0, -ENXIO},
        {SPARSE_SIZE, SEEK_HOLE, 0, -ENXIO},
        {0, 9, 0, -EINVAL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fuse_lseek_in in = {.offset = cases[i].from, .whence = cases[i].whence};
        struct fuse_lseek_out out;
        unsigned before = r->notified;
        CHECK(ask(r, FUSE_LSEEK, s, &in, sizeof in) == cases[i].error);
        CHECK(r->notified == before + 1); /* the kernel writes back first */
        if (cases[i].error)
            continue;
        memcpy(&out, r->body, sizeof out);
        CHECK(out.offset == cases[i].found);
    }
    struct fuse_lseek_in in = {.whence = SEEK_DATA};
    CHECK(ask(r, FUSE_LSEEK, node_of(r, "d"), &in, sizeof in) == -EINVAL);
    CHECK(ask(r, FUSE_LSEEK, 1 << 20, &in, sizeof in) == -ESTALE);
    copy_file_up(r, "s", "data");
    CHECK(ask(r, FUSE_LSEEK, s, &in, sizeof in) == 0);
    rig_free(r);
}

static void test_write_to_the_upper(void) {
    rig *r = rig_new(RIG_UPPER | RIG_PYTHON, 2, NULL);
    copy_file_up(r, "x", "0123456789");
    img_id x = node_of(r, "x");
    CHECK(write_at(r, x, 8, "abcd") == 0);
    struct fuse_write_out out;
    CHECK(r->size == sizeof out);
    memcpy(&out, r->body, sizeof out);
    CHECK(out.size == 4 && attr_of(r, x).size == 12);
    CHECK(read_at(r, x, 0, 100) == 0 && r->size == 12 && !memcmp(r->body, "01234567abcd", 12));
    CHECK(write_at(r, x, INT64_MAX - 1, "abcd") == -EFBIG);
    CHECK(write_at(r, x, UINT64_MAX, "abcd") == -EFBIG);
    CHECK(write_at(r, 1 << 20, 0, "abcd") == -ESTALE);
    CHECK(write_at(r, IMG_ROOT, 0, "abcd") < 0);
    struct fuse_write_in lie = {.size = 5};
    CHECK(ask2(r, FUSE_WRITE, x, &lie, sizeof lie, "abcd", 4) == -EINVAL);
    struct fuse_fallocate_in room = {.offset = 0, .length = 8192};
    CHECK(ask(r, FUSE_FALLOCATE, x, &room, sizeof room) == 0 && attr_of(r, x).size == 8192);
    struct fuse_fsync_in sync = {.fsync_flags = 1};
    CHECK(ask(r, FUSE_FSYNC, x, &sync, sizeof sync) == 0);
    CHECK(ask(r, FUSE_FSYNCDIR, IMG_ROOT, &sync, sizeof sync) == 0);
    CHECK(ask(r, FUSE_SYNCFS, IMG_ROOT, &sync, 8) == 0);
    struct fuse_setattr_in set = {.valid = FATTR_SIZE, .size = 3};
    CHECK(ask(r, FUSE_SETATTR, x, &set, sizeof set) == 0 && attr_of(r, x).size == 3);
    struct fuse_copy_file_range_in copy = {.off_in = 0, .nodeid_out = x, .len = 7};
    CHECK(ask(r, FUSE_COPY_FILE_RANGE, node_of(r, "d/a"), &copy, sizeof copy) == 0);
    CHECK(read_at(r, x, 0, 100) == 0 && r->size == 7 && !memcmp(r->body, "lower a", 7));
    CHECK(ask(r, WIRE_COPY_FILE_RANGE_64, node_of(r, "d/a"), &copy, sizeof copy) == 0);
    CHECK(r->size == 8);
    copy.nodeid_out = UINT64_C(1) << 40;
    CHECK(ask(r, FUSE_COPY_FILE_RANGE, x, &copy, sizeof copy) == -ESTALE);
    rig_free(r);
}

static void test_without_an_upper_nothing_changes(void) {
    rig *r = rig_new(RIG_PYTHON, 1, NULL);
    img_id a = node_of(r, "d/a");
    struct fuse_setattr_in set = {.valid = FATTR_MODE, .mode = 0600};
    struct fuse_mkdir_in dir = {.mode = 0755};
    CHECK(write_at(r, a, 0, "x") == -EROFS);
    CHECK(ask(r, FUSE_SETATTR, a, &set, sizeof set) == -EROFS);
    CHECK(ask2(r, FUSE_MKDIR, IMG_ROOT, &dir, sizeof dir, "n", 2) == -EROFS);
    CHECK(ask_name(r, FUSE_UNLINK, IMG_ROOT, "x") == -EROFS);
    rig_free(r);
}

/* ---- names -------------------------------------------------------------------------------- */

static img_id create(rig *r, const char *name) {
    struct fuse_create_in in = {.mode = S_IFREG | 0666, .umask = 022};
    struct fuse_entry_out entry;
    CHECK(ask2(r, FUSE_CREATE, IMG_ROOT, &in, sizeof in, name, strlen(name) + 1) == 0);
    CHECK(r->size == sizeof entry + sizeof(struct fuse_open_out));
    memcpy(&entry, r->body, sizeof entry);
    CHECK(entry.attr.mode == (S_IFREG | 0644));
    return (img_id)entry.nodeid;
}

static void test_nameless(void) {
    rig *r = rig_new(RIG_UPPER | RIG_PYTHON, 2, NULL);
    struct fuse_create_in in = {.mode = S_IFREG | 0666, .umask = 022};
    struct fuse_entry_out entry;
    struct stat st;
    CHECK(ask2(r, FUSE_TMPFILE, IMG_ROOT, &in, sizeof in, "/", 2) == 0);
    memcpy(&entry, r->body, sizeof entry);
    img_id id = (img_id)entry.nodeid;
    CHECK(entry.attr.nlink == 0 && entry.attr.mode == (S_IFREG | 0644) && lookups_of(r, id) == 1);
    struct fuse_link_in link = {.oldnodeid = id};
    CHECK(ask2(r, FUSE_LINK, IMG_ROOT, &link, sizeof link, "named", 6) == 0);
    CHECK(attr_of(r, id).nlink == 1 && fstatat(r->upper_fd, "named", &st, 0) == 0);
    CHECK(entry.attr.ino == IMG_INO_UPPER + st.st_ino);
    CHECK(ask2(r, FUSE_TMPFILE, node_of(r, "x"), &in, sizeof in, "/", 2) == -ENOTDIR);
    CHECK(ask2(r, FUSE_TMPFILE, 1 << 20, &in, sizeof in, "/", 2) == -ESTALE);
    rig_free(r);
}

static void test_names(void) {
    rig *r = rig_new(RIG_UPPER | RIG_PYTHON, 2, NULL);
    struct stat st;
    img_id f = create(r, "f");
    CHECK(lookups_of(r, f) == 1 && fstatat(r->upper_fd, "f", &st, 0) == 0);
    struct fuse_create_in in = {.mode = S_IFREG | 0666};
    CHECK(ask2(r, FUSE_CREATE, IMG_ROOT, &in, sizeof in, "f", 2) == -EEXIST);
    struct fuse_rename2_in move = {.newdir = IMG_ROOT};
    CHECK(ask2(r, FUSE_RENAME2, IMG_ROOT, &move, sizeof move, "f\0g", 4) == 0);
    CHECK(fstatat(r->upper_fd, "f", &st, 0) < 0 && fstatat(r->upper_fd, "g", &st, 0) == 0);
    move.flags = 1; /* RENAME_NOREPLACE */
    CHECK(ask2(r, FUSE_RENAME2, IMG_ROOT, &move, sizeof move, "g\0x", 4) == -EEXIST);
    move.newdir = UINT64_C(1) << 40;
    CHECK(ask2(r, FUSE_RENAME2, IMG_ROOT, &move, sizeof move, "g\0h", 4) == -ESTALE);
    struct fuse_link_in link = {.oldnodeid = f};
    CHECK(ask2(r, FUSE_LINK, IMG_ROOT, &link, sizeof link, "h", 2) == 0);
    CHECK(attr_of(r, f).nlink == 2 && lookups_of(r, f) == 2);
    CHECK(ask_name(r, FUSE_UNLINK, IMG_ROOT, "g") == 0);
    CHECK(ask_name(r, FUSE_UNLINK, IMG_ROOT, "h") == 0);
    CHECK(ask_name(r, FUSE_UNLINK, IMG_ROOT, "h") == -ENOENT);
    CHECK(ask_name(r, FUSE_UNLINK, IMG_ROOT, "d") == -EISDIR);
    /* without names, but with lookups: it can be written and read until it is forgotten */
    CHECK(attr_of(r, f).nlink == 0 && write_at(r, f, 0, "orphan") == 0);
    CHECK(read_at(r, f, 0, 99) == 0 && r->size == 6);
    char orphan[IMG_ORPHAN_BYTES];
    img_upper_orphan(f, orphan);
    CHECK(fstatat(r->work_fd, orphan, &st, 0) == 0 && st.st_size == 6);
    struct fuse_forget_in forget = {.nlookup = 2};
    (void)tell(r, FUSE_FORGET, f, &forget, sizeof forget, NULL, 0);
    for (int i = 0; i < 1000 && fstatat(r->work_fd, orphan, &st, 0) == 0; i++)
        (void)attr_of(r, IMG_ROOT);
    CHECK(fstatat(r->work_fd, orphan, &st, 0) < 0 && ask(r, FUSE_GETATTR, f, NULL, 0) == -ESTALE);
    struct fuse_mkdir_in dir = {.mode = 0777, .umask = 077};
    CHECK(ask2(r, FUSE_MKDIR, IMG_ROOT, &dir, sizeof dir, "n", 2) == 0);
    CHECK(fstatat(r->upper_fd, "n", &st, 0) == 0 && st.st_mode == (S_IFDIR | 0700));
    CHECK(ask2(r, FUSE_SYMLINK, IMG_ROOT, "sl\0to", 6, NULL, 0) == 0);
    CHECK(ask_name(r, FUSE_RMDIR, IMG_ROOT, "n") == 0);
    /* a name of the layers leaves a whiteout */
    CHECK(ask_name(r, FUSE_UNLINK, IMG_ROOT, "big") == 0);
    CHECK(fstatat(r->upper_fd, "big", &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISCHR(st.st_mode));
    rig_free(r);
}

/* ---- copy-up ------------------------------------------------------------------------------ */

typedef struct open_message {
    struct fuse_in_header head;
    struct fuse_open_in open;
} open_message;

static uint64_t write_to_lower(rig *r, img_id id, open_message *heard) {
    struct fuse_write_in in = {.offset = 2, .size = 2};
    uint64_t unique = tell(r, FUSE_WRITE, id, &in, sizeof in, "XY", 2);
    CHECK(python_receives(r, heard, sizeof *heard) == sizeof *heard);
    CHECK(heard->head.unique == unique && heard->head.opcode == FUSE_OPEN);
    CHECK(heard->head.nodeid == id && heard->open.flags == O_RDWR);
    CHECK(heard->head.len == sizeof *heard);
    return unique;
}

static void test_python_copies_a_lower_file_up(void) {
    rig *r = rig_new(RIG_UPPER | RIG_PYTHON, 2, NULL);
    img_id x = node_of(r, "x"), big = node_of(r, "big"), s = node_of(r, "s");
    struct fuse_open_out opened = {0};
    open_message heard;
    uint64_t unique = write_to_lower(r, x, &heard);
    copy_file_up(r, "x", "with xattrs");
    python_answers(r, unique, 0, &opened, sizeof opened);
    CHECK(answer_to(r, unique) == 0);
    CHECK(read_at(r, x, 0, 99) == 0 && r->size == 11 && !memcmp(r->body, "wiXY xattrs", 11));
    unique = write_to_lower(r, big, &heard);
    python_answers(r, unique, -EDQUOT, NULL, 0); /* nothing was unlinked that may make space */
    CHECK(answer_to(r, unique) == -EDQUOT);
    img_upper_note_orphan(r->upper);
    unique = write_to_lower(r, big, &heard);
    python_answers(r, unique, -EDQUOT, NULL, 0); /* sent once more after a while */
    CHECK(python_receives(r, &heard, sizeof heard) == sizeof heard && heard.head.unique == unique);
    python_answers(r, unique, -EDQUOT, NULL, 0);
    CHECK(answer_to(r, unique) == -EDQUOT);
    unique = write_to_lower(r, big, &heard);
    python_answers(r, unique, -EACCES, NULL, 0);
    CHECK(answer_to(r, unique) == -EACCES);
    unique = write_to_lower(r, s, &heard); /* no error, but no copy-up: an error, no loop */
    python_answers(r, unique, 0, &opened, sizeof opened);
    CHECK(answer_to(r, unique) == -EIO);
    CHECK(__atomic_load_n(&r->stats->copy_up_waits, __ATOMIC_RELAXED) == 5);
    /* Python must copy up the node that is written to, not the one that is read */
    struct fuse_copy_file_range_in copy = {.nodeid_out = big, .len = 7};
    unique = tell(r, FUSE_COPY_FILE_RANGE, x, &copy, sizeof copy, NULL, 0);
    CHECK(python_receives(r, &heard, sizeof heard) == sizeof heard && heard.head.nodeid == big);
    python_answers(r, unique, -ENOMEM, NULL, 0);
    CHECK(answer_to(r, unique) == -ENOMEM);
    rig_free(r);
}

int main(void) {
    test_init();
    test_lookup_and_forget();
    test_attributes();
    test_listing_by_pages();
    test_xattrs();
    test_set_xattrs();
    test_read();
    test_seek();
    test_write_to_the_upper();
    test_without_an_upper_nothing_changes();
    test_names();
    test_nameless();
    test_python_copies_a_lower_file_up();
    return 0;
}
