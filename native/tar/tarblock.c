#include "tar/tarblock.h"

#include <errno.h>
#include <string.h>

const tar_field TAR_MODE = {100, 8, "mode"};
const tar_field TAR_UID = {108, 8, "uid"};
const tar_field TAR_GID = {116, 8, "gid"};
const tar_field TAR_SIZE = {124, 12, "size"};
const tar_field TAR_MTIME = {136, 12, "mtime"};
const tar_field TAR_DEVMAJOR = {329, 8, "devmajor"};
const tar_field TAR_DEVMINOR = {337, 8, "devminor"};
const tar_field TAR_REALSIZE = {483, 12, "realsize"};
const tar_field TAR_GNU_ATIME = {345, 12, "atime"};
const tar_field TAR_GNU_CTIME = {357, 12, "ctime"};
const tar_field TAR_STAR_ATIME = {476, 12, "atime"};
const tar_field TAR_STAR_CTIME = {488, 12, "ctime"};

static const tar_field NAME = {0, 100, "name"};
static const tar_field CHECKSUM = {148, 8, "checksum"};
static const tar_field LINKNAME = {157, 100, "linkname"};
enum { MAGIC_AT = 257, PREFIX_AT = 345, STAR_TRAILER_AT = 508 };

tar_dialect tar_block_dialect(const unsigned char *block) {
    /* With the version, which POSIX does not compare.  Go's archive/tar and GNU tar take a header
     * with another magic for one of V7, which has no prefix. */
    if (memcmp(block + MAGIC_AT, "ustar  ", 8) == 0)
        return TAR_GNU;
    if (memcmp(block + MAGIC_AT, "ustar", 6) != 0)
        return TAR_V7;
    return memcmp(block + STAR_TRAILER_AT, "tar", 4) == 0 ? TAR_STAR : TAR_USTAR;
}

bool tar_block_is_zero(const unsigned char *block) {
    /* The first byte is compared first, because it is 0 only in the last blocks of an archive. */
    return block[0] == 0 && memcmp(block, block + 1, TAR_BLOCK - 1) == 0;
}

bool tar_block_checksum_holds(const unsigned char *block) {
    int64_t stored;
    if (tar_number(block + CHECKSUM.at, CHECKSUM.width, &stored) < 0)
        return false;
    /* The checksum field itself counts as blanks. */
    int32_t sum = 8 * ' ', high = 0;
    for (unsigned i = 0; i < TAR_BLOCK; i++)
        sum += block[i];
    for (unsigned i = 0; i < CHECKSUM.width; i++)
        sum -= block[CHECKSUM.at + i];
    if (stored == sum)
        return true;
    for (unsigned i = 0; i < TAR_BLOCK; i++)
        if (i < CHECKSUM.at || i >= (unsigned)CHECKSUM.at + CHECKSUM.width)
            high += block[i] >> 7;
    return stored == sum - 256 * high; /* a signed byte is 256 less when its top bit is set */
}

static int base256(const unsigned char *digits, size_t width, int64_t *out) {
    bool negative = digits[0] & 0x40;
    uint64_t value = 0;
    for (size_t i = 0; i < width; i++) {
        unsigned char byte = digits[i];
        if (i == 0)
            byte &= 0x7f; /* bit 7 marks base-256; bit 6 is the sign, which the next lines extend */
        if (negative)
            byte = (unsigned char)(i == 0 ? ~byte & 0x7f : ~byte);
        if (value >> 55)
            return -1;
        value = value << 8 | byte;
    }
    *out = negative ? -(int64_t)value - 1 : (int64_t)value;
    return 0;
}

static bool is_blank(unsigned char c) {
    return c == ' ' || c == 0;
}

int tar_number(const unsigned char *digits, size_t width, int64_t *out) {
    if (digits[0] & 0x80)
        return base256(digits, width, out);
    const unsigned char *at = digits, *end = digits + width;
    while (at < end && is_blank(*at))
        at++;
    uint64_t value = 0; /* at most 12 octal digits: 36 bits */
    while (at < end && *at >= '0' && *at <= '7')
        value = value << 3 | (uint64_t)(*at++ - '0');
    if (at < end && !is_blank(*at))
        return -1;
    *out = (int64_t)value;
    return 0;
}

int tar_block_number(const unsigned char *block, tar_field field, int64_t *out, img_error *err) {
    if (tar_number(block + field.at, field.width, out) == 0)
        return 0;
    return img_fail(err, EBADMSG, "the header's %s is no number", field.what);
}

const char *tar_block_name(const unsigned char *block, size_t prefix_width, char joined[257],
                           size_t *len) {
    const char *name = (const char *)block + NAME.at;
    size_t name_len = strnlen(name, NAME.width);
    const char *prefix = (const char *)block + PREFIX_AT;
    size_t prefix_len = strnlen(prefix, prefix_width);
    *len = name_len;
    if (prefix_len == 0)
        return name;
    memcpy(joined, prefix, prefix_len);
    joined[prefix_len] = '/';
    memcpy(joined + prefix_len + 1, name, name_len);
    *len = prefix_len + 1 + name_len;
    return joined;
}

const char *tar_block_link(const unsigned char *block, size_t *len) {
    const char *link = (const char *)block + LINKNAME.at;
    *len = strnlen(link, LINKNAME.width);
    return link;
}
