/* tarname.h: the one form of a member's name that the rest of the program sees.
 *
 * "./a//b/", "/a/b" and "a/x/../b" are all "a/b"; ".", "/" and "./" are "", the root.  ".." is
 * resolved lexically; one that would leave the root stays there, as umoci, buildah and containerd
 * read it, and is told of (docs/semantics.md, M 9).
 * Bytes are not interpreted otherwise: any encoding passes through exactly.
 */
#ifndef IMG_TARNAME_H
#define IMG_TARNAME_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

/* Writes the normalised name[0..len) to out, which holds IMG_PATH_BYTES_MAX bytes, without a NUL;
 * returns its length, or -1.  *clamped becomes true where a ".." would have left the root, and is
 * left alone otherwise.  EBADMSG: empty, a NUL inside.  E2BIG: the whole or a component is too
 * long.
 */
long img_tarname_normalise(const char *name, size_t len, char *out, bool *clamped, img_error *err);

#endif
