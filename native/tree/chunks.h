/* chunks.h: an array of equal elements that grows without moving them.
 *
 * Law: an element keeps its address until it is given back.  Element 0 is never used, because the
 * number 0 means "none" in the tree.
 */
#ifndef IMG_CHUNKS_H
#define IMG_CHUNKS_H

#include <stddef.h>
#include <stdint.h>

#define IMG_CHUNK 4096u /* elements of one allocation */

typedef struct img_chunks {
    char **chunks;
    size_t element; /* bytes of one element */
    uint32_t used, n_chunks;
    uint32_t free_head; /* the first free element; its first four bytes are the next one's number */
} img_chunks;

/* The element i.  element: the size of an element.  Callers pass a constant, because the compiler
 * then makes the multiplication cheap. */
static inline void *img_chunks_at(const img_chunks *chunks, uint32_t i, size_t element) {
    return chunks->chunks[i / IMG_CHUNK] + (size_t)(i % IMG_CHUNK) * element;
}

/* 0 or -ENOMEM; also after -ENOMEM, img_chunks_free may be called. */
int img_chunks_init(img_chunks *chunks, size_t element);
void img_chunks_free(img_chunks *chunks);

/* The number of a zeroed element; 0: out of memory. */
uint32_t img_chunks_take(img_chunks *chunks);
void img_chunks_give(img_chunks *chunks, uint32_t i);

/* The memory of all elements, free ones included. */
uint64_t img_chunks_bytes(const img_chunks *chunks);

#endif
