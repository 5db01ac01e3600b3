/* xattrset.h: collects the xattrs of one member.  Each name is there once; its last value counts.
 *
 * Names and values are copied.  Limits: IMG_XATTRS_MAX names, XATTR_NAME_MAX bytes of a name,
 * IMG_XATTR_VALUE_MAX bytes of a value, and IMG_EXTENDED_BYTES_MAX bytes of all names and values
 * that were put since the last reset, replaced ones included.
 */
#ifndef IMG_XATTRSET_H
#define IMG_XATTRSET_H

#include "base/bytes.h"
#include "base/error.h"

#include <stdint.h>

typedef struct img_xattr_slot {
    uint32_t hash, name, value, value_len; /* name, value: offsets in data */
    uint16_t name_len;
} img_xattr_slot;

typedef struct img_xattr_set {
    img_bytes data;
    img_xattr_slot *slots; /* in the order in which their names first came */
    size_t n, cap;
} img_xattr_set;

void img_xattr_set_reset(img_xattr_set *set); /* empties it, keeps the memory */
void img_xattr_set_free(img_xattr_set *set);

/* EBADMSG: an empty name or a NUL in it. E2BIG, ENOMEM. */
int img_xattr_set_put(img_xattr_set *set, const char *name, size_t name_len, const void *value,
                      size_t value_len, img_error *err);

/* Puts every xattr of `from` into set. */
int img_xattr_set_merge(img_xattr_set *set, const img_xattr_set *from, img_error *err);

/* The value of a name, NULL if it is not there; valid until the set changes. */
const char *img_xattr_set_get(const img_xattr_set *set, const char *name, size_t *len);

/* Appends the xattrs to out, as the xattr records of index.h. */
int img_xattr_set_write(const img_xattr_set *set, img_bytes *out, img_error *err);

#endif
