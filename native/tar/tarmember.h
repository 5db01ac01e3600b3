/* tarmember.h: a header block and the extended headers before it become one img_entry.
 *
 * Pure: decides, opens nothing and skips nothing.  What the scanner has to do next (how many bytes
 * of contents follow, whether a sparse map comes first) is in the result.
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
    bool any;       /* one was read: start counts, and a member must follow */
    uint64_t bytes; /* of extended headers for the next member */
} img_headers;

void img_headers_reset(img_headers *headers); /* for the next member: keeps the global header */
void img_headers_free(img_headers *headers);

typedef enum img_map { IMG_MAP_NONE, IMG_MAP_PAX, IMG_MAP_GNU, IMG_MAP_LINES } img_map;

typedef struct img_member {
    img_entry entry; /* complete but for contents' place and extents of a sparse file */
    uint64_t stored; /* bytes of contents in the archive, a PAX 1.0 map included */
    uint64_t real;   /* IMG_MAP_*: size of the file */
    img_map map;     /* sparse: how its map is spelled */
} img_member;

/* The name that the headers give, not normalised; joined is room for a ustar prefix. */
const char *img_member_name(const img_headers *headers, const unsigned char *block,
                            char joined[257], size_t *len);

/* Fills *member; interns its strings.  header: the block's archive offset. */
int img_member_read(img_headers *headers, const unsigned char *block, uint64_t header,
                    img_builder *builder, img_member *member, img_error *err);

#endif
