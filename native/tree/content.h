/* content.h: reads the contents of a layer's file, from the archive or from the file of a directory
 * layer.
 *
 * Law: an img_content is a snapshot that is taken under the tree's lock and used without it.  It
 * points into the layer's index, which does not change and outlives the tree.  Contents are read
 * with pread and never mapped: an archive that shrinks gives -EIO, not SIGBUS.
 *
 * The file of a directory layer is opened when it is first read; a limited number of descriptors
 * stays open (upperfds.h).  A file that was removed or has shrunk after the scan gives -EIO.
 */
#ifndef IMG_CONTENT_H
#define IMG_CONTENT_H

#include "packed/packed.h"
#include "tree/tree.h"

#include <sys/types.h>

typedef struct img_content {
    uint64_t size;
    int fd; /* of the layer; -1, and no packed: no layer has the contents, so reading fails
               with -EIO */
    img_packed *packed;        /* the address space of a compressed tar; NULL: fd has the bytes */
    uint64_t base;             /* offset of the uncompressed tar in fd */
    const img_extent *extents; /* NULL: one extent, the whole file, at archive_data */
    uint32_t n_extents;
    uint64_t archive_data;
    const img_index
        *directory; /* NULL: fd is an archive; else fd is the root of this directory
                       layer, and archive_data is the pool offset of the file's record */
    struct img_fds *files;
    uint32_t file;  /* the key of the file in `files` */
    uint32_t first; /* img_layer.first_file */
} img_content;

/* R. The node must be a regular file whose data are in a layer. */
img_content img_content_of(const img_tree *tree, const img_node *node);

/* The i-th piece of data, as an extent; false: there is none.  A file of a directory layer is one
 * piece; img_content_seek finds its holes. */
bool img_content_extent(const img_content *content, uint32_t i, img_extent *out);

/* Reads up to size bytes at offset, holes as zeros; fewer only at the end of the file.
 * Returns the number of bytes; -EIO: the archive is shorter than its index requires; or another
 * negative errno. */
ssize_t img_content_read(const img_content *content, uint64_t offset, void *buffer, size_t size);

/* The same, but only from the page cache.  -EAGAIN: reading would wait for a disk, or might. */
ssize_t img_content_read_now(const img_content *content, uint64_t offset, void *buffer,
                             size_t size);

/* Decompresses what is not kept yet of a file of a compressed layer, so that img_content_read_now
 * finds it: that function stores nothing itself, system calls do.  0: it is kept, or needs not be;
 * negative errno. */
int img_content_prepare(const img_content *content);

/* lseek(2) with SEEK_DATA or SEEK_HOLE: the offset, or -ENXIO. */
int64_t img_content_seek(const img_content *content, uint64_t offset, int whence);

/* The next piece of data at or behind offset; the holes of a directory layer's file are those of
 * the file on the host.  1; 0: there is no more data; -EIO: the file has shrunk; or another
 * negative errno. */
int img_content_data(const img_content *content, uint64_t offset, img_extent *out);

/* copy_file_range(2) of `length` bytes at `at` to offset to_at of the file `to`, which shares
 * blocks if the file system can.  Returns the number of bytes, or a negative errno: -EOPNOTSUPP for
 * a sparse file and for a compressed layer. */
ssize_t img_content_share(const img_content *content, uint64_t at, int to, uint64_t to_at,
                          uint64_t length);

/* st_blocks of a node, in 512-byte units.  For a file of an archive: its data,
 * rounded up to 4 KiB pages.  For a file of a directory layer: st_blocks of the file on the host.
 */
uint64_t img_node_blocks(const img_node *node);

/* Copies the first `limit` bytes into the file fd, and extends the file to that length.  The file
 * must have no data yet, because holes are not written.  Shares blocks if the file system can
 * (copy_file_range(2)). Negative errno. */
int img_content_copy(const img_content *content, int fd, uint64_t limit);

#endif
