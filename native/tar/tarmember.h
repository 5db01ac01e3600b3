/* tarmember.h: makes one img_entry of a header block and the extended headers before it.
 *
 * Pure: it reads no input and skips none.  The result tells the scanner what to do next: how many
 * bytes of contents follow, and whether a sparse map comes before them.
 */
#ifndef IMG_TARMEMBER_H
#define IMG_TARMEMBER_H

#include "base/bytes.h"
#include "base/error.h"
#include "index/indexbuild.h"
#include "tar/pax.h"

typedef struct img_headers {
    img_pax local, global;
    img_bytes long_name, long_link; /* GNU L and K */
    bool has_long_name, has_long_link;
    uint64_t start; /* archive offset of the first extended header */
    bool any;       /* an extended header was read: start is set, and a member must follow */
    uint64_t bytes; /* size of all extended headers for the next member */
} img_headers;

/* Prepares for the next member; keeps the global header. */
void img_headers_reset(img_headers *headers);
void img_headers_free(img_headers *headers);

typedef enum img_map { IMG_MAP_NONE, IMG_MAP_PAX, IMG_MAP_GNU, IMG_MAP_LINES } img_map;

typedef struct img_member {
    img_entry entry; /* complete except for archive_data and the extents of a sparse file */
    uint64_t stored; /* bytes of contents in the archive, a PAX 1.0 map included */
    uint64_t real;   /* size of a sparse file */
    img_map map;     /* format of a sparse file's map; IMG_MAP_NONE: not sparse */
} img_member;

/* The member's name, not normalised.  joined: a buffer, used if the block has a prefix. */
const char *img_member_name(const img_headers *headers, const unsigned char *block,
                            char joined[257], size_t *len);

/* Fills *member and interns its strings.  header: the block's archive offset. */
int img_member_read(img_headers *headers, const unsigned char *block, uint64_t header,
                    img_builder *builder, img_member *member, img_error *err);

#endif
