/* tarblock.h: the fields of one 512-byte tar header block.
 *
 *   0 name[100]   100 mode[8]   108 uid[8]   116 gid[8]   124 size[12]   136 mtime[12]
 * 148 chksum[8]   156 typeflag  157 linkname[100]   257 magic[6] version[2]
 * 265 uname[32]   297 gname[32] 329 devmajor[8]     337 devminor[8]
 * 345 ustar: prefix[155]
 *     star:  prefix[131] 476 atime[12] 488 ctime[12] 508 "tar\0"
 *     GNU:   atime[12] 357 ctime[12] ... 386 sparse[4][24] 482 isextended 483 realsize[12]
 *
 * Sources: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar's manual, "Basic Tar Format";
 * libarchive's tar(5).  Pure functions of the block.
 */
#ifndef IMG_TARBLOCK_H
#define IMG_TARBLOCK_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TAR_BLOCK 512u

typedef struct tar_field {
    uint16_t at, width;
    const char *what; /* the field's name, for messages */
} tar_field;

extern const tar_field TAR_MODE, TAR_UID, TAR_GID, TAR_SIZE, TAR_MTIME, TAR_DEVMAJOR, TAR_DEVMINOR,
    TAR_REALSIZE, TAR_GNU_ATIME, TAR_GNU_CTIME, TAR_STAR_ATIME, TAR_STAR_CTIME;

#define TAR_TYPEFLAG 156
#define TAR_SPARSE_AT 386 /* four pairs of 12-byte numbers: offset, length */
#define TAR_SPARSE_PAIRS 4
#define TAR_SPARSE_MORE 482    /* not 0: an extension block follows */
#define TAR_EXTENSION_PAIRS 21 /* pairs at the start of an extension block */
#define TAR_EXTENSION_MORE 504

typedef enum tar_dialect {
    TAR_V7 = 0, /* no magic: the fields behind linkname have no meaning */
    TAR_USTAR,
    TAR_STAR,
    TAR_GNU,
} tar_dialect;

tar_dialect tar_block_dialect(const unsigned char *block);

bool tar_block_is_zero(const unsigned char *block);

/* True if the checksum is the sum of the bytes, unsigned or, as in some old tars, signed. */
bool tar_block_checksum_holds(const unsigned char *block);

/* Reads the number digits[0..width): octal with blanks or NULs around it (all blank is 0), or GNU's
 * base-256 two's complement.  -1: neither, or beyond 63 bits. */
int tar_number(const unsigned char *digits, size_t width, int64_t *out);

/* Reads the number of a field.  EBADMSG, whose message has the field's name: it is no number. */
int tar_block_number(const unsigned char *block, tar_field field, int64_t *out, img_error *err);

/* The member's name: prefix and name joined in `joined` or, if the prefix is empty, the name field
 * itself.  prefix_width: the width of the prefix field in the block's dialect; 0: it has none. */
const char *tar_block_name(const unsigned char *block, size_t prefix_width, char joined[257],
                           size_t *len);
const char *tar_block_link(const unsigned char *block, size_t *len);

#endif
