/* cursor.h: decoders with the place in the tar that each has reached, shared by all layers of the
 * process.
 *
 * Law: who has taken a cursor is alone with it.  A cursor gives whole chunks, one after another,
 * and does not look at digests.
 *
 * A cursor that was given back keeps its place and its last chunk.  The next one who takes it goes
 * on from there, if that is nearer to the chunk than the nearest access point is.
 *
 * Memory: IMG_CURSORS times a chunk, its input and the decoder (gzip 85 KiB; zstd the window of its
 * frames, at most 128 MiB).
 */
#ifndef IMG_CURSOR_H
#define IMG_CURSOR_H

#include "packed/chunkfile.h"
#include "packed/points.h"

#define IMG_CURSORS 6u

typedef struct img_cursor img_cursor;

/* Where a layer's compressed bytes are; cursors point to it. */
typedef struct img_cursor_source {
    const img_points *points;
    int blob_fd;
    uint64_t blob_at;
    int sidecar_fd;
} img_cursor_source;

/* Takes a cursor to decode chunks first to last (not less than first), in order.  NULL: another
 * thread was decoding chunk `first` meanwhile and has ended; look for the chunk again.  -ENOMEM in
 * *failed with NULL: no memory. */
img_cursor *img_cursor_take(const img_cursor_source *source, uint64_t first, uint64_t last,
                            int *failed);

/* The chunk's bytes if they were the last that this cursor gave, and were not spoilt; else NULL. */
const void *img_cursor_last(const img_cursor *cursor, uint64_t chunk);

/* The first chunk that the cursor comes by on its way to this one; it may be this one. */
uint64_t img_cursor_next(const img_cursor *cursor, uint64_t chunk);

/* Decodes the chunk, whose size is `size`.  Its bytes, valid until the next call; NULL: the blob
 * cannot be read or is damaged there (err). */
const void *img_cursor_chunk(img_cursor *cursor, uint64_t chunk, size_t size, img_error *err);

/* To call when a chunk was put where others find it: wakes those who wait for it. */
void img_cursor_passed(img_cursor *cursor, uint64_t chunk);
/* To call before the cursor is given back, if a chunk was not the right one: what the decoder makes
 * of the following bytes may be wrong too, so nobody goes on from there. */
void img_cursor_spoil(img_cursor *cursor);
void img_cursor_give(img_cursor *cursor);

/* Forgets the cursors of a source, which nobody uses any more. */
void img_cursor_forget(const img_cursor_source *source);

/* How often a decoder began at a point, in this process. */
uint64_t img_cursor_begun(void);

#endif
