/* paxcode.h: decodes values and keys of PAX records.  Pure functions; -1: not coded in this way. */
#ifndef IMG_PAXCODE_H
#define IMG_PAXCODE_H

#include <stddef.h>
#include <stdint.h>

/* "[+-]digits[.digits]", read with integers only.  Digits beyond nanoseconds are rounded down, as
 * GNU tar does.  -0.25 is s = -1, ns = 750,000,000. */
int img_pax_time(const char *text, size_t len, int64_t *s, uint32_t *ns);

/* "%41" is "A".  out has room for len bytes; returns the number of bytes written. */
long img_pax_percent(const char *text, size_t len, char *out);

/* Base64 (RFC 4648 section 4), with or without "=" at the end.  out has room for len bytes; returns
 * the number of bytes written. */
long img_pax_base64(const char *text, size_t len, char *out);

#endif
