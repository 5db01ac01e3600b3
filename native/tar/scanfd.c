/* scanfd.c: the only code of the scanner that does I/O: pread, in pieces of a size that adapts. */
#include "tar/scanfd.h"

#include "base/interrupt.h"
#include "tar/tarscan.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* After skipped contents, few bytes are read, because only a header is needed.  As long as nothing
 * is skipped, each read is twice as large as the one before. */
enum { PIECE_MIN = 1024, PIECE_MAX = 256 * 1024 };

static int read_some(int fd, void *buffer, size_t size, uint64_t at, size_t *got, img_error *err) {
    ssize_t n;
    do
        n = pread(fd, buffer, size, (off_t)at);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return img_fail(err, errno, "cannot read the archive: %s", strerror(errno));
    if (n == 0)
        return img_fail(err, EBADMSG,
                        "the file ends at or before byte %" PRIu64 ", inside the archive", at);
    *got = (size_t)n;
    return 0;
}

static int feed_all(img_scanner *scanner, int fd, uint64_t offset, uint64_t length, char *buffer,
                    img_error *err) {
    uint64_t at = 0;
    size_t piece = PIECE_MIN, got;
    while (at < length && !img_scanner_ended(scanner)) {
        uint64_t skip = img_scanner_skippable(scanner), left = length - at;
        if (skip) {
            skip = skip < left ? skip : left;
            img_scanner_skip(scanner, skip);
            at += skip;
            piece = PIECE_MIN;
            continue;
        }
        err->offset = at;
        if (img_interrupted(IMG_IO_STEP, err) < 0)
            return -1;
        if (read_some(fd, buffer, left < piece ? (size_t)left : piece, offset + at, &got, err) <
                0 ||
            img_scanner_feed(scanner, buffer, got, err) < 0)
            return -1;
        at += got;
        piece = piece < PIECE_MAX ? 2 * piece : PIECE_MAX;
    }
    return 0;
}

/* Reads the last byte, because otherwise a file that ends inside skipped contents is accepted. */
static int check_length(int fd, uint64_t offset, uint64_t length, img_error *err) {
    char last;
    size_t got;
    err->offset = 0;
    err->member[0] = 0;
    if (offset > INT64_MAX || length > (uint64_t)INT64_MAX - offset)
        return img_fail(err, EINVAL, "an archive beyond the largest file offset");
    return length ? read_some(fd, &last, 1, offset + length - 1, &got, err) : 0;
}

img_index *img_scan_fd(int fd, uint64_t offset, uint64_t length, img_error *err) {
    if (check_length(fd, offset, length, err) < 0)
        return NULL;
    img_index *index = NULL;
    img_scanner *scanner = img_scanner_new();
    char *buffer = malloc(PIECE_MAX);
    if (!scanner || !buffer)
        img_fail(err, ENOMEM, "out of memory");
    else if (feed_all(scanner, fd, offset, length, buffer, err) == 0)
        index = img_scanner_finish(scanner, err);
    free(buffer);
    img_scanner_free(scanner);
    return index;
}
