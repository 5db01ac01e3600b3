/* acl.h: a POSIX.1e ACL in text becomes the xattr value that Linux keeps it as.
 *
 * Text (SCHILY.acl.*, man acl(5), star(1)): entries parted by commas or newlines, "#" starts a
 * comment; an entry is tag:qualifier:permissions[:id].  star and bsdtar add the numeric id as the
 * fourth field; it wins over the qualifier.  A qualifier that is a number is the id.  Of names
 * only "root" is known (0): an image's names are its own passwd's, so an entry for any other name
 * without an id is dropped, which grants that name less, never more, than its owner and others.
 *
 * Value (linux/posix_acl_xattr.h): u32 version 2, then u16 tag, u16 permissions, u32 id each,
 * little-endian, sorted by tag and id.
 */
#ifndef IMG_ACL_H
#define IMG_ACL_H

#include "base/bytes.h"
#include "base/error.h"

#include <stdbool.h>

/* Fills out with the value.  *minimal: only the three entries that the mode says too, which an
 * access ACL is not stored for.  A missing mask is made, as setfacl(1) does: the union of the group
 * class. EBADMSG: not an ACL. */
int img_acl_from_text(const char *text, size_t len, img_bytes *out, bool *minimal, img_error *err);

#endif
