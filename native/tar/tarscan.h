/* tarscan.h: a tar archive becomes an img_index. Sans-I/O: bytes are fed in, an index comes out.
 *
 * Dialects: v7, ustar, star, GNU (L, K, base-256, S), PAX (x, g, sparse 0.0, 0.1, 1.0); sources are
 * POSIX.1-2017 pax "ustar Interchange Format" and "pax Header Block", GNU tar's manual "Basic Tar
 * Format" and "Storing Sparse Files", libarchive's tar(5).
 * The scanner never holds member contents, save sparse maps and extended headers (both limited).
 * Threads: one scanner, one thread.
 *
 * Type flags
 *   '\0' '0' '7'  file; a name that ends in "/" makes it a directory (v7's way)
 *   '1'           hardlink: only its name and target are kept
 *   '2'-'6'       symlink, character and block device, directory, fifo
 *                 header only, as all that is no file: a size is ignored and no contents follow, as
 *                 Go's archive/tar, and so every container engine, GNU tar and bsdtar read them
 *   'S'           GNU sparse file
 *   'D'           GNU incremental directory: a directory, its list of names is skipped
 *   'x' 'X' 'g'   PAX extended header (X: Sun's early one), global header
 *   'L' 'K'       GNU long name, long link target
 *   'V', 'A'-'Z'  volume label and vendors' own: skipped with their contents
 *   'M' 'N'       continued from another volume, old name tables: EBADMSG, for files would be lost
 *   else          EBADMSG
 *
 * A name is, in this order, GNU.sparse.name, PAX path, GNU L, the header's. Times, ids and sizes of
 * PAX win over the header's, which are then not looked at.  Of several extended headers of one
 * kind before a member the last counts alone.  A number that is no id (0 .. 2^32 - 2) shows as 0,
 * and the entry says so.  Devices have 12 bits major and 20 bits minor (Linux' dev_t): E2BIG
 * beyond.
 *
 * End: a zero block, or the end of input.  POSIX wants two, but what stands behind a lone one GNU
 * tar and bsdtar do not show either.  The last member's padding may be missing.  No bytes at all
 * are an empty archive; anything else without a header first is no tar archive.
 */
#ifndef IMG_TARSCAN_H
#define IMG_TARSCAN_H

#include "base/error.h"
#include "index/index.h"

typedef struct img_scanner img_scanner;

img_scanner *img_scanner_new(void); /* NULL: out of memory */
void img_scanner_free(img_scanner *scanner);

/* Feeds the next size bytes of the archive. Bytes after the end-of-archive mark are ignored.
 * EBADMSG, E2BIG, ENOMEM; after an error the scanner takes no more: each call fails alike. */
int img_scanner_feed(img_scanner *scanner, const void *data, size_t size, img_error *err);

/* How many of the next bytes the scanner has no use for (member contents); 0 when it wants bytes.
 * img_scanner_skip(n) with n up to that number stands for feeding them. */
uint64_t img_scanner_skippable(const img_scanner *scanner);
void img_scanner_skip(img_scanner *scanner, uint64_t size);

/* True once a zero block was seen: what follows is not the archive's. */
bool img_scanner_ended(const img_scanner *scanner);

/* End of input. EBADMSG when the archive ends inside a member. The caller owns the index; its
 * archive_bytes is where the first zero block of the end mark stands, or the end of input.
 * The scanner takes no more afterwards. */
img_index *img_scanner_finish(img_scanner *scanner, img_error *err);

#endif
