/* The scanner with archives that are built byte by byte: it finds the members, pieces of any size
 * give the same index, and no cut or damaged archive makes it crash, leak or leave its memory (the
 * test runs under the sanitizers).  Deterministic: the random numbers have fixed seeds. */

#define _GNU_SOURCE /* memfd_create */

#include "check.h"
#include "index/indexbuild.h"
#include "seal.h"
#include "tar/scanfd.h"
#include "tar/tarblock.h"
#include "tar/tarscan.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- a tar in memory ---- */

typedef struct tar {
    unsigned char *data;
    size_t len, cap;
    size_t headers[64]; /* offsets of the blocks that have a checksum */
    size_t n_headers;
} tar;

static void add(tar *t, const void *data, size_t len) {
    if (t->len + len + TAR_BLOCK > t->cap) {
        t->cap = 2 * (t->len + len + TAR_BLOCK);
        t->data = realloc(t->data, t->cap);
        CHECK(t->data);
    }
    if (len)
        memcpy(t->data + t->len, data, len);
    t->len += len;
}

static void pad(tar *t) {
    static const unsigned char zero[TAR_BLOCK];
    add(t, zero, (TAR_BLOCK - t->len % TAR_BLOCK) % TAR_BLOCK);
}

static void end(tar *t) {
    static const unsigned char zero[2 * TAR_BLOCK];
    add(t, zero, sizeof zero);
}

static void sum(unsigned char *block) {
    unsigned total = 0;
    char text[8];
    memset(block + 148, ' ', 8);
    for (unsigned i = 0; i < TAR_BLOCK; i++)
        total += block[i];
    snprintf(text, sizeof text, "%06o", total & 0777777);
    memcpy(block + 148, text, 7);
}

static unsigned char *last_header(tar *t) {
    return t->data + t->headers[t->n_headers - 1];
}

/* Appends a header with a name, a type and a size; "ustar\0" "00" is magic. */
static void header(tar *t, const char *name, char type, uint64_t size) {
    unsigned char block[TAR_BLOCK] = {0};
    char text[16];
    strncpy((char *)block, name, 100);
    memcpy(block + 100, "0000644", 7);
    memcpy(block + 108, "0001750", 7);
    memcpy(block + 116, "0001751", 7);
    snprintf(text, sizeof text, "%011" PRIo64, size);
    memcpy(block + 124, text, 11);
    memcpy(block + 136, "14000000000", 11);
    block[156] = (unsigned char)type;
    memcpy(block + 257, "ustar\00000", 8);
    sum(block);
    t->headers[t->n_headers++] = t->len;
    CHECK(t->n_headers < 64);
    add(t, block, sizeof block);
}

static void field(tar *t, size_t at, const void *value, size_t len) {
    unsigned char *block = last_header(t);
    memcpy(block + at, value, len);
    sum(block);
}

static void member(tar *t, const char *name, char type, const char *contents, size_t len) {
    header(t, name, type, len);
    add(t, contents, len);
    pad(t);
}

/* Appends a PAX record to text. */
static size_t record(char *text, size_t at, const char *key, const char *value, size_t value_len) {
    size_t body = strlen(key) + value_len + 3, len = body + 1, digits;
    char number[24];
    while (digits = (size_t)snprintf(number, sizeof number, "%zu", len), len != body + digits)
        len = body + digits;
    at += (size_t)sprintf(text + at, "%zu %s=", len, key);
    memcpy(text + at, value, value_len);
    text[at + value_len] = '\n';
    return at + value_len + 1;
}

static void pax1(tar *t, const char *key, const char *value) {
    char text[4096];
    member(t, "PaxHeaders/x", 'x', text, record(text, 0, key, value, strlen(value)));
}

/* ---- scanning it ---- */

static img_index *scan(const tar *t, size_t piece, img_error *err) {
    img_scanner *scanner = img_scanner_new();
    img_index *index = NULL;
    int result = 0;
    memset(err, 0, sizeof *err);
    for (size_t at = 0; at < t->len && result == 0; at += piece) {
        size_t left = t->len - at, n = left < piece ? left : piece;
        /* Each piece is malloc'ed by itself, so that the sanitizer sees a read beyond it. */
        unsigned char *copy = malloc(n);
        memcpy(copy, t->data + at, n);
        result = img_scanner_feed(scanner, copy, n, err);
        free(copy);
    }
    if (result == 0)
        index = img_scanner_finish(scanner, err);
    img_scanner_free(scanner);
    if (!index)
        CHECK(err->code == EBADMSG || err->code == E2BIG);
    return index;
}

static int memory_file(const void *data, size_t len) {
    int fd = memfd_create("test", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, data, len) == (ssize_t)len);
    return fd;
}

static img_index *scan_file(const tar *t, img_error *err) {
    int fd = memory_file(t->data, t->len);
    memset(err, 0, sizeof *err);
    img_index *index = img_scan_fd(fd, 0, t->len, err);
    close(fd);
    return index;
}

static bool same_text(const img_index *a, uint32_t a_at, const img_index *b, uint32_t b_at,
                      size_t len) {
    return len == 0 || memcmp(a->pool + a_at, b->pool + b_at, len) == 0;
}

static void check_same(const img_index *a, const img_index *b) {
    CHECK(memcmp(&a->head, &b->head, sizeof a->head) == 0);
    CHECK(memcmp(a->entries, b->entries, a->head.n_entries * sizeof *a->entries) == 0);
    CHECK(a->head.n_extents == 0 ||
          memcmp(a->extents, b->extents, a->head.n_extents * sizeof *a->extents) == 0);
    CHECK(same_text(a, 0, b, 0, a->head.pool_bytes));
}

static void expect_error(tar *t, int code, const char *part) {
    img_error err, other;
    img_index *index = scan(t, 1 << 20, &err);
    if (index || err.code != code || !strstr(err.message, part)) {
        fprintf(stderr, "expected %d %s, got %s %d\n", code, part, err.message, err.code);
        abort();
    }
    CHECK(!scan(t, 7, &other));
    CHECK(other.code == err.code && other.offset == err.offset);
    CHECK(strcmp(other.message, err.message) == 0 && strcmp(other.member, err.member) == 0);
    free(t->data);
    *t = (tar){0};
}

/* Scans the tar in one piece, and frees it. */
static img_index *expect_index(tar *t) {
    img_error err;
    img_index *index = scan(t, 1 << 20, &err);
    if (!index) {
        fprintf(stderr, "%s (member %s, offset %" PRIu64 ")\n", err.message, err.member,
                err.offset);
        abort();
    }
    free(t->data);
    *t = (tar){0};
    return index;
}

static bool entry_is(const img_index *index, size_t i, const char *dir, const char *name) {
    const img_entry *e = &index->entries[i];
    return e->dir_len == strlen(dir) && e->name_len == strlen(name) &&
           memcmp(index->pool + e->dir, dir, e->dir_len) == 0 &&
           memcmp(index->pool + e->name, name, e->name_len) == 0;
}

/* ---- an archive with members of all kinds, for the loops below ---- */

static void add_plain(tar *t) {
    char text[8192] = {0};
    size_t len = 0;
    header(t, "./", '5', 0);
    member(t, "dir/file", '0', "contents", 8);
    header(t, "dir/hard", '1', 0);
    field(t, 157, "./dir/file", 10);
    header(t, "dir/sym", '2', 0);
    field(t, 157, "../x", 4);
    header(t, "dir/dev", '3', 0);
    field(t, 329,
          "0000012\0"
          "1000000",
          16);
    header(t, "dir/fifo", '6', 0);
    header(t, "prefixed", '0', 0);
    field(t, 345, "a/prefix", 8);
    memset(text, 'n', 150);
    text[100] = '/';
    member(t, "././@LongLink", 'L', text, 151);
    member(t, "cut", '0', "x", 1);
    memset(text, 'k', 200);
    member(t, "././@LongLink", 'K', text, 201);
    header(t, "longlink", '2', 0);
    len = record(text, 0, "comment", "of all", 6);
    len = record(text, len, "SCHILY.xattr.user.all", "a\0=\n", 4);
    member(t, "pax_global_header", 'g', text, len);
    len = record(text, 0, "mtime", "-12.5", 5);
    len = record(text, len, "path", "p/a/x", 5);
    len = record(text, len, "uid", "4000000", 7);
    len = record(text, len, "SCHILY.xattr.user.own", "", 0);
    len = record(text, len, "LIBARCHIVE.xattr.user.%63", "AAEC", 4);
    len = record(text, len, "SCHILY.acl.access", "user::rwx,user:7:r--,group::r-x,other::---", 42);
    member(t, "PaxHeaders/x", 'x', text, len);
    member(t, "short", '0', "0123456789", 10);
}

static void add_sparse(tar *t) {
    char text[8192] = {0};
    size_t len;
    len = record(text, 0, "GNU.sparse.map", "0,3,4096,5,9000,0", 17);
    len = record(text, len, "GNU.sparse.size", "9000", 4);
    len = record(text, len, "GNU.sparse.numblocks", "3", 1);
    len = record(text, len, "GNU.sparse.name", "sparse01", 8);
    member(t, "PaxHeaders/x", 'x', text, len);
    member(t, "GNUSparseFile.1/sparse01", '0', "12345678", 8);
    len = record(text, 0, "GNU.sparse.major", "1", 1);
    len = record(text, len, "GNU.sparse.minor", "0", 1);
    len = record(text, len, "GNU.sparse.realsize", "100000", 6);
    len = record(text, len, "GNU.sparse.name", "sparse10", 8);
    member(t, "PaxHeaders/x", 'x', text, len);
    memset(text, 0, TAR_BLOCK);
    strcpy(text, "2\n512\n512\n99990\n10\n");
    header(t, "GNUSparseFile.1/sparse10", '0', TAR_BLOCK + 522);
    add(t, text, TAR_BLOCK);
    memset(text, 's', 522);
    add(t, text, 522);
    pad(t);
    header(t, "sparseS", 'S', 12);
    field(t, 257, "ustar  ", 8);
    field(t, 386,
          "00000000000\0"
          "00000000004",
          24);
    field(t, 410,
          "00000000100\0"
          "00000000004",
          24);
    field(t, 482,
          "\1"
          "00000001000",
          12);
    memset(text, 0, TAR_BLOCK);
    memcpy(text,
           "00000000200\0"
           "00000000004",
           24);
    add(t, text, TAR_BLOCK);
    add(t, "abcdefghijkl", 12);
    pad(t);
}

static void everything(tar *t) {
    add_plain(t);
    add_sparse(t);
    header(t, "base256", '0', 0);
    field(t, 136, "\377\377\377\377\377\377\377\377\377\377\377\366", 12);
    end(t);
}

static void test_everything(void) {
    tar t = {0};
    everything(&t);
    img_index *index = expect_index(&t);
    CHECK(index->head.n_entries == 14);
    CHECK(entry_is(index, 0, "", "") && index->entries[0].kind == IMG_DIR);
    CHECK(entry_is(index, 1, "dir", "file") && index->entries[1].size == 8);
    CHECK(index->entries[1].archive_data == 1024 && index->entries[1].archive_header == 512);
    CHECK(index->entries[2].dir == index->entries[1].dir); /* interned */
    CHECK(index->entries[2].kind == IMG_HARDLINK && index->entries[2].link_len == 8);
    CHECK(index->entries[4].rdev_major == 10 && index->entries[4].rdev_minor == 262144);
    CHECK(entry_is(index, 6, "a/prefix", "prefixed"));
    CHECK(index->entries[7].dir_len == 100 && index->entries[7].name_len == 49);
    CHECK(index->entries[8].link_len == 200);
    const img_entry *e = &index->entries[9];
    CHECK(entry_is(index, 9, "p/a", "x") && e->uid == 4000000 && e->gid == 01751);
    CHECK(e->mtime_s == -13 && e->mtime_ns == 500000000 && e->n_xattrs == 4);
    e = &index->entries[10];
    CHECK(entry_is(index, 10, "", "sparse01") && e->size == 9000 && e->n_extents == 2);
    CHECK(index->extents[e->first_extent + 1].file_offset == 4096);
    e = &index->entries[11];
    CHECK(entry_is(index, 11, "", "sparse10") && e->size == 100000 && e->n_extents == 2);
    CHECK(index->extents[e->first_extent + 1].archive_offset ==
          index->extents[e->first_extent].archive_offset + 512);
    e = &index->entries[12];
    CHECK(e->size == 512 && e->n_extents == 3 && (e->flags & IMG_ENTRY_SPARSE));
    CHECK(index->extents[e->first_extent + 2].file_offset == 128);
    CHECK(index->entries[13].mtime_s == -10);
    img_index_free(index);
}

static void test_pieces_of_any_size_give_the_same(void) {
    tar t = {0};
    img_error err;
    everything(&t);
    img_index *whole = scan(&t, t.len, &err);
    CHECK(whole);
    for (size_t piece = 1; piece < 1200; piece += piece < 20 ? 1 : 97) {
        img_index *index = scan(&t, piece, &err);
        CHECK(index);
        check_same(whole, index);
        img_index_free(index);
    }
    img_index *index = scan_file(&t, &err);
    CHECK(index);
    check_same(whole, index);
    img_index_free(index);
    img_index_free(whole);
    free(t.data);
}

static void test_t24_a_file_shorter_than_said(void) {
    tar t = {0};
    img_error err = {0};
    everything(&t);
    int fd = memory_file(t.data, t.len);
    CHECK(!img_scan_fd(fd, 0, t.len + 1, &err) && err.code == EBADMSG);
    CHECK(!img_scan_fd(fd, INT64_MAX, 2, &err) && err.code == EINVAL);
    CHECK(!img_scan_fd(-1, 0, 2, &err) && err.code == EBADF);
    close(fd);
    free(t.data);
}

static void test_t17_ends(void) {
    tar t = {0};
    img_index *index = expect_index(&t); /* an input without bytes */
    CHECK(index->head.n_entries == 0 && index->head.archive_bytes == 0);
    img_index_free(index);
    member(&t, "a", '0', "1", 1);
    t.len = 513; /* the file ends without zero blocks and without padding */
    index = expect_index(&t);
    CHECK(index->head.n_entries == 1 && index->head.archive_bytes == 513);
    img_index_free(index);
    t = (tar){0};
    member(&t, "a", '0', "1", 1);
    add(&t, "\0", 1);
    pad(&t); /* a single zero block ends it too */
    header(&t, "b", '0', 0);
    end(&t);
    add(&t, "garbage", 7);
    index = expect_index(&t);
    CHECK(index->head.n_entries == 1 && index->head.archive_bytes == 1024);
    img_index_free(index);
    add(&t, "garbage, and not little of it", 29);
    expect_error(&t, EBADMSG, "not a tar archive");
    header(&t, "a", '0', 0);
    add(&t, "garbage", 7);
    expect_error(&t, EBADMSG, "ends inside a header");
    header(&t, "a", 'M', 0);
    expect_error(&t, EBADMSG, "volume");
    header(&t, "a", '9', 0);
    expect_error(&t, EBADMSG, "type flag");
}

static void test_t24_sizes(void) {
    tar t = {0};
    header(&t, "a", '0', 0);
    field(&t, 124, "\200\0\0\0\177\377\377\377\377\377\377\377", 12);
    expect_error(&t, E2BIG, "beyond the largest file");
    header(&t, "a", '0', 0);
    field(&t, 124, "\200\0\0\0\377\377\377\377\377\377\377\377", 12);
    expect_error(&t, EBADMSG, "size is no number");
    header(&t, "a", '0', 0);
    field(&t, 124, "\377\377\377\377\377\377\377\377\377\377\377\377", 12);
    expect_error(&t, EBADMSG, "negative");
    header(&t, "a", '0', 1u << 20);
    expect_error(&t, EBADMSG, "1048576 bytes early");
    header(&t, "a", 'x', 5u << 20);
    expect_error(&t, E2BIG, "4194304");
    header(&t, "a", 'x', 0);
    expect_error(&t, EBADMSG, "after an extended header");
}

static void test_t24_records_that_lie(void) {
    static const char *const bad[] = {
        "8 path=a\n", "11 path=a\n", "99999999999 path=a\n",
        "path=a\n",   "10 path a\n", "0 a=b\n",
        "6 =ab\n",    "-6 a=b\n",    "8 path=ab\n",
        "7 a=b",      "3 \n",        "18446744073709551617 a=b\n",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tar t = {0};
        member(&t, "x", 'x', bad[i], strlen(bad[i]));
        header(&t, "a", '0', 0);
        expect_error(&t, EBADMSG, "PAX record");
    }
    static const char *const values[][2] = {
        {"mtime", "1.x"},
        {"mtime", "99999999999999999999"},
        {"uid", "-1x"},
        {"gid", "-"},
        {"size", "1x"},
        {"GNU.sparse.offset", "x"},
        {"GNU.sparse.numbytes", "1"},
        {"gid", "99999999999999999999"},
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        tar t = {0};
        pax1(&t, values[i][0], values[i][1]);
        header(&t, "a", '0', 0);
        expect_error(&t, EBADMSG, values[i][0]);
    }
}

static void test_t19_maps_that_lie(void) {
    static const char *const maps[] = {
        "5,3,4,4",  "0,9", "0,7", "0,8,", "0", "8,18446744073709551615", "9223372036854775807,8",
        "0,4,100,4"};
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        char text[256];
        tar t = {0};
        size_t len = record(text, 0, "GNU.sparse.map", maps[i], strlen(maps[i]));
        member(&t, "x", 'x', text, record(text, len, "GNU.sparse.size", "100", 3));
        member(&t, "a", '0', "12345678", 8);
        expect_error(&t, EBADMSG, "parse");
    }
}

static void test_t18_xattrs_last_wins(void) {
    char text[4096];
    tar t = {0};
    size_t len = record(text, 0, "SCHILY.xattr.user.a", "first", 5);
    len = record(text, len, "SCHILY.xattr.user.b", "other", 5);
    member(&t, "x", 'x', text, record(text, len, "SCHILY.xattr.user.a", "2\0d", 3));
    header(&t, "a", '0', 0);
    img_index *index = expect_index(&t);
    static const char want[] = "\6\0\3\0\0\0user.a2\0d\6\0\5\0\0\0user.bother";
    CHECK(index->entries[0].n_xattrs == 2);
    CHECK(memcmp(index->pool + index->entries[0].xattrs, want, sizeof want - 1) == 0);
    img_index_free(index);
}

/* ---- cut and damaged archives ---- */

static uint32_t dice(uint32_t *seed) {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

static uint64_t touch(const img_index *index) {
    /* Reads all bytes that the index points to; the sanitizer sees those outside. */
    uint64_t total = 0;
    for (uint64_t i = 0; i < index->head.n_entries; i++) {
        const img_entry *e = &index->entries[i];
        for (uint32_t k = 0; k < e->dir_len; k++)
            total += (unsigned char)index->pool[e->dir + k];
        for (uint32_t k = 0; k < e->name_len; k++)
            total += (unsigned char)index->pool[e->name + k];
        for (uint32_t k = 0; k < e->link_len; k++)
            total += (unsigned char)index->pool[e->link + k];
        for (uint32_t k = 0; k < e->n_extents; k++)
            total += index->extents[e->first_extent + k].archive_offset;
        const char *at = index->pool + e->xattrs;
        for (uint32_t k = 0; k < e->n_xattrs; k++) {
            uint16_t name_len;
            uint32_t value_len;
            memcpy(&name_len, at, 2);
            memcpy(&value_len, at + 2, 4);
            for (at += 6; name_len + value_len; value_len -= value_len ? 1 : 0)
                if (total += (unsigned char)*at++, value_len == 0)
                    name_len--;
        }
    }
    return total;
}

/* An index from a scan passes the checks that a stored index has to pass. */
static void check_keeps(const img_index *index) {
    img_error err = {0};
    int fd = memfd_create("index", MFD_CLOEXEC);
    CHECK(fd >= 0 && img_index_write(index, fd, 0, &err) == 0);
    img_index *kept = img_index_read(fd, 0, &err);
    if (!kept)
        fprintf(stderr, "%s\n", err.message);
    CHECK(kept);
    check_same(index, kept);
    img_index_free(kept);
    close(fd);
}

static void test_t24_bent_archives(void) {
    tar whole = {0};
    img_error err;
    uint32_t seed = 20261123;
    unsigned indexed = 0, refused = 0;
    everything(&whole);
    for (unsigned round = 0; round < 30000; round++) {
        tar bent = whole;
        bent.data = malloc(whole.len);
        memcpy(bent.data, whole.data, whole.len);
        for (unsigned flips = 1 + dice(&seed) % 4; flips; flips--) {
            size_t at = dice(&seed) % whole.len;
            if (dice(&seed) % 2) /* choose a byte in a header */
                at = whole.headers[dice(&seed) % whole.n_headers] + dice(&seed) % TAR_BLOCK;
            bent.data[at] = (unsigned char)(dice(&seed) % 3 ? dice(&seed) : '0' + dice(&seed) % 10);
        }
        if (dice(&seed) % 8)
            for (size_t i = 0; i < bent.n_headers; i++)
                sum(bent.data + bent.headers[i]);
        if (dice(&seed) % 8 == 0)
            bent.len = dice(&seed) % bent.len;
        img_index *index = scan(&bent, 1 + dice(&seed) % 2000, &err);
        if (index) {
            (void)touch(index);
            check_keeps(index);
        }
        *(index ? &indexed : &refused) += 1;
        img_index_free(index);
        free(bent.data);
    }
    CHECK(indexed > 1000 && refused > 1000);
    free(whole.data);
}

static void test_t24_cut_anywhere(void) {
    tar whole = {0};
    img_error err;
    everything(&whole);
    for (size_t len = 0; len < whole.len; len++) {
        tar cut = whole;
        cut.len = len;
        img_index *index = scan(&cut, 4096, &err);
        if (len % TAR_BLOCK && len < TAR_BLOCK)
            CHECK(!index);
        img_index_free(index);
    }
    free(whole.data);
}

static void test_t24_bent_indexes(void) {
    tar t = {0};
    img_error err = {0};
    uint32_t seed = 1123;
    unsigned mapped = 0, refused = 0;
    everything(&t);
    img_index *index = expect_index(&t);
    int fd = memfd_create("index", MFD_CLOEXEC);
    CHECK(fd >= 0 && img_index_write(index, fd, 0, &err) == 0);
    off_t size = lseek(fd, 0, SEEK_CUR);
    img_index_free(index);
    for (unsigned round = 0; round < 30000; round++) {
        unsigned char old, new = (unsigned char)dice(&seed);
        off_t at = (off_t)(dice(&seed) % (uint64_t)size);
        CHECK(pread(fd, &old, 1, at) == 1 && pwrite(fd, &new, 1, at) == 1);
        seal(fd);
        img_index *bent = img_index_read(fd, 0, &err);
        if (bent)
            (void)touch(bent);
        else
            CHECK(err.code == EBADMSG);
        *(bent ? &mapped : &refused) += 1;
        img_index_free(bent);
        CHECK(pwrite(fd, &old, 1, at) == 1);
    }
    CHECK(mapped > 1000 && refused > 1000);
    for (off_t len = 0; len < size; len += 13) {
        CHECK(ftruncate(fd, len) == 0);
        CHECK(!img_index_read(fd, 0, &err) && err.code == EBADMSG);
    }
    close(fd);
}

/* The limit is checked before memory is allocated. */
static void test_an_index_beyond_its_bytes(void) {
    img_builder full = {.pool.len = IMG_INDEX_BYTES_MAX - 30};
    const img_extent extents[2] = {{0}};
    const img_entry entry = {0};
    uint32_t at;
    img_error err = {0};
    CHECK(img_builder_text(&full, "0123456789012345678901234567890", 31, &at, &err) < 0);
    CHECK(err.code == E2BIG && strstr(err.message, "2147483648 bytes of memory, the limit"));
    CHECK(img_builder_entry(&full, &entry, &err) < 0 && err.code == E2BIG && !full.entries);
    CHECK(img_builder_extents(&full, extents, 2, &at, &err) < 0 && err.code == E2BIG);
    CHECK(img_builder_extents(&full, extents, 1, &at, &err) == 0);
    CHECK(img_builder_text(&full, "0123456", 7, &at, &err) < 0 && err.code == E2BIG);
    free(full.extents);
}

int main(void) {
    test_everything();
    test_pieces_of_any_size_give_the_same();
    test_t17_ends();
    test_t18_xattrs_last_wins();
    test_t19_maps_that_lie();
    test_t24_a_file_shorter_than_said();
    test_t24_sizes();
    test_t24_records_that_lie();
    test_t24_cut_anywhere();
    test_t24_bent_archives();
    test_t24_bent_indexes();
    test_an_index_beyond_its_bytes();
    return 0;
}
