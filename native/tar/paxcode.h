/* paxcode.h: how values and keys of PAX records are coded. Pure functions. -1: not so coded. */
#ifndef IMG_PAXCODE_H
#define IMG_PAXCODE_H

#include <stddef.h>
#include <stdint.h>

/* "-?digits[.digits]" by integers only, exact to the nanosecond; what is finer is rounded down, as
 * GNU tar does; so -0.25 is s = -1, ns = 750,000,000. */
int img_pax_time(const char *text, size_t len, int64_t *s, uint32_t *ns);

/* "%41" is "A". out holds len bytes; returns how many were written. */
long img_pax_percent(const char *text, size_t len, char *out);

/* Base64 (RFC 4648 section 4), with or without "=" at the end. out holds len bytes. */
long img_pax_base64(const char *text, size_t len, char *out);

#endif
