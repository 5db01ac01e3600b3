/* packrig.h: bytes like those of a tar, blobs that hold them compressed, and what a pass finds out.
 */
#ifndef IMG_PACKRIG_H
#define IMG_PACKRIG_H

#include "packed/packed.h"

typedef struct pack_blob {
    uint8_t *data;
    size_t size;
} pack_blob;

/* Text, random bytes, zeros and repetitions in turn; always the same for a size. */
uint8_t *pack_tar(size_t size);

/* zlib's level and strategy; member: bytes of each gzip member, 0: one member. */
pack_blob pack_gzip(const uint8_t *tar, size_t size, int level, int strategy, size_t member);
/* frame: bytes of each frame, 0: one frame. */
pack_blob pack_zstd(const uint8_t *tar, size_t size, int level, size_t frame);

/* Unpacks the blob, fed `piece` bytes at a time, and compares it with the tar. */
void pack_points(const pack_blob *blob, img_codec codec, const uint8_t *tar, size_t size,
                 size_t piece, img_points *points);

/* A file without a name that has the bytes. */
int pack_file(const void *data, size_t size);

/* A directory for chunk caches, and a file of it, opened once more: locks of two descriptions
 * exclude one another. */
int pack_directory(void);
int pack_reopen(int directory, const char *name);
void pack_remove(int directory, const char *name);

/* The SHA-256 of each chunk; the caller frees them. */
uint8_t *pack_digests(const uint8_t *tar, size_t size);

/* Opens the blob with the chunk cache "chunks" in a directory, which may be -1. */
img_packed *pack_open(const pack_blob *blob, img_codec codec, const uint8_t *tar, size_t size,
                      int directory);

#endif
