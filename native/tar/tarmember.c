#define _GNU_SOURCE /* memrchr */

#include "tar/tarmember.h"

#include "tar/tarblock.h"
#include "tar/tarname.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

enum {
    USTAR_PREFIX = 155,
    STAR_PREFIX = 131,
    DEV_MAJOR_MAX = (1 << 12) - 1, /* linux/kdev_t.h: MINORBITS 20 of 32 */
    DEV_MINOR_MAX = (1 << 20) - 1,
};
#define ID_MAX (UINT32_MAX - 1) /* UINT32_MAX means "no id" to chown(2) */

void img_headers_reset(img_headers *headers) {
    if (!headers->any)
        return;
    img_pax_reset(&headers->local);
    headers->has_long_name = headers->has_long_link = headers->any = false;
    headers->bytes = 0;
}

void img_headers_free(img_headers *headers) {
    img_pax_free(&headers->local);
    img_pax_free(&headers->global);
    img_bytes_free(&headers->long_name);
    img_bytes_free(&headers->long_link);
}

/* The extended header, local or global, that has the field; NULL: only the block has it. */
static const img_pax *header_with(const img_headers *headers, uint32_t bit) {
    if (headers->local.have & bit)
        return &headers->local;
    if (headers->local.dropped & bit)
        return NULL;
    return headers->global.have & bit ? &headers->global : NULL;
}

/* Go before 1.8 wrote a ustar prefix into GNU headers, over atime and ctime.  If these fields are
 * no numbers, they are a prefix; archive/tar reads them in this way too. */
static bool gnu_has_prefix(const unsigned char *block) {
    int64_t ignored;
    return block[TAR_GNU_ATIME.at] != 0 &&
           (tar_number(block + TAR_GNU_ATIME.at, TAR_GNU_ATIME.width, &ignored) < 0 ||
            tar_number(block + TAR_GNU_CTIME.at, TAR_GNU_CTIME.width, &ignored) < 0);
}

static size_t prefix_width(const unsigned char *block) {
    if (block[TAR_TYPEFLAG] == 'S')
        return 0; /* the sparse map is there */
    switch (tar_block_dialect(block)) {
    case TAR_USTAR:
        return USTAR_PREFIX;
    case TAR_STAR:
        return STAR_PREFIX;
    case TAR_GNU:
        return gnu_has_prefix(block) ? USTAR_PREFIX : 0;
    case TAR_V7:
        break;
    }
    return 0;
}

const char *img_member_name(const img_headers *headers, const unsigned char *block,
                            char joined[257], size_t *len) {
    const img_pax *pax;
    const img_bytes *bytes = NULL;
    if ((pax = header_with(headers, PAX_SPARSE_NAME)))
        bytes = &pax->sparse_name;
    else if ((pax = header_with(headers, PAX_PATH)))
        bytes = &pax->path;
    else if (headers->has_long_name)
        bytes = &headers->long_name;
    if (!bytes)
        return tar_block_name(block, prefix_width(block), joined, len);
    *len = bytes->len;
    return bytes->data;
}

static const char *link_text(const img_headers *headers, const unsigned char *block, size_t *len) {
    const img_pax *pax = header_with(headers, PAX_LINKPATH);
    if (!pax && !headers->has_long_link)
        return tar_block_link(block, len);
    const img_bytes *bytes = pax ? &pax->linkpath : &headers->long_link;
    *len = bytes->len;
    return bytes->data;
}

static int read_kind(unsigned char flag, const char *name, size_t len, img_kind *kind,
                     img_error *err) {
    switch (flag) {
    case 0:
    case '7':
        *kind = len && name[len - 1] == '/' ? IMG_DIR : IMG_FILE;
        return 0;
    case '0':
    case 'S':
        *kind = IMG_FILE;
        return 0;
    case '1':
        *kind = IMG_HARDLINK;
        return 0;
    case '2':
        *kind = IMG_SYMLINK;
        return 0;
    case '3':
        *kind = IMG_CHAR;
        return 0;
    case '4':
        *kind = IMG_BLOCK;
        return 0;
    case '5':
    case 'D':
        *kind = IMG_DIR;
        return 0;
    case '6':
        *kind = IMG_FIFO;
        return 0;
    default:
        return img_fail(err, EBADMSG, "unknown type flag 0x%02x", flag);
    }
}

static mode_t type_bits(img_kind kind) {
    switch (kind) {
    case IMG_FILE:
        return S_IFREG;
    case IMG_DIR:
        return S_IFDIR;
    case IMG_SYMLINK:
        return S_IFLNK;
    case IMG_CHAR:
        return S_IFCHR;
    case IMG_BLOCK:
        return S_IFBLK;
    case IMG_FIFO:
        return S_IFIFO;
    case IMG_HARDLINK:
    case IMG_SOCKET: /* tars have none */
    case IMG_WHITEOUT:
        break;
    }
    return 0;
}

static int read_name(const char *raw, size_t raw_len, img_builder *builder, img_entry *entry,
                     img_error *err) {
    char path[IMG_PATH_BYTES_MAX];
    bool clamped = false;
    long len = img_tarname_normalise(raw, raw_len, path, &clamped, err);
    if (len < 0)
        return -1;
    if (len == 0 && entry->kind != IMG_DIR)
        return img_fail(err, EBADMSG, "the root directory as something else");
    if (clamped)
        entry->flags |= IMG_ENTRY_CLAMPED;
    const char *slash = len ? memrchr(path, '/', (size_t)len) : NULL;
    size_t dir_len = slash ? (size_t)(slash - path) : 0;
    size_t name_at = slash ? dir_len + 1 : 0, name_len = (size_t)len - name_at;
    entry->dir_len = (uint16_t)dir_len;
    entry->name_len = (uint16_t)name_len;
    if (img_builder_intern(builder, path, dir_len, &entry->dir, err) < 0)
        return -1;
    return img_builder_text(builder, path + name_at, name_len, &entry->name, err);
}

static int read_link(const img_headers *headers, const unsigned char *block, img_builder *builder,
                     img_entry *entry, img_error *err) {
    size_t len;
    char path[IMG_PATH_BYTES_MAX];
    if (entry->kind != IMG_SYMLINK && entry->kind != IMG_HARDLINK)
        return 0;
    const char *text = link_text(headers, block, &len);
    if (len == 0)
        return img_fail(err, EBADMSG, "a link without a target");
    unsigned limit = entry->kind == IMG_SYMLINK ? IMG_SYMLINK_BYTES_MAX : IMG_LINK_BYTES_MAX;
    if (len > limit)
        return img_fail(err, E2BIG, "a link target of %zu bytes, the limit is %u", len, limit);
    if (entry->kind == IMG_HARDLINK) {
        bool clamped = false;
        long normal = img_tarname_normalise(text, len, path, &clamped, err);
        if (normal < 0)
            return -1;
        if (clamped)
            entry->flags |= IMG_ENTRY_CLAMPED;
        if (normal == 0)
            return img_fail(err, EBADMSG, "a hardlink to the root directory");
        text = path;
        len = (size_t)normal;
    }
    entry->link_len = (uint16_t)len;
    /* Interned like directories: a global linkpath must not be stored once for each member. */
    return img_builder_intern(builder, text, len, &entry->link, err);
}

/* Reads a number from 0 to max: the PAX value if there is one, else the block's field. */
static int read_limited(const uint64_t *pax, const unsigned char *block, tar_field field,
                        uint32_t max, uint32_t *out, img_error *err) {
    int64_t number;
    if (pax)
        number = (int64_t)*pax; /* pax.c checked that it is <= INT64_MAX */
    else if (tar_block_number(block, field, &number, err) < 0)
        return -1;
    if (number < 0)
        return img_fail(err, EBADMSG, "a negative %s", field.what);
    if (number > (int64_t)max)
        return img_fail(err, E2BIG, "a %s of %" PRId64 ", the limit is %" PRIu32, field.what,
                        number, max);
    *out = (uint32_t)number;
    return 0;
}

/* A number that is no id of Linux becomes 0, as GNU tar unpacks it.  It must not be an error: real
 * images, which other programs read, have UINT32_MAX, which chown(2) cannot set. */
static int read_id(const uint64_t *pax, const unsigned char *block, tar_field field,
                   img_entry *entry, uint32_t *out, img_error *err) {
    int64_t number;
    if (pax)
        number = (int64_t)*pax; /* PAX_NO_ID is -1 */
    else if (tar_block_number(block, field, &number, err) < 0)
        return -1;
    bool is_id = number >= 0 && number <= (int64_t)ID_MAX;
    *out = is_id ? (uint32_t)number : 0;
    if (!is_id)
        entry->flags |= IMG_ENTRY_OWNER;
    return 0;
}

static int read_owner(const img_headers *headers, const unsigned char *block, img_entry *entry,
                      img_error *err) {
    const img_pax *pax = header_with(headers, PAX_UID);
    if (read_id(pax ? &pax->uid : NULL, block, TAR_UID, entry, &entry->uid, err) < 0)
        return -1;
    pax = header_with(headers, PAX_GID);
    return read_id(pax ? &pax->gid : NULL, block, TAR_GID, entry, &entry->gid, err);
}

static int read_device(const img_headers *headers, const unsigned char *block, img_entry *entry,
                       img_error *err) {
    if (entry->kind != IMG_CHAR && entry->kind != IMG_BLOCK)
        return 0;
    const img_pax *pax = header_with(headers, PAX_DEVMAJOR);
    if (read_limited(pax ? &pax->devmajor : NULL, block, TAR_DEVMAJOR, DEV_MAJOR_MAX,
                     &entry->rdev_major, err) < 0)
        return -1;
    pax = header_with(headers, PAX_DEVMINOR);
    return read_limited(pax ? &pax->devminor : NULL, block, TAR_DEVMINOR, DEV_MINOR_MAX,
                        &entry->rdev_minor, err);
}

/* Reads atime or ctime if the dialect has the field and it is set; else *time is unchanged. */
static void read_block_time(const unsigned char *block, tar_field gnu, tar_field star,
                            img_time *time) {
    tar_dialect dialect = tar_block_dialect(block);
    int64_t s;
    tar_field field = dialect == TAR_STAR ? star : gnu;
    if (dialect != TAR_STAR && (dialect != TAR_GNU || gnu_has_prefix(block)))
        return;
    if (block[field.at] != 0 && tar_number(block + field.at, field.width, &s) == 0)
        *time = (img_time){s, 0};
}

static int read_times(const img_headers *headers, const unsigned char *block, img_entry *entry,
                      img_error *err) {
    img_time mtime = {0, 0}, atime, ctime;
    const img_pax *pax = header_with(headers, PAX_MTIME);
    if (pax)
        mtime = pax->mtime;
    else if (tar_block_number(block, TAR_MTIME, &mtime.s, err) < 0)
        return -1;
    atime = ctime = mtime;
    if ((pax = header_with(headers, PAX_ATIME)))
        atime = pax->atime;
    else
        read_block_time(block, TAR_GNU_ATIME, TAR_STAR_ATIME, &atime);
    if ((pax = header_with(headers, PAX_CTIME)))
        ctime = pax->ctime;
    else
        read_block_time(block, TAR_GNU_CTIME, TAR_STAR_CTIME, &ctime);
    entry->mtime_s = mtime.s;
    entry->mtime_ns = mtime.ns;
    entry->atime_s = atime.s;
    entry->atime_ns = atime.ns;
    entry->ctime_s = ctime.s;
    entry->ctime_ns = ctime.ns;
    return 0;
}

static int read_xattrs(img_headers *headers, img_builder *builder, img_entry *entry,
                       img_error *err) {
    img_pax *local = &headers->local, *global = &headers->global;
    const img_xattr_set *given = &local->xattrs;
    if (global->xattrs.n && !local->xattrs.n) {
        given = &global->xattrs;
    } else if (global->xattrs.n) {
        /* First the global xattrs, then the member's own, which replace those of the same name. */
        img_xattr_set both = {0};
        int result = img_xattr_set_merge(&both, &global->xattrs, err);
        if (result == 0)
            result = img_xattr_set_merge(&both, &local->xattrs, err);
        img_xattr_set_free(&local->xattrs);
        local->xattrs = both;
        if (result < 0)
            return -1;
    }
    entry->n_xattrs = (uint32_t)given->n;
    if (given->n == 0)
        return 0;
    local->scratch.len = 0;
    if (img_xattr_set_write(given, &local->scratch, err) < 0)
        return -1;
    return img_builder_intern(builder, local->scratch.data, local->scratch.len, &entry->xattrs,
                              err);
}

static int read_stored(const img_headers *headers, const unsigned char *block, img_member *member,
                       img_error *err) {
    int64_t size;
    member->stored = 0;
    if (member->entry.kind != IMG_FILE && block[TAR_TYPEFLAG] != 'D')
        return 0;
    const img_pax *pax = header_with(headers, PAX_SIZE);
    if (pax)
        size = (int64_t)pax->size;
    else if (tar_block_number(block, TAR_SIZE, &size, err) < 0)
        return -1;
    if (size < 0)
        return img_fail(err, EBADMSG, "a negative size");
    member->stored = (uint64_t)size;
    return 0;
}

static int read_gnu_sparse(img_headers *headers, const unsigned char *block, img_member *member,
                           img_error *err) {
    int64_t size;
    const img_pax *pax = header_with(headers, PAX_REALSIZE);
    if (pax)
        size = (int64_t)pax->realsize;
    else if (tar_block_number(block, TAR_REALSIZE, &size, err) < 0)
        return -1;
    if (size < 0)
        return img_fail(err, EBADMSG, "a negative size");
    member->real = (uint64_t)size;
    member->map = IMG_MAP_GNU;
    headers->any = true; /* so that img_headers_reset empties local.sparse, which has the map */
    img_sparse_reset(&headers->local.sparse);
    return img_sparse_add_block(&headers->local.sparse, block + TAR_SPARSE_AT, TAR_SPARSE_PAIRS,
                                err);
}

static int read_pax_sparse(img_headers *headers, img_member *member, img_error *err) {
    img_pax *pax = &headers->local;
    const uint32_t version = PAX_SPARSE_MAJOR | PAX_SPARSE_MINOR;
    bool lines = (pax->have & version) == version && pax->sparse_major >= 1;
    if (lines && (pax->sparse_major != 1 || pax->sparse_minor != 0))
        return img_fail(err, EBADMSG, "GNU sparse format %" PRIu64 ".%" PRIu64 " is unknown",
                        pax->sparse_major, pax->sparse_minor);
    if (!lines && !(pax->have & (PAX_SPARSE_MAP | PAX_SPARSE_BLOCKS)))
        return 0;
    if (!(pax->have & PAX_REALSIZE))
        return img_fail(err, EBADMSG, "a sparse file without its size");
    member->real = pax->realsize;
    member->map = lines ? IMG_MAP_LINES : IMG_MAP_PAX;
    if (lines) {
        img_sparse_reset(&pax->sparse);
        return 0;
    }
    if (pax->sparse.has_offset ||
        ((pax->have & PAX_SPARSE_BLOCKS) && pax->sparse_blocks != pax->sparse.pairs))
        return img_fail(err, EBADMSG, "a sparse map of another length than announced");
    return 0;
}

static int read_contents(img_headers *headers, const unsigned char *block, img_member *member,
                         img_error *err) {
    member->map = IMG_MAP_NONE;
    member->real = 0;
    if (read_stored(headers, block, member, err) < 0)
        return -1;
    if (member->entry.kind != IMG_FILE)
        return 0;
    if (block[TAR_TYPEFLAG] == 'S') {
        if (read_gnu_sparse(headers, block, member, err) < 0)
            return -1;
    } else if (headers->any && read_pax_sparse(headers, member, err) < 0) {
        return -1;
    }
    bool sparse = member->map != IMG_MAP_NONE;
    if (sparse)
        member->entry.flags |= IMG_ENTRY_SPARSE;
    member->entry.size = sparse ? member->real : member->stored;
    return 0;
}

static int read_attributes(img_headers *headers, const unsigned char *block, img_builder *builder,
                           img_entry *entry, img_error *err) {
    int64_t mode;
    if (entry->kind == IMG_HARDLINK)
        return 0;
    if (tar_block_number(block, TAR_MODE, &mode, err) < 0)
        return -1;
    entry->mode = type_bits((img_kind)entry->kind) | ((uint32_t)mode & 07777u);
    if (read_owner(headers, block, entry, err) < 0 || read_device(headers, block, entry, err) < 0 ||
        read_times(headers, block, entry, err) < 0)
        return -1;
    return read_xattrs(headers, builder, entry, err);
}

int img_member_read(img_headers *headers, const unsigned char *block, uint64_t header,
                    img_builder *builder, img_member *member, img_error *err) {
    char joined[257];
    size_t len;
    img_kind kind = IMG_FILE;
    img_entry *entry = &member->entry;
    memset(entry, 0, sizeof *entry); /* the padding too, because entries are written to files */
    entry->archive_header = headers->any ? headers->start : header;
    const char *name = img_member_name(headers, block, joined, &len);
    if (read_kind(block[TAR_TYPEFLAG], name, len, &kind, err) < 0)
        return -1;
    entry->kind = (uint8_t)kind;
    if (read_name(name, len, builder, entry, err) < 0 ||
        read_link(headers, block, builder, entry, err) < 0 ||
        read_attributes(headers, block, builder, entry, err) < 0)
        return -1;
    return read_contents(headers, block, member, err);
}
