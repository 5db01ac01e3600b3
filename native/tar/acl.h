/* acl.h: turns the text of a POSIX.1e ACL into the xattr value in which Linux stores an ACL.
 *
 * Text (SCHILY.acl.*, man acl(5), star(1)): commas or newlines separate the entries, "#" starts a
 * comment; an entry is tag:qualifier:permissions[:id].  star and bsdtar add the numeric id as the
 * fourth field; it wins over the qualifier.  A qualifier that is a number is the id.  The only
 * known name is "root" (0), because other names are in the image's own passwd.  An entry for
 * another name without an id is dropped.  That can only take rights from this user or group, never
 * give them.
 *
 * Value (linux/posix_acl_xattr.h): u32 version 2, then u16 tag, u16 permissions, u32 id each,
 * little-endian, sorted by tag and id.
 */
#ifndef IMG_ACL_H
#define IMG_ACL_H

#include "base/bytes.h"
#include "base/error.h"

#include <stdbool.h>

/* Sets out to the value.  *minimal: the ACL has only the three entries that the mode also has; such
 * an access ACL is not stored.  A missing mask is added, as setfacl(1) does: the union of the
 * permissions of the group class.  EBADMSG: not an ACL. */
int img_acl_from_text(const char *text, size_t len, img_bytes *out, bool *minimal, img_error *err);

#endif
