/* content.h: the bytes of a layer's file, read where they stand: in the archive, or in a directory
 * layer's own file.
 *
 * An img_content is a snapshot taken under the tree's lock and used without it: what it points to
 * is the layer's index, which does not change and outlives the tree.  Reading uses pread, never a
 * mapping: an archive that shrinks gives -EIO, not SIGBUS.
 *
 * A directory layer's file is opened when it is first read, and its descriptor kept among a bounded
 * number (upperfds.h).  One that is gone or has shrunk since the layer was scanned gives -EIO.
 */
#ifndef IMG_CONTENT_H
#define IMG_CONTENT_H

#include "tree/tree.h"

#include <sys/types.h>

typedef struct img_content {
    uint64_t size;
    int fd;                    /* of the layer; -1: nobody has the contents, reading is -EIO */
    uint64_t base;             /* where the uncompressed tar starts in fd */
    const img_extent *extents; /* NULL: one extent, the whole file, at archive_data */
    uint32_t n_extents;
    uint64_t archive_data;
    const img_index *directory; /* NULL: an archive; else fd is a directory layer, and archive_data
                                   the file's record */
    struct img_fds *files;
    uint32_t file; /* its key there */
} img_content;

/* R. The node must be a regular file of a layer. */
img_content img_content_of(const img_tree *tree, const img_node *node);

/* The i-th piece of data, as an extent; false when there is none.  A directory layer's file is one
 * piece: where its holes are img_content_seek says. */
bool img_content_extent(const img_content *content, uint32_t i, img_extent *out);

/* Reads up to size bytes at offset, holes as zeros; short only at the end of the file.
 * Returns the number of bytes, -EIO when the archive is shorter than its index says, or another
 * negative errno. */
ssize_t img_content_read(const img_content *content, uint64_t offset, void *buffer, size_t size);

/* The same, when the bytes are in the page cache; -EAGAIN when reading would wait for a disk (or
 * cannot tell). */
ssize_t img_content_read_now(const img_content *content, uint64_t offset, void *buffer,
                             size_t size);

/* lseek(2) with SEEK_DATA or SEEK_HOLE: the offset, or -ENXIO. */
int64_t img_content_seek(const img_content *content, uint64_t offset, int whence);

/* The next piece of data at or behind offset, of a directory layer's file as its own holes are: 1,
 * 0 when there is none, -EIO for a file that has shrunk, or another negative errno. */
int img_content_data(const img_content *content, uint64_t offset, img_extent *out);

/* copy_file_range(2) of that range to to_at of another file: shares blocks where it can. The number
 * of bytes, or a negative errno, -EOPNOTSUPP for what has holes. */
ssize_t img_content_share(const img_content *content, uint64_t at, int to, uint64_t to_at,
                          uint64_t length);

/* st_blocks of a node: 512-byte units; of a layer's file what its data takes in 4 KiB pages,
 * of a directory layer's what its own file says. */
uint64_t img_node_blocks(const img_node *node);

/* Copies the first limit bytes into the file fd, which has nothing but holes, where ours are left
 * as holes; it then is at least so long. Shares blocks where the file system can (copy_file_range).
 * Negative errno. */
int img_content_copy(const img_content *content, int fd, uint64_t limit);

#endif
