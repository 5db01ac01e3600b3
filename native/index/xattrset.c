#include "index/xattrset.h"

#include "index/index.h"

#include <errno.h>
#include <linux/limits.h>
#include <stdlib.h>
#include <string.h>

void img_xattr_set_reset(img_xattr_set *set) {
    set->n = 0;
    set->data.len = 0;
}

void img_xattr_set_free(img_xattr_set *set) {
    img_bytes_free(&set->data);
    free(set->slots);
    *set = (img_xattr_set){0};
}

static uint32_t hash_name(const char *name, size_t len) {
    uint32_t hash = 2166136261u; /* FNV-1a; collisions cost little among IMG_XATTRS_MAX slots */
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (unsigned char)name[i]) * 16777619u;
    return hash;
}

static int check(const char *name, size_t name_len, size_t value_len, img_error *err) {
    if (name_len == 0 || memchr(name, 0, name_len))
        return img_fail(err, EBADMSG, "an xattr whose name is empty or holds a NUL byte");
    if (name_len > XATTR_NAME_MAX)
        return img_fail(err, E2BIG, "an xattr name of %zu bytes, the limit is %d", name_len,
                        XATTR_NAME_MAX);
    if (value_len > IMG_XATTR_VALUE_MAX)
        return img_fail(err, E2BIG, "an xattr value of %zu bytes, the limit is %u", value_len,
                        IMG_XATTR_VALUE_MAX);
    return 0;
}

/* Copies bytes into data; *at is their offset. */
static int keep(img_xattr_set *set, const void *bytes, size_t len, uint32_t *at, img_error *err) {
    if (set->data.len + len > IMG_EXTENDED_BYTES_MAX)
        return img_fail(err, E2BIG, "more than %u bytes of xattrs in one member, the limit",
                        IMG_EXTENDED_BYTES_MAX);
    *at = (uint32_t)set->data.len;
    if (img_bytes_add(&set->data, bytes, len) < 0)
        return img_fail(err, ENOMEM, "out of memory");
    return 0;
}

static img_xattr_slot *find(const img_xattr_set *set, uint32_t hash, const char *name, size_t len) {
    for (size_t i = 0; i < set->n; i++) {
        img_xattr_slot *slot = &set->slots[i];
        if (slot->hash == hash && slot->name_len == len &&
            memcmp(set->data.data + slot->name, name, len) == 0)
            return slot;
    }
    return NULL;
}

static img_xattr_slot *add_slot(img_xattr_set *set, img_error *err) {
    if (set->n == IMG_XATTRS_MAX) {
        img_fail(err, E2BIG, "more than %u xattrs in one member, the limit", IMG_XATTRS_MAX);
        return NULL;
    }
    if (set->n == set->cap) {
        size_t cap = set->cap ? 2 * set->cap : 8;
        img_xattr_slot *grown = realloc(set->slots, cap * sizeof *grown);
        if (!grown) {
            img_fail(err, ENOMEM, "out of memory");
            return NULL;
        }
        set->slots = grown;
        set->cap = cap;
    }
    return &set->slots[set->n];
}

int img_xattr_set_put(img_xattr_set *set, const char *name, size_t name_len, const void *value,
                      size_t value_len, img_error *err) {
    if (check(name, name_len, value_len, err) < 0)
        return -1;
    uint32_t hash = hash_name(name, name_len);
    img_xattr_slot *slot = find(set, hash, name, name_len);
    if (!slot) {
        slot = add_slot(set, err);
        if (!slot || keep(set, name, name_len, &slot->name, err) < 0)
            return -1;
        slot->hash = hash;
        slot->name_len = (uint16_t)name_len;
        if (keep(set, value, value_len, &slot->value, err) < 0)
            return -1;
        slot->value_len = (uint32_t)value_len;
        set->n++;
        return 0;
    }
    if (keep(set, value, value_len, &slot->value, err) < 0)
        return -1;
    slot->value_len = (uint32_t)value_len;
    return 0;
}

int img_xattr_set_merge(img_xattr_set *set, const img_xattr_set *from, img_error *err) {
    for (size_t i = 0; i < from->n; i++) {
        const img_xattr_slot *slot = &from->slots[i];
        if (img_xattr_set_put(set, from->data.data + slot->name, slot->name_len,
                              from->data.data + slot->value, slot->value_len, err) < 0)
            return -1;
    }
    return 0;
}

const char *img_xattr_set_get(const img_xattr_set *set, const char *name, size_t *len) {
    const img_xattr_slot *slot = find(set, hash_name(name, strlen(name)), name, strlen(name));
    if (!slot)
        return NULL;
    *len = slot->value_len;
    return set->data.data + slot->value;
}

int img_xattr_set_write(const img_xattr_set *set, img_bytes *out, img_error *err) {
    for (size_t i = 0; i < set->n; i++) {
        const img_xattr_slot *slot = &set->slots[i];
        const char *data = set->data.data;
        if (img_bytes_add(out, &slot->name_len, sizeof slot->name_len) < 0 ||
            img_bytes_add(out, &slot->value_len, sizeof slot->value_len) < 0 ||
            img_bytes_add(out, data + slot->name, slot->name_len) < 0 ||
            img_bytes_add(out, data + slot->value, slot->value_len) < 0)
            return img_fail(err, ENOMEM, "out of memory");
    }
    return 0;
}
