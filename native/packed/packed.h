/* packed.h: a compressed layer as one address space: the bytes of its uncompressed tar.
 *
 * Law: a byte that is given out lies in a chunk that has its digest.  A chunk is looked for in the
 * chunk cache, and else decompressed from the nearest access point before it.
 *
 *   known chunk      one pread of the cache            img_packed_read_now and img_packed_read
 *   kept, not known  one pread and a hash              img_packed_read
 *   not kept         decompress, hash, keep            img_packed_read
 *
 * Decompressing is the work of a *cursor*: a decoder with the place in the tar that it has reached.
 * A process has at most IMG_CURSORS, whatever the number of layers.  A reader who goes on where a
 * cursor stands lets this cursor go on; who asks for a chunk that a cursor is just making waits for
 * it.  For a reader in order, threads decompress ahead, one from each access point, so that each
 * processor has a part of the stream.
 *
 * Errors: -EIO if the blob does not give the bytes that the digest says (it was changed or cut),
 * after a line to log_fd, one of each chunk.
 *
 * Threads: all functions but _new and _free may be called by several
 * threads at a time.
 */
#ifndef IMG_PACKED_H
#define IMG_PACKED_H

#include "packed/chunkfile.h"
#include "packed/points.h"

typedef struct img_packed img_packed;

typedef struct img_packed_files {
    int blob_fd; /* the compressed blob is blob_bytes (of the points) at blob_at of this file */
    uint64_t blob_at;
    int sidecar_fd; /* re-framed zstd; -1: none */
    int chunks_dir; /* borrowed: the directory of the chunk cache (chunkfile.h); -1: none */
    const char
        *chunks_path; /* of its file: the last name is in that directory, the rest for the log */
    int log_fd;       /* gets a line for each error; -1: none */
} img_packed_files;

/* Takes the descriptors and the points.  digests: one of each chunk of the tar.  name: for the log.
 * NULL: ENOMEM, EBADMSG; then the descriptors and the points are still the caller's. */
img_packed *img_packed_new(const img_packed_files *files, img_points *points, const void *digests,
                           uint64_t n_digests, const char *name, img_error *err);
/* Closes the descriptors, those of the points too, when no other thread reads; reading is -EIO
 * afterwards. */
void img_packed_close(img_packed *packed);
void img_packed_free(img_packed *packed);

uint64_t img_packed_size(const img_packed *packed);

/* Reads exactly size bytes of the tar at offset.  size; -EIO: there are not so many, or the bytes
 * are not the right ones; -ENOMEM. */
ssize_t img_packed_read(img_packed *packed, uint64_t offset, void *buffer, size_t size);

/* The same, but only if nothing has to be decompressed, hashed or waited for.  -EAGAIN: it has. */
ssize_t img_packed_read_now(img_packed *packed, uint64_t offset, void *buffer, size_t size);

/* Decompresses what is not kept of these bytes.  0; -EAGAIN: there is no chunk cache; or an error
 * of img_packed_read. */
int img_packed_prepare(img_packed *packed, uint64_t offset, uint64_t size);

/* Says where lines about errors go; the descriptor stays the caller's.  -1: nowhere. */
void img_packed_log_to(img_packed *packed, int fd);

/* From now on each IMG_PACKED_TELL bytes that the process keeps, of all layers, add 1 to the
 * eventfd, which stays the caller's.  -1: to none. */
#define IMG_PACKED_TELL (64u << 20)
void img_packed_tell(img_packed *packed, int event_fd);

/* The most memory for states of access points that are in no file, of all layers of the process. */
#define IMG_STATES_MAX (32u << 20)
uint64_t img_packed_states(void); /* how much it is */

img_chunkfile *img_packed_chunks(img_packed *packed);

/* What the process has decompressed: bytes of tars; and how often a decoder had to begin anew. */
typedef struct img_packed_counts {
    uint64_t decoded, begun, loaded, wrong;
} img_packed_counts;

img_packed_counts img_packed_count(const img_packed *packed);

/* Stops the threads that decompress ahead, for instance before fork(2).  They start again when they
 * are needed. */
void img_packed_stop_threads(void);

#endif
