#include "tar/tarscan.h"

#include "tar/tarblock.h"
#include "tar/tarmember.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef enum scan_state {
    AT_HEADER = 0, /* the next block is a header or a zero block */
    IN_EXTENDED,   /* the next bytes are the contents of x, g, L or K */
    IN_GNU_MAP,    /* the next block extends a GNU sparse map */
    IN_LINES_MAP,  /* the next block belongs to a PAX 1.0 sparse map */
    ENDED,
    FAILED,
} scan_state;

struct img_scanner {
    scan_state state;
    uint64_t offset;    /* archive offset of the next byte */
    uint64_t at;        /* archive offset of the current block or member, for errors */
    uint64_t end;       /* ENDED: archive offset of the zero block */
    uint64_t skip, pad; /* bytes to skip; the last `pad` of them are padding */
    unsigned char block[TAR_BLOCK];
    size_t block_used;
    bool any_block;
    unsigned char extended_flag;
    uint64_t extended_left; /* bytes of the extended header that are still to come */
    img_bytes extended;
    img_headers headers;
    img_member member; /* while its sparse map is read */
    img_builder builder;
    img_error failure;                           /* FAILED: the error */
    char name[sizeof(((img_error *)0)->member)]; /* of the current member */
};

img_scanner *img_scanner_new(void) {
    img_scanner *scanner = calloc(1, sizeof *scanner);
    if (scanner)
        img_builder_init(&scanner->builder);
    return scanner;
}

void img_scanner_free(img_scanner *scanner) {
    if (!scanner)
        return;
    img_bytes_free(&scanner->extended);
    img_headers_free(&scanner->headers);
    img_builder_free(&scanner->builder);
    free(scanner);
}

/* Keeps the name for messages; it may be cut, and ends at its first NUL. */
static void note_name(img_scanner *scanner, const char *name, size_t len) {
    size_t kept = len < sizeof scanner->name ? len : sizeof scanner->name - 1;
    if (kept)
        memcpy(scanner->name, name, kept);
    scanner->name[kept] = 0;
}

/* Skips size bytes of contents and their padding to a whole block. */
static int skip_contents(img_scanner *scanner, uint64_t size, img_error *err) {
    uint64_t pad = (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
    /* offset may already be behind the header; no file is longer than 2^63 bytes */
    if (size > (uint64_t)INT64_MAX - TAR_BLOCK ||
        scanner->offset > (uint64_t)INT64_MAX - TAR_BLOCK - size)
        return img_fail(err, E2BIG, "a size of %" PRIu64 " bytes, beyond the largest file", size);
    scanner->skip = size + pad;
    scanner->pad = pad;
    return 0;
}

/* The member and its map are complete; the next byte is the first of its contents. */
static int finish_member(img_scanner *scanner, img_error *err) {
    img_member *member = &scanner->member;
    img_sparse *sparse = &scanner->headers.local.sparse;
    img_entry *entry = &member->entry;
    if (member->map != IMG_MAP_NONE) {
        if (img_sparse_finish(sparse, member->real, member->stored, scanner->offset, err) < 0 ||
            img_builder_extents(&scanner->builder, sparse->extents, sparse->n, &entry->first_extent,
                                err) < 0)
            return -1;
        entry->n_extents = (uint32_t)sparse->n;
    } else if (entry->kind == IMG_FILE) {
        entry->archive_data = scanner->offset;
    }
    if (skip_contents(scanner, member->stored, err) < 0 ||
        img_builder_entry(&scanner->builder, entry, err) < 0)
        return -1;
    img_headers_reset(&scanner->headers);
    scanner->state = AT_HEADER;
    return 0;
}

static int begin_member(img_scanner *scanner, const unsigned char *block, img_error *err) {
    img_member *member = &scanner->member;
    if (img_member_read(&scanner->headers, block, scanner->at, &scanner->builder, member, err) < 0)
        return -1;
    if (member->map == IMG_MAP_GNU && block[TAR_SPARSE_MORE]) {
        scanner->state = IN_GNU_MAP;
        return 0;
    }
    if (member->map == IMG_MAP_LINES) {
        scanner->state = IN_LINES_MAP;
        return 0;
    }
    return finish_member(scanner, err);
}

static int extend_gnu_map(img_scanner *scanner, const unsigned char *block, img_error *err) {
    img_sparse *sparse = &scanner->headers.local.sparse;
    uint64_t before = sparse->pairs;
    if (img_sparse_add_block(sparse, block, TAR_EXTENSION_PAIRS, err) < 0)
        return -1;
    if (!block[TAR_EXTENSION_MORE])
        return finish_member(scanner, err);
    if (sparse->pairs == before)
        return img_fail(err, EBADMSG, "a sparse map that goes on without pieces");
    return 0;
}

static int extend_lines_map(img_scanner *scanner, const unsigned char *block, img_error *err) {
    img_member *member = &scanner->member;
    if (member->stored < TAR_BLOCK)
        return img_fail(err, EBADMSG, "a sparse map that is longer than the contents");
    member->stored -= TAR_BLOCK;
    int done = img_sparse_add_lines(&scanner->headers.local.sparse, block, err);
    return done <= 0 ? done : finish_member(scanner, err);
}

/* A global header is copied to each later member, so it may have only few xattrs. */
static int take_global(img_headers *headers, const img_bytes *data, img_error *err) {
    if (img_pax_parse(&headers->global, data->data, data->len, true, err) < 0)
        return -1;
    if (headers->global.xattrs.n > IMG_GLOBAL_XATTRS_N_MAX)
        return img_fail(err, E2BIG, "global headers with %zu xattrs, the limit is %u",
                        headers->global.xattrs.n, IMG_GLOBAL_XATTRS_N_MAX);
    if (headers->global.xattrs.data.len > IMG_GLOBAL_XATTRS_MAX)
        return img_fail(err, E2BIG, "global headers with %zu bytes of xattrs, the limit is %u",
                        headers->global.xattrs.data.len, IMG_GLOBAL_XATTRS_MAX);
    return 0;
}

/* Takes the complete contents of an extended header. */
static int take_extended(img_scanner *scanner, img_error *err) {
    img_headers *headers = &scanner->headers;
    img_bytes *data = &scanner->extended;
    size_t text = data->len ? strnlen(data->data, data->len) : 0;
    scanner->state = AT_HEADER;
    switch (scanner->extended_flag) {
    case 'L':
        headers->has_long_name = true;
        note_name(scanner, data->data, text);
        if (img_bytes_set(&headers->long_name, data->data, text) < 0)
            return img_fail(err, ENOMEM, "out of memory");
        return 0;
    case 'K':
        headers->has_long_link = true;
        if (img_bytes_set(&headers->long_link, data->data, text) < 0)
            return img_fail(err, ENOMEM, "out of memory");
        return 0;
    case 'g':
        return take_global(headers, data, err);
    default: /* only the last of several in a row counts, as with GNU tar and bsdtar */
        img_pax_reset(&headers->local);
        return img_pax_parse(&headers->local, data->data, data->len, false, err);
    }
}

static int begin_extended(img_scanner *scanner, const unsigned char *block, img_error *err) {
    img_headers *headers = &scanner->headers;
    int64_t size;
    if (tar_block_number(block, TAR_SIZE, &size, err) < 0)
        return -1;
    uint64_t before = block[TAR_TYPEFLAG] == 'g' ? 0 : headers->bytes;
    if (size < 0 || (uint64_t)size > IMG_EXTENDED_BYTES_MAX - before)
        return img_fail(err, E2BIG, "extended headers of %" PRId64 " bytes, the limit is %u",
                        size < 0 ? size : size + (int64_t)before, IMG_EXTENDED_BYTES_MAX);
    scanner->extended_flag = block[TAR_TYPEFLAG];
    scanner->extended_left = (uint64_t)size;
    scanner->extended.len = 0;
    if (scanner->extended_flag != 'g') {
        if (!headers->any)
            headers->start = scanner->at;
        headers->any = true;
        headers->bytes += (uint64_t)size;
    }
    scanner->state = IN_EXTENDED;
    return size ? 0 : take_extended(scanner, err);
}

/* Skips a member of an unknown extension, with the extended headers before it. */
static int skip_member(img_scanner *scanner, const unsigned char *block, const char *name,
                       size_t len, img_error *err) {
    int64_t size;
    const img_pax *local = &scanner->headers.local;
    if (block[TAR_TYPEFLAG] != 'V' && img_builder_skipped(&scanner->builder, name, len, err) < 0)
        return -1;
    if (local->have & PAX_SIZE)
        size = (int64_t)local->size;
    else if (tar_block_number(block, TAR_SIZE, &size, err) < 0)
        return -1;
    if (size < 0)
        return img_fail(err, EBADMSG, "a negative size");
    img_headers_reset(&scanner->headers);
    return skip_contents(scanner, (uint64_t)size, err);
}

static int take_header(img_scanner *scanner, const unsigned char *block, img_error *err) {
    char joined[257];
    size_t len;
    unsigned char flag = block[TAR_TYPEFLAG];
    scanner->name[0] = 0;
    if (!tar_block_checksum_holds(block))
        return img_fail(err, EBADMSG,
                        scanner->any_block ? "no tar header here: its checksum is wrong"
                                           : "not a tar archive");
    switch (flag) {
    case 'x':
    case 'X':
    case 'g':
    case 'L':
    case 'K':
        return begin_extended(scanner, block, err);
    default:
        break;
    }
    const char *name = img_member_name(&scanner->headers, block, joined, &len);
    note_name(scanner, name, len);
    if (flag == 'M')
        return img_fail(err, EBADMSG, "continued from another volume, which is not supported");
    if (flag == 'N')
        return img_fail(err, EBADMSG, "an old GNU name table, which is not supported");
    if (flag >= 'A' && flag <= 'Z' && flag != 'S' && flag != 'D')
        return skip_member(scanner, block, name, len, err);
    return begin_member(scanner, block, err);
}

static int take_zero_block(img_scanner *scanner, img_error *err) {
    if (scanner->headers.any)
        return img_fail(err, EBADMSG, "an extended header without a member");
    scanner->state = ENDED;
    scanner->end = scanner->at;
    return 0;
}

/* Takes one complete block; scanner->offset is already behind it. */
static int take_block(img_scanner *scanner, const unsigned char *block, img_error *err) {
    int result;
    switch (scanner->state) {
    case AT_HEADER:
        scanner->at = scanner->offset - TAR_BLOCK;
        result = tar_block_is_zero(block) ? take_zero_block(scanner, err)
                                          : take_header(scanner, block, err);
        scanner->any_block = true;
        return result;
    case IN_GNU_MAP:
        return extend_gnu_map(scanner, block, err);
    case IN_LINES_MAP:
        return extend_lines_map(scanner, block, err);
    case IN_EXTENDED:
    case ENDED:
    case FAILED:
        break;
    }
    return 0;
}

/* Copies bytes that the extended header still lacks from data; returns their number, or -1. */
static long take_extended_bytes(img_scanner *scanner, const unsigned char *data, size_t size,
                                img_error *err) {
    size_t piece = size < scanner->extended_left ? size : (size_t)scanner->extended_left;
    if (img_bytes_add(&scanner->extended, data, piece) < 0)
        return img_fail(err, ENOMEM, "out of memory");
    scanner->extended_left -= piece;
    scanner->offset += piece;
    if (scanner->extended_left == 0) {
        uint64_t pad = (TAR_BLOCK - scanner->extended.len % TAR_BLOCK) % TAR_BLOCK;
        scanner->skip = scanner->pad = pad;
        if (take_extended(scanner, err) < 0)
            return -1;
    }
    return (long)piece;
}

/* Takes bytes of a block from data; returns their number, or -1.  A complete block in data is not
 * copied; else the block is filled over several calls. */
static long take_block_bytes(img_scanner *scanner, const unsigned char *data, size_t size,
                             img_error *err) {
    if (scanner->block_used == 0 && size >= TAR_BLOCK) {
        scanner->offset += TAR_BLOCK;
        return take_block(scanner, data, err) < 0 ? -1 : (long)TAR_BLOCK;
    }
    size_t lacks = TAR_BLOCK - scanner->block_used, piece = size < lacks ? size : lacks;
    memcpy(scanner->block + scanner->block_used, data, piece);
    scanner->block_used += piece;
    scanner->offset += piece;
    if (scanner->block_used < TAR_BLOCK)
        return (long)piece;
    scanner->block_used = 0;
    return take_block(scanner, scanner->block, err) < 0 ? -1 : (long)piece;
}

/* Keeps the error and its offset, with which every later call fails. */
static int give_up(img_scanner *scanner, img_error *err) {
    if (scanner->state != FAILED) {
        err->offset = scanner->at;
        memcpy(err->member, scanner->name, sizeof err->member);
        scanner->failure = *err;
        scanner->state = FAILED;
    }
    *err = scanner->failure;
    return -1;
}

int img_scanner_feed(img_scanner *scanner, const void *data, size_t size, img_error *err) {
    const unsigned char *at = data;
    while (size && scanner->state != ENDED) {
        long taken;
        if (scanner->state == FAILED) {
            return give_up(scanner, err);
        } else if (scanner->skip) {
            taken = (long)(size < scanner->skip ? size : scanner->skip);
            img_scanner_skip(scanner, (uint64_t)taken);
        } else if (scanner->state == IN_EXTENDED) {
            taken = take_extended_bytes(scanner, at, size, err);
        } else {
            taken = take_block_bytes(scanner, at, size, err);
        }
        if (taken < 0)
            return give_up(scanner, err);
        at += taken;
        size -= (size_t)taken;
    }
    return 0;
}

uint64_t img_scanner_skippable(const img_scanner *scanner) {
    return scanner->skip;
}

void img_scanner_skip(img_scanner *scanner, uint64_t size) {
    if (size > scanner->skip)
        size = scanner->skip;
    scanner->skip -= size;
    scanner->offset += size;
}

bool img_scanner_ended(const img_scanner *scanner) {
    return scanner->state == ENDED;
}

static int check_end(const img_scanner *scanner, img_error *err) {
    if (scanner->skip > scanner->pad)
        return img_fail(err, EBADMSG,
                        "the archive ends inside the contents, %" PRIu64 " bytes early",
                        scanner->skip - scanner->pad);
    if (scanner->state != AT_HEADER && scanner->state != ENDED)
        return img_fail(err, EBADMSG, "the archive ends inside a header");
    for (size_t i = 0; i < scanner->block_used; i++)
        if (scanner->block[i] || !scanner->any_block)
            return img_fail(err, EBADMSG,
                            scanner->any_block ? "the archive ends inside a header"
                                               : "not a tar archive");
    if (scanner->headers.any)
        return img_fail(err, EBADMSG, "the archive ends after an extended header");
    return 0;
}

img_index *img_scanner_finish(img_scanner *scanner, img_error *err) {
    if (scanner->state == FAILED) {
        give_up(scanner, err);
        return NULL;
    }
    if (scanner->block_used && scanner->state == AT_HEADER) {
        scanner->at = scanner->offset - scanner->block_used;
        scanner->name[0] = 0;
    }
    if (check_end(scanner, err) < 0) {
        give_up(scanner, err);
        return NULL;
    }
    uint64_t end = scanner->state == ENDED ? scanner->end : scanner->offset;
    img_index *index = img_builder_take(&scanner->builder, end, err);
    img_error done = {.code = EINVAL, .message = "the scan is finished already"};
    if (!index)
        done = *err;
    scanner->state = FAILED;
    scanner->failure = done;
    return index;
}
