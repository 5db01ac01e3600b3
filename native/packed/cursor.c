#include "packed/cursor.h"

#include "packed/gunzip.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { INPUT = 64 * 1024 };
#define NOWHERE UINT64_MAX

struct img_cursor {
    const img_cursor_source *source; /* NULL: free */
    bool taken;
    uint64_t now, last; /* taken: the chunk that is being decoded, and the last one to be */
    uint64_t turn;      /* when it was given back */
    img_decoder decoder;
    bool made; /* the decoder exists */
    bool in_sidecar;
    uint64_t at;       /* the place in the tar that the decoder has reached; NOWHERE: none */
    uint64_t read_at;  /* offset in blob or sidecar of the next input to read */
    const uint8_t *in; /* input that is left */
    size_t n_in;
    uint64_t chunk; /* the chunk in `bytes`; NOWHERE: none that is whole */
    uint8_t *bytes, *input;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static img_cursor cursors[IMG_CURSORS];
static uint64_t turns;
static atomic_ullong begun;

uint64_t img_cursor_begun(void) {
    return atomic_load(&begun);
}

/* ---- taking ------------------------------------------------------------------------------- */

/* True if going on from the cursor's place is shorter than from the point. */
static bool is_on_the_way(const img_cursor *cursor, const img_point *point, uint64_t chunk) {
    return cursor->chunk == chunk ||
           (cursor->at != NOWHERE && cursor->at <= chunk * IMG_CHUNK_BYTES &&
            cursor->at >= point->out);
}

/* mutex.  A cursor that is free, the best one for the chunk; NULL: all are taken. */
static img_cursor *best_free(const img_cursor_source *source, uint64_t chunk) {
    const img_point *point = img_points_find(source->points, chunk * IMG_CHUNK_BYTES);
    img_cursor *oldest = NULL;
    for (unsigned i = 0; i < IMG_CURSORS; i++) {
        img_cursor *cursor = &cursors[i];
        if (cursor->taken)
            continue;
        if (cursor->source == source && is_on_the_way(cursor, point, chunk))
            return cursor;
        if (!oldest || cursor->turn < oldest->turn)
            oldest = cursor;
    }
    return oldest;
}

/* mutex. */
static bool is_being_decoded(const img_cursor_source *source, uint64_t chunk) {
    for (unsigned i = 0; i < IMG_CURSORS; i++)
        if (cursors[i].taken && cursors[i].source == source && cursors[i].now <= chunk &&
            chunk <= cursors[i].last)
            return true;
    return false;
}

/* Makes what the cursor lacks to work for a codec. */
static int make(img_cursor *cursor, img_codec codec) {
    img_error ignored;
    if (cursor->made && cursor->decoder.codec != codec) {
        img_decoder_free(&cursor->decoder);
        cursor->made = false;
    }
    if (!cursor->bytes)
        cursor->bytes = malloc(IMG_CHUNK_BYTES);
    if (!cursor->input)
        cursor->input = malloc(INPUT);
    if (!cursor->made)
        cursor->made = img_decoder_init(&cursor->decoder, codec, &ignored) == 0;
    return cursor->bytes && cursor->input && cursor->made ? 0 : -ENOMEM;
}

img_cursor *img_cursor_take(const img_cursor_source *source, uint64_t first, uint64_t last,
                            int *failed) {
    img_cursor *cursor = NULL;
    *failed = 0;
    (void)pthread_mutex_lock(&mutex);
    if (is_being_decoded(source, first)) {
        while (is_being_decoded(source, first))
            (void)pthread_cond_wait(&changed, &mutex);
        (void)pthread_mutex_unlock(&mutex);
        return NULL;
    }
    while (!(cursor = best_free(source, first)))
        (void)pthread_cond_wait(&changed, &mutex);
    if (cursor->source != source) {
        cursor->source = source;
        cursor->at = cursor->chunk = NOWHERE;
    }
    cursor->taken = true;
    cursor->now = first;
    cursor->last = last;
    (void)pthread_mutex_unlock(&mutex);
    *failed = make(cursor, (img_codec)source->points->head.codec);
    if (*failed) {
        img_cursor_spoil(cursor);
        img_cursor_give(cursor);
        return NULL;
    }
    return cursor;
}

void img_cursor_passed(img_cursor *cursor, uint64_t chunk) {
    (void)pthread_mutex_lock(&mutex);
    if (chunk >= cursor->now)
        cursor->now = chunk + 1;
    (void)pthread_cond_broadcast(&changed);
    (void)pthread_mutex_unlock(&mutex);
}

void img_cursor_spoil(img_cursor *cursor) {
    cursor->at = cursor->chunk = NOWHERE;
}

void img_cursor_give(img_cursor *cursor) {
    (void)pthread_mutex_lock(&mutex);
    cursor->taken = false;
    cursor->turn = ++turns;
    (void)pthread_cond_broadcast(&changed);
    (void)pthread_mutex_unlock(&mutex);
}

void img_cursor_forget(const img_cursor_source *source) {
    (void)pthread_mutex_lock(&mutex);
    for (unsigned i = 0; i < IMG_CURSORS; i++) {
        img_cursor *cursor = &cursors[i];
        if (cursor->source != source)
            continue;
        if (cursor->made)
            img_decoder_free(&cursor->decoder);
        free(cursor->bytes);
        free(cursor->input);
        *cursor = (img_cursor){0};
    }
    (void)pthread_mutex_unlock(&mutex);
}

/* ---- decoding ----------------------------------------------------------------------------- */

static int restore(img_cursor *cursor, const img_point *point, img_error *err) {
    img_bytes state = {0};
    int result = img_points_state(cursor->source->points, point, &state, err);
    if (result == 0)
        result = img_gunzip_restore(cursor->decoder.gunzip, state.data, state.len, err);
    img_bytes_free(&state);
    return result;
}

/* Begins at a point; at an earlier one, if its state was damaged since the points were read. */
static int begin_at(img_cursor *cursor, const img_point *point, img_error *err) {
    int result;
    for (;; point--) {
        img_decoder_begin(&cursor->decoder, point->in);
        result = point->n_state ? restore(cursor, point, err) : 0;
        if (result == 0 || err->code == ENOMEM || point == cursor->source->points->points)
            break;
    }
    cursor->at = point->out;
    cursor->read_at = point->in;
    cursor->in_sidecar = point->in_sidecar;
    cursor->n_in = 0;
    cursor->chunk = NOWHERE;
    atomic_fetch_add(&begun, 1);
    return result;
}

/* 1; 0: the end of the blob; -1. */
static int read_input(img_cursor *cursor, img_error *err) {
    const img_cursor_source *source = cursor->source;
    const img_points_header *head = &source->points->head;
    uint64_t end = cursor->in_sidecar ? head->sidecar_bytes : head->blob_bytes;
    int fd = cursor->in_sidecar ? source->sidecar_fd : source->blob_fd;
    uint64_t base = cursor->in_sidecar ? 0 : source->blob_at;
    if (cursor->read_at >= end)
        return 0;
    size_t size = end - cursor->read_at < INPUT ? (size_t)(end - cursor->read_at) : INPUT;
    ssize_t n;
    do
        n = pread(fd, cursor->input, size, (off_t)(base + cursor->read_at));
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return img_fail(err, errno, "cannot read the blob: %s", strerror(errno));
    cursor->in = cursor->input;
    cursor->n_in = (size_t)n;
    cursor->read_at += (uint64_t)n;
    return n > 0;
}

/* At the end of the frames that the sidecar has, the tar goes on at the next point in the blob, and
 * the other way round. */
static bool changes_source(const img_cursor *cursor) {
    const img_point *point = img_points_find(cursor->source->points, cursor->at);
    return point->out == cursor->at && point->in_sidecar != cursor->in_sidecar;
}

/* Decodes into `bytes` behind the first *n bytes, up to `size`.  1: the decoder gave something or
 * went on; 0: the stream has ended; -1.  A decoder that has got all input may have more output. */
static int step(img_cursor *cursor, size_t *n, size_t size, img_error *err) {
    size_t before = *n;
    int more = cursor->n_in ? 1 : read_input(cursor, err);
    if (more < 0)
        return -1;
    img_flow flow = {cursor->in, cursor->n_in, cursor->bytes + *n, size - *n};
    int result = img_decode(&cursor->decoder, &flow, err);
    cursor->in = flow.in;
    cursor->n_in = flow.n_in;
    if (result < 0)
        return -1;
    cursor->at += size - *n - flow.n_out;
    *n = size - flow.n_out;
    if (result == IMG_DECODED_BOUND && changes_source(cursor)) {
        const img_point *point = img_points_find(cursor->source->points, cursor->at);
        img_decoder_begin(&cursor->decoder, point->in);
        cursor->read_at = point->in;
        cursor->in_sidecar = point->in_sidecar;
        cursor->n_in = 0;
    }
    return result != IMG_DECODED_END && (more || result == IMG_DECODED_BOUND || *n > before);
}

/* Decodes from the cursor's place to the end of the chunk there, which has `size` bytes in all. */
static int decode_one(img_cursor *cursor, size_t size, img_error *err) {
    uint64_t chunk = cursor->at / IMG_CHUNK_BYTES;
    size_t skipped = (size_t)(cursor->at % IMG_CHUNK_BYTES), n = 0;
    cursor->chunk = NOWHERE;
    while (n < size - skipped) {
        int result = step(cursor, &n, size - skipped, err);
        if (result < 0)
            return -1;
        if (result == 0)
            return img_fail(err, EBADMSG, "the stream ends early");
    }
    cursor->chunk = skipped ? NOWHERE : chunk;
    return 0;
}

uint64_t img_cursor_next(const img_cursor *cursor, uint64_t chunk) {
    const img_point *point = img_points_find(cursor->source->points, chunk * IMG_CHUNK_BYTES);
    if (cursor->chunk == chunk)
        return chunk;
    uint64_t at = is_on_the_way(cursor, point, chunk) ? cursor->at : point->out;
    return img_chunks_of(at);
}

const void *img_cursor_last(const img_cursor *cursor, uint64_t chunk) {
    return cursor->chunk == chunk ? cursor->bytes : NULL;
}

const void *img_cursor_chunk(img_cursor *cursor, uint64_t chunk, size_t size, img_error *err) {
    const img_point *point = img_points_find(cursor->source->points, chunk * IMG_CHUNK_BYTES);
    err->code = 0;
    if (cursor->chunk == chunk)
        return cursor->bytes;
    int result = is_on_the_way(cursor, point, chunk) ? 0 : begin_at(cursor, point, err);
    while (result == 0 && cursor->chunk != chunk)
        result =
            decode_one(cursor, cursor->at / IMG_CHUNK_BYTES == chunk ? size : IMG_CHUNK_BYTES, err);
    if (result < 0) {
        img_cursor_spoil(cursor);
        return NULL;
    }
    return cursor->bytes;
}
