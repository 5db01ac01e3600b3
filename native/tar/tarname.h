/* tarname.h: normalises a member's name; the rest of the program sees only this form.
 *
 * "./a//b/", "/a/b" and "a/x/../b" are all "a/b"; ".", "/" and "./" are "", the root.  ".." is
 * resolved lexically.  A ".." that would leave the root stays in the root, as umoci, buildah and
 * containerd read it, and is reported in *clamped (docs/semantics.md, M 9).
 * Bytes are not interpreted in any other way, so a name may have any encoding.
 */
#ifndef IMG_TARNAME_H
#define IMG_TARNAME_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

/* Writes the normalised name[0..len) to out, without a NUL at the end.  out has room for
 * IMG_PATH_BYTES_MAX bytes.  Returns the length, or -1.  *clamped is set to true if a ".." would
 * have left the root; else it is unchanged.  EBADMSG: the name is empty or has a NUL.  E2BIG: the
 * name or one of its components is too long. */
long img_tarname_normalise(const char *name, size_t len, char *out, bool *clamped, img_error *err);

#endif
