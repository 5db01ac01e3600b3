#include "packed/unpack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Enough input for 32 KiB of output: stored blocks have 5 bytes a block, a block header 328. */
enum { INPUT_KEPT = 40 * 1024 };

struct img_begun {
    uint64_t out, in;
    uint32_t ahead;   /* bytes of output that come before the point */
    img_bytes state;  /* empty: a member or frame begins at the point */
    img_bytes input;  /* what follows in the blob */
    img_bytes output; /* what follows in the tar */
    img_begun *next;
};

struct img_unpacker {
    img_decoder decoder;
    img_flow flow;
    uint64_t made, bounds;
    bool ended;
    bool bound;       /* a member or frame begins at `made` */
    uint64_t last;    /* where the last point is; UINT64_MAX: there is none */
    uint64_t last_in; /* of that point: its offset in the blob */
    bool barren;
    img_begun *open; /* the point whose input and output still come in */
    img_begun *done, **done_end;
};

img_unpacker *img_unpacker_new(img_codec codec, img_error *err) {
    img_unpacker *unpacker = calloc(1, sizeof *unpacker);
    if (!unpacker) {
        img_fail(err, ENOMEM, "out of memory");
        return NULL;
    }
    if (img_decoder_init(&unpacker->decoder, codec, err) < 0) {
        free(unpacker);
        return NULL;
    }
    unpacker->bound = true;
    unpacker->last = UINT64_MAX;
    unpacker->done_end = &unpacker->done;
    return unpacker;
}

void img_begun_free(img_begun *begun) {
    if (!begun)
        return;
    img_bytes_free(&begun->state);
    img_bytes_free(&begun->input);
    img_bytes_free(&begun->output);
    free(begun);
}

uint64_t img_begun_out(const img_begun *begun) {
    return begun->out;
}

void img_unpacker_free(img_unpacker *unpacker) {
    if (!unpacker)
        return;
    img_begun_free(unpacker->open);
    for (img_begun *begun; (begun = img_unpacker_take(unpacker));)
        img_begun_free(begun);
    img_decoder_free(&unpacker->decoder);
    free(unpacker);
}

void img_unpacker_feed(img_unpacker *unpacker, const void *data, size_t size) {
    unpacker->flow.in = data;
    unpacker->flow.n_in = size;
}

uint64_t img_unpacker_taken(const img_unpacker *unpacker) {
    return unpacker->decoder.taken;
}

bool img_unpacker_barren(const img_unpacker *unpacker) {
    return unpacker->barren;
}

uint64_t img_unpacker_bounds(const img_unpacker *unpacker) {
    return unpacker->bounds;
}

uint64_t img_unpacker_made(const img_unpacker *unpacker) {
    return unpacker->made;
}

img_begun *img_unpacker_take(img_unpacker *unpacker) {
    img_begun *begun = unpacker->done;
    if (begun) {
        unpacker->done = begun->next;
        if (!unpacker->done)
            unpacker->done_end = &unpacker->done;
    }
    return begun;
}

static void close_open(img_unpacker *unpacker) {
    if (!unpacker->open)
        return;
    *unpacker->done_end = unpacker->open;
    unpacker->done_end = &unpacker->open->next;
    unpacker->open = NULL;
}

/* ---- taking points ------------------------------------------------------------------------ */

static bool is_due(const img_unpacker *unpacker) {
    if (unpacker->last == UINT64_MAX)
        return true;
    uint64_t back = unpacker->made - unpacker->last;
    if (unpacker->bound)
        return back >= IMG_CHUNK_BYTES;
    return back >= IMG_POINT_EVERY && unpacker->made % IMG_CHUNK_BYTES == 0 &&
           unpacker->decoder.codec == IMG_GZIP;
}

/* Takes a point at `made`, if one is due and the decoder is where it can be saved. */
static int begin_point(img_unpacker *unpacker, img_error *err) {
    if (!is_due(unpacker))
        return 0;
    img_begun *begun = calloc(1, sizeof *begun);
    if (!begun)
        return img_fail(err, ENOMEM, "out of memory");
    int saved = 1;
    if (!unpacker->bound)
        saved = img_gunzip_save(unpacker->decoder.gunzip, &begun->state, &begun->ahead);
    begun->out = unpacker->made + begun->ahead;
    begun->in = unpacker->decoder.taken;
    if (saved <= 0) {
        img_begun_free(begun);
        return saved < 0 ? img_fail(err, ENOMEM, "out of memory") : 0;
    }
    close_open(unpacker);
    unpacker->open = begun;
    unpacker->last = unpacker->made;
    unpacker->last_in = unpacker->decoder.taken;
    if (unpacker->bound)
        close_open(unpacker);
    return 0;
}

static int keep_some(img_bytes *kept, const uint8_t *data, size_t size, size_t most) {
    size_t n = most - kept->len < size ? most - kept->len : size;
    return img_bytes_add(kept, data, n);
}

static int follow(img_unpacker *unpacker, const uint8_t *in, size_t n_in, const uint8_t *out,
                  size_t n_out, img_error *err) {
    img_begun *open = unpacker->open;
    if (!open)
        return 0;
    size_t skipped = open->ahead < n_out ? open->ahead : n_out;
    open->ahead -= (uint32_t)skipped;
    out += skipped;
    n_out -= skipped;
    if (keep_some(&open->input, in, n_in, INPUT_KEPT) < 0 ||
        keep_some(&open->output, out, n_out, IMG_GZIP_WINDOW) < 0)
        return img_fail(err, ENOMEM, "out of memory");
    if (open->output.len == IMG_GZIP_WINDOW)
        close_open(unpacker);
    return 0;
}

/* ---- decoding ----------------------------------------------------------------------------- */

static int step(img_unpacker *unpacker, img_error *err) {
    img_flow *flow = &unpacker->flow;
    const uint8_t *in = flow->in, *out = flow->out;
    int result = img_decode(&unpacker->decoder, flow, err);
    size_t n_out = (size_t)(flow->out - out);
    unpacker->made += n_out;
    if (result < 0)
        return result;
    if (n_out) {
        uint64_t made = unpacker->made - unpacker->last;
        unpacker->bound = false;
        unpacker->barren |= unpacker->decoder.taken - unpacker->last_in > made + IMG_BARREN_MAX;
    }
    return follow(unpacker, in, (size_t)(flow->in - in), out, n_out, err) < 0 ? -1 : result;
}

int img_unpacker_next(img_unpacker *unpacker, void *out, size_t size, size_t *n, img_error *err) {
    size_t to_end = IMG_CHUNK_BYTES - (size_t)(unpacker->made % IMG_CHUNK_BYTES);
    uint64_t before = unpacker->made;
    int result = IMG_DECODED_BOUND;
    unpacker->flow.out = out;
    unpacker->flow.n_out = size < to_end ? size : to_end;
    *n = 0;
    if (unpacker->ended)
        return IMG_DECODED_END;
    if (!unpacker->bound && begin_point(unpacker, err) < 0)
        return -1;
    while (result == IMG_DECODED_BOUND) {
        if (unpacker->bound && unpacker->flow.n_in && begin_point(unpacker, err) < 0)
            return -1;
        result = step(unpacker, err);
        if (result == IMG_DECODED_BOUND) {
            unpacker->bound = true;
            unpacker->bounds++;
        }
    }
    *n = (size_t)(unpacker->made - before);
    unpacker->ended = result == IMG_DECODED_END;
    return result;
}

int img_unpacker_finish(img_unpacker *unpacker, img_error *err) {
    close_open(unpacker);
    if (!unpacker->ended && !img_decoder_may_end(&unpacker->decoder))
        return img_fail(err, EBADMSG, "%s stream is cut off",
                        unpacker->decoder.codec == IMG_GZIP ? "gzip" : "zstd");
    return 0;
}

/* ---- reducing windows --------------------------------------------------------------------- */

/* What the next bytes are if the window is `window`; the window is written into the state.  1; 0:
 * the input that was kept is too short to tell; -1. */
static int decode_with(img_begun *begun, img_gunzip *gunzip, const uint8_t *window, uint8_t *out,
                       size_t size, img_error *err) {
    memcpy(img_gunzip_window(&begun->state), window, IMG_GZIP_WINDOW);
    if (img_gunzip_restore(gunzip, begun->state.data, begun->state.len, err) < 0)
        return -1;
    img_flow flow = {(const uint8_t *)begun->input.data, begun->input.len, out, size};
    int result;
    do
        result = img_gunzip_step(gunzip, &flow, err);
    while (result == IMG_DECODED_BOUND && flow.n_in);
    if (result < 0)
        return -1;
    return flow.n_out == 0;
}

/* Leaves in the window only bytes that the output refers to.  low and high: the output with windows
 * whose byte i is the low, and the high byte of i. */
static void reduce(uint8_t *window, const uint8_t *low, const uint8_t *high, const uint8_t *real,
                   size_t size) {
    bool used[IMG_GZIP_WINDOW] = {false};
    for (size_t i = 0; i < size; i++) {
        size_t from = (size_t)low[i] | (size_t)high[i] << 8;
        /* A byte that is no copy of the window's may look like one: then a byte too many is kept.
         */
        if (from < IMG_GZIP_WINDOW && window[from] == real[i])
            used[from] = true;
    }
    for (size_t i = 0; i < IMG_GZIP_WINDOW; i++)
        if (!used[i])
            window[i] = 0;
}

typedef struct reducing {
    uint8_t real[IMG_GZIP_WINDOW], mark[IMG_GZIP_WINDOW];
    uint8_t low[IMG_GZIP_WINDOW], high[IMG_GZIP_WINDOW];
} reducing;

static int reduce_window(img_begun *begun, img_gunzip *gunzip, reducing *r, img_error *err) {
    size_t size = begun->output.len;
    memcpy(r->real, img_gunzip_window(&begun->state), IMG_GZIP_WINDOW);
    for (size_t i = 0; i < IMG_GZIP_WINDOW; i++)
        r->mark[i] = (uint8_t)i;
    int known = decode_with(begun, gunzip, r->mark, r->low, size, err);
    for (size_t i = 0; i < IMG_GZIP_WINDOW; i++)
        r->mark[i] = (uint8_t)(i >> 8);
    if (known > 0)
        known = decode_with(begun, gunzip, r->mark, r->high, size, err);
    if (known < 0)
        return -1;
    if (known > 0)
        reduce(r->real, r->low, r->high, (const uint8_t *)begun->output.data, size);
    memcpy(img_gunzip_window(&begun->state), r->real, IMG_GZIP_WINDOW);
    return 0;
}

int img_begun_finish(img_begun *begun, img_points *points, img_error *err) {
    int result = 0;
    if (begun->state.len) {
        img_gunzip *gunzip = img_gunzip_new();
        reducing *r = malloc(sizeof *r);
        result = gunzip && r ? reduce_window(begun, gunzip, r, err)
                             : img_fail(err, ENOMEM, "out of memory");
        free(r);
        img_gunzip_free(gunzip);
    }
    if (result < 0)
        return -1;
    return img_points_add(points, begun->out, begun->in, false,
                          begun->state.len ? &begun->state : NULL, err);
}
