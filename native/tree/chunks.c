#include "tree/chunks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int grow(img_chunks *chunks) {
    char **grown = realloc(chunks->chunks, (chunks->n_chunks + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    chunks->chunks = grown;
    grown[chunks->n_chunks] = calloc(IMG_CHUNK, chunks->element);
    if (!grown[chunks->n_chunks])
        return -ENOMEM;
    chunks->n_chunks++;
    return 0;
}

static void *at(const img_chunks *chunks, uint32_t i) {
    return img_chunks_at(chunks, i, chunks->element);
}

uint32_t img_chunks_take(img_chunks *chunks) {
    uint32_t i = chunks->free_head;
    if (i) {
        memcpy(&chunks->free_head, at(chunks, i), sizeof chunks->free_head);
        memset(at(chunks, i), 0, chunks->element);
        return i;
    }
    if (chunks->used == UINT32_MAX)
        return 0;
    if (chunks->used == chunks->n_chunks * IMG_CHUNK && grow(chunks) < 0)
        return 0;
    return chunks->used++;
}

void img_chunks_give(img_chunks *chunks, uint32_t i) {
    memset(at(chunks, i), 0, chunks->element);
    memcpy(at(chunks, i), &chunks->free_head, sizeof chunks->free_head);
    chunks->free_head = i;
}

int img_chunks_init(img_chunks *chunks, size_t element) {
    chunks->element = element;
    if (grow(chunks) < 0)
        return -ENOMEM;
    chunks->used = 1;
    return 0;
}

void img_chunks_free(img_chunks *chunks) {
    for (uint32_t i = 0; i < chunks->n_chunks; i++)
        free(chunks->chunks[i]);
    free(chunks->chunks);
}

uint64_t img_chunks_bytes(const img_chunks *chunks) {
    return (uint64_t)chunks->n_chunks * IMG_CHUNK * chunks->element;
}
