/* acl.c: parses the text of an ACL entry by entry, then sorts the entries and writes the value. */
#include "tar/acl.h"

#include "base/decimal.h"

#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* From linux/posix_acl.h and posix_acl_xattr.h; the headers for user space lack the tags. */
enum { USER_OBJ = 1, USER = 2, GROUP_OBJ = 4, GROUP = 8, MASK = 0x10, OTHER = 0x20 };
#define ACL_VERSION 2u
#define ACL_NO_ID 0xffffffffu
enum { ENTRIES_MAX = (65536 - 4) / 8 }; /* the entries that fit in XATTR_SIZE_MAX bytes */

typedef struct acl_entry {
    uint16_t tag, permissions;
    uint32_t id;
} acl_entry;

typedef struct acl {
    acl_entry *entries;
    size_t n;
    unsigned tags; /* the tags seen, including those of dropped entries */
} acl;

typedef struct span {
    const char *at;
    size_t len;
} span;

static span trim(span text) {
    while (text.len && (*text.at == ' ' || *text.at == '\t')) {
        text.at++;
        text.len--;
    }
    while (text.len && (text.at[text.len - 1] == ' ' || text.at[text.len - 1] == '\t'))
        text.len--;
    return text;
}

static bool is(span text, const char *word) {
    return text.len == strlen(word) && memcmp(text.at, word, text.len) == 0;
}

/* Returns the text before the first `stop`, and sets *rest to the text after this `stop`.  If there
 * is no `stop`, returns all of the text, and rest->at is NULL. */
static span cut(span text, char stop, span *rest) {
    const char *found = text.len ? memchr(text.at, stop, text.len) : NULL;
    if (!found) {
        *rest = (span){NULL, 0};
        return text;
    }
    size_t len = (size_t)(found - text.at);
    *rest = (span){found + 1, text.len - len - 1};
    return (span){text.at, len};
}

static int parse_permissions(span text, uint16_t *out) {
    unsigned bits = 0;
    if (text.len == 0)
        return -1;
    for (size_t i = 0; i < text.len; i++) {
        switch (text.at[i]) {
        case 'r':
            bits |= 4;
            break;
        case 'w':
            bits |= 2;
            break;
        case 'x':
            bits |= 1;
            break;
        case '-':
            break;
        default:
            return -1;
        }
    }
    *out = (uint16_t)bits;
    return 0;
}

static uint16_t parse_tag(span tag, bool qualified) {
    if (is(tag, "user") || is(tag, "u"))
        return qualified ? USER : USER_OBJ;
    if (is(tag, "group") || is(tag, "g"))
        return qualified ? GROUP : GROUP_OBJ;
    if (is(tag, "mask") || is(tag, "m"))
        return MASK;
    if (is(tag, "other") || is(tag, "o"))
        return OTHER;
    return 0;
}

/* Sets *out to the id of an entry: the fourth field; without one a numeric qualifier; else 0 if the
 * qualifier is "root".  False if the entry has no id in any of these forms. */
static bool parse_id(span qualifier, span fourth, uint32_t *out) {
    uint64_t id;
    if (img_decimal(fourth.at, fourth.len, &id) < 0 &&
        img_decimal(qualifier.at, qualifier.len, &id) < 0) {
        if (!is(qualifier, "root"))
            return false;
        id = 0;
    }
    *out = (uint32_t)id;
    return id < ACL_NO_ID;
}

static int parse_entry(span text, acl *list) {
    span rest, tag = trim(cut(text, ':', &rest));
    if (is(tag, "default") || is(tag, "d"))
        tag = trim(cut(rest, ':', &rest));
    span qualifier = trim(cut(rest, ':', &rest));
    span permissions = trim(cut(rest, ':', &rest));
    span fourth = trim(cut(rest, ':', &rest));
    acl_entry entry = {.id = ACL_NO_ID, .tag = parse_tag(tag, qualifier.len != 0)};
    if (entry.tag == MASK || entry.tag == OTHER) {
        if (!permissions.at) /* "mask:r-x", as some write it */
            permissions = qualifier;
        else if (qualifier.len)
            return -1;
    }
    if (!entry.tag || !qualifier.at || parse_permissions(permissions, &entry.permissions) < 0)
        return -1;
    if (!(entry.tag & (USER | GROUP)) && (list->tags & entry.tag))
        return -1;
    list->tags |= entry.tag;
    if ((entry.tag & (USER | GROUP)) && !parse_id(qualifier, fourth, &entry.id))
        return 0;
    list->entries[list->n++] = entry;
    return 0;
}

static int compare(const void *left, const void *right) {
    const acl_entry *a = left, *b = right;
    if (a->tag != b->tag)
        return a->tag < b->tag ? -1 : 1;
    return a->id == b->id ? 0 : a->id < b->id ? -1 : 1;
}

static int parse_all(span text, acl *list) {
    while (text.at) {
        span line, lines;
        line = cut(text, '\n', &lines);
        span ignored, rest = cut(line, '#', &ignored);
        while (rest.at) {
            span entry = trim(cut(rest, ',', &rest));
            if (entry.len && parse_entry(entry, list) < 0)
                return -1;
        }
        text = lines;
    }
    return 0;
}

static void add_mask(acl *list) {
    unsigned bits = 0;
    if ((list->tags & MASK) || !(list->tags & (USER | GROUP)))
        return;
    for (size_t i = 0; i < list->n; i++)
        if (list->entries[i].tag & (USER | GROUP_OBJ | GROUP))
            bits |= list->entries[i].permissions;
    list->entries[list->n++] =
        (acl_entry){.tag = MASK, .permissions = (uint16_t)bits, .id = ACL_NO_ID};
    list->tags |= MASK;
}

static bool well_formed(const acl *list) {
    unsigned base = USER_OBJ | GROUP_OBJ | OTHER;
    if ((list->tags & base) != base || list->n > ENTRIES_MAX)
        return false;
    for (size_t i = 1; i < list->n; i++)
        if (compare(&list->entries[i - 1], &list->entries[i]) == 0)
            return false; /* the kernel refuses two entries for one user or group */
    return true;
}

static int write_value(const acl *list, img_bytes *out) {
    uint32_t version = htole32(ACL_VERSION);
    if (img_bytes_set(out, &version, sizeof version) < 0)
        return -1;
    for (size_t i = 0; i < list->n; i++) {
        acl_entry entry = {htole16(list->entries[i].tag), htole16(list->entries[i].permissions),
                           htole32(list->entries[i].id)};
        if (img_bytes_add(out, &entry, sizeof entry) < 0)
            return -1;
    }
    return 0;
}
_Static_assert(sizeof(acl_entry) == 8, "written as the kernel's posix_acl_xattr_entry");

int img_acl_from_text(const char *text, size_t len, img_bytes *out, bool *minimal, img_error *err) {
    acl list = {0};
    int result = -1;
    /* The shortest entry and its separator are 5 bytes, "u::r,"; one more for a mask. */
    list.entries = malloc((len / 4 + 2) * sizeof *list.entries);
    if (!list.entries)
        return img_fail(err, ENOMEM, "out of memory");
    if (parse_all((span){text, len}, &list) < 0) {
        img_fail(err, EBADMSG, "an ACL that cannot be understood");
    } else {
        add_mask(&list);
        qsort(list.entries, list.n, sizeof *list.entries, compare);
        *minimal = !(list.tags & (USER | GROUP | MASK));
        if (!well_formed(&list))
            img_fail(err, EBADMSG, "an ACL that lacks an entry or has one twice");
        else if (write_value(&list, out) < 0)
            img_fail(err, ENOMEM, "out of memory");
        else
            result = 0;
    }
    free(list.entries);
    return result;
}
