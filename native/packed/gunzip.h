/* gunzip.h: inflates gzip members with ISA-L, and saves and restores the state of the inflater.
 *
 * Law: the only file that knows ISA-L's struct inflate_state.
 *
 * A *state* is what the inflater needs to go on in the middle of a member, as bytes:
 *
 *   img_gunzip_head | tables of the current block | bytes of an incomplete block header |
 *   output that was made already but not given | the window
 *
 *   window   the IMG_GZIP_WINDOW bytes of output before the state; zeros where the member has none
 *
 * The tables are ISA-L's own, in the form that this version of the library builds.  A state of
 * another version, or one that was forged, could make ISA-L read outside its tables.  So states are
 * kept in the machine's own cache alone, with a checksum and img_gunzip_version().
 */
#ifndef IMG_GUNZIP_H
#define IMG_GUNZIP_H

#include "base/bytes.h"
#include "packed/decoder.h"

#define IMG_GZIP_WINDOW 32768u /* RFC 1951, 2: the greatest distance */

img_gunzip *img_gunzip_new(void); /* NULL: out of memory */
void img_gunzip_free(img_gunzip *gunzip);

void img_gunzip_begin_member(img_gunzip *gunzip);
int img_gunzip_step(img_gunzip *gunzip, img_flow *flow, img_error *err); /* as img_decode */
bool img_gunzip_may_end(const img_gunzip *gunzip);

/* Saves the state after a step that ended with IMG_DECODED_FULL.  *ahead: how many bytes of output
 * the state is ahead of what was given; 0 if few were made and not given, for these are saved.  1;
 * 0: no state can be saved here, try it after the next step; -1: out of memory. */
int img_gunzip_save(const img_gunzip *gunzip, img_bytes *state, uint32_t *ahead);

/* Begins in the middle of a member.  -1 and EBADMSG: it is no state. */
int img_gunzip_restore(img_gunzip *gunzip, const void *state, size_t len, img_error *err);

/* The window in a state that img_gunzip_save has made. */
uint8_t *img_gunzip_window(img_bytes *state);

/* Changes if the bytes of a state mean something else: it depends on the format above and on the
 * tables that the library that is loaded builds of a small known stream. */
uint64_t img_gunzip_version(void);

#endif
