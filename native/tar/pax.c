#include "tar/pax.h"

#include "base/decimal.h"
#include "tar/acl.h"
#include "tar/paxcode.h"

#include <errno.h>
#include <string.h>

typedef struct record {
    const char *key, *value;
    size_t key_len, value_len;
} record;

typedef int taker(img_pax *pax, const record *rec, void *field, img_error *err);

void img_pax_reset(img_pax *pax) {
    pax->have = pax->dropped = 0;
    img_sparse_reset(&pax->sparse);
    img_xattr_set_reset(&pax->xattrs);
}

void img_pax_free(img_pax *pax) {
    img_bytes_free(&pax->path);
    img_bytes_free(&pax->linkpath);
    img_bytes_free(&pax->sparse_name);
    img_bytes_free(&pax->scratch);
    img_sparse_free(&pax->sparse);
    img_xattr_set_free(&pax->xattrs);
}

static int bad_value(const record *rec, img_error *err) {
    return img_fail(err, EBADMSG, "PAX record %.*s has a value that is none",
                    (int)(rec->key_len < 64 ? rec->key_len : 64), rec->key);
}

static int take_text(img_pax *pax, const record *rec, void *field, img_error *err) {
    (void)pax;
    if (memchr(rec->value, 0, rec->value_len))
        return img_fail(err, EBADMSG, "PAX record %.*s has a NUL byte in its value",
                        (int)rec->key_len, rec->key);
    if (img_bytes_set(field, rec->value, rec->value_len) < 0)
        return img_fail(err, ENOMEM, "out of memory");
    return 0;
}

static int take_number(img_pax *pax, const record *rec, void *field, img_error *err) {
    (void)pax;
    uint64_t *number = field;
    if (img_decimal(rec->value, rec->value_len, number) < 0 || *number > INT64_MAX)
        return bad_value(rec, err);
    return 0;
}

/* Only a value that is no number is an error.  A number that is no id is PAX_NO_ID, and
 * tarmember.c decides what it means. */
static int take_id(img_pax *pax, const record *rec, void *field, img_error *err) {
    (void)pax;
    uint64_t *number = field, ignored;
    bool negative = rec->value[0] == '-';
    if (img_decimal(rec->value + negative, rec->value_len - negative, &ignored) < 0)
        return bad_value(rec, err);
    *number = negative || ignored > INT64_MAX ? PAX_NO_ID : ignored;
    return 0;
}

static int take_time(img_pax *pax, const record *rec, void *field, img_error *err) {
    (void)pax;
    img_time *time = field;
    if (img_pax_time(rec->value, rec->value_len, &time->s, &time->ns) < 0)
        return bad_value(rec, err);
    return 0;
}

static int take_sparse_offset(img_pax *pax, const record *rec, void *field, img_error *err) {
    img_sparse *sparse = field;
    if (sparse->has_offset || img_decimal(rec->value, rec->value_len, &sparse->offset) < 0)
        return bad_value(rec, err);
    (void)pax;
    sparse->has_offset = true;
    return 0;
}

static int take_sparse_length(img_pax *pax, const record *rec, void *field, img_error *err) {
    img_sparse *sparse = field;
    uint64_t length;
    if (!sparse->has_offset || img_decimal(rec->value, rec->value_len, &length) < 0)
        return bad_value(rec, err);
    (void)pax;
    sparse->has_offset = false;
    return img_sparse_add(sparse, sparse->offset, length, err);
}

static int take_sparse_map(img_pax *pax, const record *rec, void *field, img_error *err) {
    (void)pax;
    img_sparse_reset(field);
    return img_sparse_add_text(field, rec->value, rec->value_len, err);
}

#define FIELD(name) offsetof(img_pax, name)

static const struct {
    const char *key;
    uint32_t bit;
    size_t field;
    taker *take;
} KEYS[] = {
    {"path", PAX_PATH, FIELD(path), take_text},
    {"linkpath", PAX_LINKPATH, FIELD(linkpath), take_text},
    {"size", PAX_SIZE, FIELD(size), take_number},
    {"uid", PAX_UID, FIELD(uid), take_id},
    {"gid", PAX_GID, FIELD(gid), take_id},
    {"mtime", PAX_MTIME, FIELD(mtime), take_time},
    {"atime", PAX_ATIME, FIELD(atime), take_time},
    {"ctime", PAX_CTIME, FIELD(ctime), take_time},
    {"SCHILY.devmajor", PAX_DEVMAJOR, FIELD(devmajor), take_number},
    {"SCHILY.devminor", PAX_DEVMINOR, FIELD(devminor), take_number},
    {"SCHILY.realsize", PAX_REALSIZE, FIELD(realsize), take_number},
    {"GNU.sparse.size", PAX_REALSIZE, FIELD(realsize), take_number},
    {"GNU.sparse.realsize", PAX_REALSIZE, FIELD(realsize), take_number},
    {"GNU.sparse.name", PAX_SPARSE_NAME, FIELD(sparse_name), take_text},
    {"GNU.sparse.major", PAX_SPARSE_MAJOR, FIELD(sparse_major), take_number},
    {"GNU.sparse.minor", PAX_SPARSE_MINOR, FIELD(sparse_minor), take_number},
    {"GNU.sparse.numblocks", PAX_SPARSE_BLOCKS, FIELD(sparse_blocks), take_number},
    {"GNU.sparse.offset", PAX_SPARSE_MAP, FIELD(sparse), take_sparse_offset},
    {"GNU.sparse.numbytes", PAX_SPARSE_MAP, FIELD(sparse), take_sparse_length},
    {"GNU.sparse.map", PAX_SPARSE_MAP, FIELD(sparse), take_sparse_map},
};

static bool is_key(const record *rec, const char *key) {
    return rec->key_len == strlen(key) && memcmp(rec->key, key, rec->key_len) == 0;
}

/* The rest of the key after prefix, or NULL. */
static const char *after(const record *rec, const char *prefix, size_t *len) {
    size_t skip = strlen(prefix);
    if (rec->key_len <= skip || memcmp(rec->key, prefix, skip) != 0)
        return NULL;
    *len = rec->key_len - skip;
    return rec->key + skip;
}

static int take_coded_xattr(img_pax *pax, const record *rec, const char *name, size_t len,
                            img_error *err) {
    img_bytes *plain = &pax->scratch;
    plain->len = 0;
    if (img_bytes_reserve(plain, len + rec->value_len) < 0)
        return img_fail(err, ENOMEM, "out of memory");
    long name_len = img_pax_percent(name, len, plain->data);
    if (name_len < 0)
        return img_fail(err, EBADMSG, "an xattr whose name is wrongly %%-coded");
    long value_len = img_pax_base64(rec->value, rec->value_len, plain->data + name_len);
    if (value_len < 0)
        return img_fail(err, EBADMSG, "an xattr whose value is no base64");
    return img_xattr_set_put(&pax->xattrs, plain->data, (size_t)name_len, plain->data + name_len,
                             (size_t)value_len, err);
}

static int take_acl(img_pax *pax, const record *rec, const char *xattr, bool skip_minimal,
                    img_error *err) {
    bool minimal;
    if (rec->value_len == 0)
        return 0;
    if (img_acl_from_text(rec->value, rec->value_len, &pax->scratch, &minimal, err) < 0)
        return -1;
    if (minimal && skip_minimal)
        return 0;
    return img_xattr_set_put(&pax->xattrs, xattr, strlen(xattr), pax->scratch.data,
                             pax->scratch.len, err);
}

static int take_extension(img_pax *pax, const record *rec, img_error *err) {
    size_t len;
    const char *name;
    if ((name = after(rec, "SCHILY.xattr.", &len)))
        return img_xattr_set_put(&pax->xattrs, name, len, rec->value, rec->value_len, err);
    if ((name = after(rec, "LIBARCHIVE.xattr.", &len)))
        return take_coded_xattr(pax, rec, name, len, err);
    if (is_key(rec, "SCHILY.acl.access"))
        return take_acl(pax, rec, IMG_ACL_ACCESS, true, err);
    if (is_key(rec, "SCHILY.acl.default"))
        return take_acl(pax, rec, "system.posix_acl_default", false, err);
    return 0;
}

static int take_record(img_pax *pax, const record *rec, bool global, img_error *err) {
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) {
        if (!is_key(rec, KEYS[i].key))
            continue;
        if (global && strncmp(KEYS[i].key, "GNU.sparse.", 11) == 0)
            return img_fail(err, EBADMSG, "%s in a global header", KEYS[i].key);
        if (rec->value_len == 0 && KEYS[i].take != take_sparse_map) {
            pax->have &= ~KEYS[i].bit;
            pax->dropped |= KEYS[i].bit;
            return 0;
        }
        pax->have |= KEYS[i].bit;
        pax->dropped &= ~KEYS[i].bit;
        return KEYS[i].take(pax, rec, (char *)pax + KEYS[i].field, err);
    }
    return take_extension(pax, rec, err);
}

/* Splits the record at data.  Returns its length; -1: the length is wrong or "=" is missing. */
static long cut_record(const char *data, size_t len, record *rec) {
    const size_t digits_max = 10; /* digits of a length; IMG_EXTENDED_BYTES_MAX has 7 */
    const char *blank = memchr(data, ' ', len < digits_max + 1 ? len : digits_max + 1);
    uint64_t whole;
    if (!blank || img_decimal(data, (size_t)(blank - data), &whole) < 0 || whole > len)
        return -1;
    const char *key = blank + 1, *end = data + whole - 1; /* end: the newline after the value */
    if (end <= key || *end != '\n')
        return -1;
    const char *equals = memchr(key, '=', (size_t)(end - key));
    if (!equals || equals == key)
        return -1;
    *rec = (record){.key = key,
                    .key_len = (size_t)(equals - key),
                    .value = equals + 1,
                    .value_len = (size_t)(end - equals - 1)};
    return (long)whole;
}

int img_pax_parse(img_pax *pax, const char *data, size_t len, bool global, img_error *err) {
    while (len && *data) { /* a NUL: the size of the header includes its padding */
        record rec;
        long whole = cut_record(data, len, &rec);
        if (whole < 0)
            return img_fail(err, EBADMSG, "a PAX record whose length is wrong, or without \"=\"");
        if (take_record(pax, &rec, global, err) < 0)
            return -1;
        data += whole;
        len -= (size_t)whole;
    }
    return 0;
}
