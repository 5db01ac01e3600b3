/* fuzz.h: functions that the fuzz targets share, and the format of their inputs.
 *
 * Each fuzz_NAME.c is one target: LLVMFuzzerTestOneInput, which ends the process (check.h, or a
 * sanitizer) if a law is broken, and leaves no state behind.  The Makefile links it twice: with
 * libFuzzer, to look for inputs, and with replay.c, which runs each file through it once.
 *
 * Inputs.  fuzz_tar takes several tars one after another (`cat one.tar two.tar`): the first is the
 * lowest layer, each ends with two zero blocks, and further zero blocks are skipped.  fuzz_index
 * takes the file of an index.  The others take pieces:
 *
 *     piece = u8 kind | u16 length, low byte first | bytes
 *
 * The header comment of a target has the meaning of the kinds; the last piece may be cut.
 *
 * A target's own mutator keeps its inputs well-formed (checksums, lengths), so that a changed byte
 * gets further than the check of the format.  An input that is found is still a plain file.
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
    uint8_t *data; /* malloc'ed, exactly len bytes, so that a sanitizer sees a read beyond them */
} piece;

/* Reads the piece at *at and moves *at behind it; false at the end.  The caller frees out->data. */
bool next_piece(const uint8_t *data, size_t size, size_t *at, piece *out);
/* A mutator for pieces: changes, drops or repeats one piece. */
size_t mutate_pieces(uint8_t *data, size_t size, size_t max_size, unsigned seed);
/* The next number of a random generator, below `below`. */
uint32_t pick(unsigned *seed, uint32_t below);

/* ---- treetext.c ---- */
/* Checks the tree's invariants, and writes all that a mount of it shows: a line for each name, like
 * `imgmount dump`, but with the depth instead of the path.  The start, the end and the first hole
 * of each file are read too.  contents: reading a file must not fail. */
void tree_text(const img_tree *tree, bool contents, img_bytes *out);

/* A file in memory with these bytes. */
int memory_file(const void *data, size_t size);

#endif
