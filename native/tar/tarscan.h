/* tarscan.h: makes an img_index of a tar archive.
 *
 * Law: the scanner does no I/O.  The caller feeds it bytes, and takes the index in the end.  The
 * scanner stores no contents of members except sparse maps and extended headers; both are limited.
 *
 * Dialects: v7, ustar, star, GNU (L, K, base-256, S), PAX (x, g, sparse 0.0, 0.1, 1.0).  Sources:
 * POSIX.1-2017 pax "ustar Interchange Format" and "pax Header Block", GNU tar's manual "Basic Tar
 * Format" and "Storing Sparse Files", libarchive's tar(5).
 * Threads: a scanner belongs to one thread.
 *
 * Type flags
 *   '\0' '7'      file; a directory if the name ends in "/" (as in v7)
 *   '0'           file, even if its name ends in "/": so do Go's archive/tar (docker, containerd,
 *                 podman, umoci) and busybox.  GNU tar and bsdtar make a directory, and read the
 *                 contents as further members.
 *   '1'           hardlink: only its name and target are used
 *   '2'-'6'       symlink, character device, block device, directory, fifo
 *                 Types '1' to '6' have no contents.  The scanner ignores their size, as Go's
 *                 archive/tar (and so every container engine), GNU tar and bsdtar do.
 *   'S'           GNU sparse file
 *   'D'           GNU incremental directory: a directory; its list of names is skipped
 *   'x' 'X' 'g'   PAX extended header (X: an early form by Sun), global header
 *   'L' 'K'       GNU long name, long link target
 *   'V'           volume label: skipped
 *   'A'-'Z'       extensions of vendors: skipped with their contents; the index counts them
 *   'M' 'N'       continued from another volume, old name table: EBADMSG, because ignoring them
 *                 would lose files
 *   else          EBADMSG
 *
 * A name may be given in several places.  The first of these counts: GNU.sparse.name, PAX path, GNU
 * L, the header block.  If PAX gives a time, an id or a size, the field of the header block is not
 * read.  If several extended headers of one kind come before a member, only the last counts.  A
 * number that is no id (0 .. 2^32 - 2) becomes 0, and the entry gets IMG_ENTRY_OWNER.  A device has
 * 12 bits major and 20 bits minor (dev_t of Linux): E2BIG beyond.
 *
 * The archive ends with a zero block or with the input.  POSIX wants two zero blocks, but GNU tar
 * and bsdtar do not read beyond a single one either.  The last member's padding may be missing.  An
 * input without any bytes is an empty archive.  Any other input that does not begin with a header
 * or a zero block is not a tar archive.
 */
#ifndef IMG_TARSCAN_H
#define IMG_TARSCAN_H

#include "base/error.h"
#include "index/index.h"

typedef struct img_scanner img_scanner;

img_scanner *img_scanner_new(void); /* NULL: out of memory */
void img_scanner_free(img_scanner *scanner);

/* Feeds the next size bytes of the archive.  Bytes after the end-of-archive mark are ignored.
 * EBADMSG, E2BIG, ENOMEM.  After an error, every further call fails with the same error. */
int img_scanner_feed(img_scanner *scanner, const void *data, size_t size, img_error *err);

/* The number of next bytes that the scanner does not need (contents of a member); 0 if it needs the
 * next byte.  Instead of feeding these bytes, the caller may pass their number, or less, to
 * img_scanner_skip. */
uint64_t img_scanner_skippable(const img_scanner *scanner);
void img_scanner_skip(img_scanner *scanner, uint64_t size);

/* True once a zero block was read: the bytes after it do not belong to the archive. */
bool img_scanner_ended(const img_scanner *scanner);

/* Ends the input and returns the index, which the caller owns.  EBADMSG: the archive ends inside a
 * member.  The index's archive_bytes is the offset of the first zero block of the end mark, or the
 * end of the input.  The scanner cannot be used afterwards. */
img_index *img_scanner_finish(img_scanner *scanner, img_error *err);

#endif
