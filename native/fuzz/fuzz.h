/* fuzz.h: what the fuzz targets share: their entry, how one input holds several things, and what
 * they compare.
 *
 * Each fuzz_NAME.c is one target: LLVMFuzzerTestOneInput, which ends the process (check.h, or a
 * sanitizer) when a law is broken, and leaves nothing behind.  The Makefile links it twice: with
 * libFuzzer, to look for inputs, and with replay.c, which runs files through it once.
 *
 * Inputs.  fuzz_tar takes tars one after another (`cat one.tar two.tar`): the first is the lowest
 * layer, each ends with its two zero blocks, zero blocks between them are passed over.
 * fuzz_index takes the file of a kept index as it stands on disk.  The others take pieces:
 *
 *     piece = u8 kind | u16 length, low byte first | bytes
 *
 * What a kind means is said at the head of the target; the last piece may be cut.
 *
 * A target's own mutator keeps such inputs well-formed (checksums, lengths), so that a changed byte
 * reaches more than the check of the format.  What is found is a plain file all the same.
 */
#ifndef IMG_FUZZ_H
#define IMG_FUZZ_H

#include "../tests/check.h"
#include "base/bytes.h"
#include "tree/tree.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size); /* libFuzzer's own */

/* ---- pieces.c ---- */
typedef struct piece {
    uint8_t kind;
    size_t len;
    uint8_t *data; /* malloc'ed, exactly len bytes, so that a read beyond them is seen */
} piece;

/* The piece at *at, which moves behind it; false at the end.  The caller frees out->data. */
bool next_piece(const uint8_t *data, size_t size, size_t *at, piece *out);
/* A mutator for pieces: changes one, adds, drops or repeats one. */
size_t mutate_pieces(uint8_t *data, size_t size, size_t max_size, unsigned seed);
/* One step of a generator; the number is below `below`. */
uint32_t pick(unsigned *seed, uint32_t below);

/* ---- treetext.c ---- */
/* Checks the tree's invariants, and writes all that a mount of it could show: a line a name, as
 * `imgmount dump` has it, but with the depth for the path.  contents: also reads the start, the end
 * and the first hole of each file; it must not fail then. */
void tree_text(const img_tree *tree, bool contents, img_bytes *out);

/* A file in memory that holds these bytes. */
int memory_file(const void *data, size_t size);

#endif
