/* unpack.h: decodes a whole blob once, and takes the access points on the way.
 *
 * Law: two threads share the work.  One feeds compressed bytes and gets the tar's bytes; the other
 * finishes the points that the first one has begun, beside the hashing of the tar.
 *
 *   feed, next  ─► pieces of the tar, none of which crosses the end of a chunk
 *               └► take ─► img_begun ─► img_begun_finish ─► img_points
 *
 * A point is taken at the end of a chunk when the last one is IMG_POINT_EVERY bytes back, and at
 * the start of a member or frame when the last one is a chunk back, since such a point costs
 * nothing.
 *
 * The window of a point has 32 KiB, of which what follows refers to a tenth on average.  The rest
 * is replaced by zeros, so that the state packs to a few hundred bytes more than its tables.  What
 * is referred to is found out by decoding the next 32 KiB twice, with windows that say of each byte
 * where it came from: nothing later can reach the window but through these 32 KiB.
 */
#ifndef IMG_UNPACK_H
#define IMG_UNPACK_H

#include "packed/chunkfile.h"
#include "packed/gunzip.h"
#include "packed/points.h"

#define IMG_POINT_EVERY                                                                            \
    (5u * IMG_CHUNK_BYTES)       /* bytes of the tar between two points inside a member */
#define IMG_FRAME_MAX (4u << 20) /* a zstd frame beyond this is re-framed */

/* How many bytes more than it gives may a decoder take between two points: no program that packs
 * makes more than a few bytes in a thousand.  Each read could cost so much: 0.1 s. */
#define IMG_BARREN_MAX (16u << 20)

typedef struct img_unpacker img_unpacker;
typedef struct img_begun img_begun; /* a point that is not finished yet */

img_unpacker *img_unpacker_new(img_codec codec, img_error *err);
void img_unpacker_free(img_unpacker *unpacker);

/* Gives the next input; the caller keeps it until next() is hungry.  Only then may more be fed. */
void img_unpacker_feed(img_unpacker *unpacker, const void *data, size_t size);

/* Decodes up to size bytes, to the end of a chunk at most.  *n: how many.  IMG_DECODED_FULL: the
 * piece is whole; IMG_DECODED_HUNGRY: feed more, *n may be > 0; IMG_DECODED_END; -1. */
int img_unpacker_next(img_unpacker *unpacker, void *out, size_t size, size_t *n, img_error *err);

/* No more input comes.  -1 and EBADMSG: the stream is cut off. */
int img_unpacker_finish(img_unpacker *unpacker, img_error *err);

/* The next point that can be finished, which the caller owns; NULL: none yet. */
img_begun *img_unpacker_take(img_unpacker *unpacker);
uint64_t img_begun_out(const img_begun *begun); /* the place in the tar */
void img_begun_free(img_begun *begun);

/* Reduces the window, and adds the point to points. */
int img_begun_finish(img_begun *begun, img_points *points, img_error *err);

/* True if somewhere much input gives no output: empty blocks, members or frames.  Such a stream
 * must not be read from its points. */
bool img_unpacker_barren(const img_unpacker *unpacker);

/* What was read and made so far. */
uint64_t img_unpacker_taken(const img_unpacker *unpacker);
uint64_t img_unpacker_made(const img_unpacker *unpacker);
uint64_t img_unpacker_bounds(const img_unpacker *unpacker); /* members or frames that have ended */

#endif
