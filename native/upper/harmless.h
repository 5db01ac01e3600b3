/* harmless.h: set-id bits and capabilities of an upper's objects that stand in marks, not in
 * inodes.
 *
 * Law: an upper lies on the host's disk, where the flags nosuid and nodev of a mount of ours mean
 * nothing.  So a mount with these flags keeps its upper harmless:
 *
 *     options.harmless_files     (nosuid) set-id bits of all but directories stand in
 * IMG_MARK_SET_ID, security.capability in the mark img_mark_capability names
 *     options.harmless_devices   (nodev) devices are empty files with the mark imgmount.special
 *                                (fusemount/rootfs/objects.py makes them)
 *
 * A mark means the same to every mount: mode | bits, and a capability under its own name.  A mount
 * without the flag sets real bits and capabilities and takes their marks away.
 * An object that has both is shown with the bits of both, and with the real capability.
 *
 * Order: what goes, goes before the rest of a change; what comes, comes after it.  So a crash
 * leaves an object with less than it had or was to have, never with more.  Errors: negative errno
 * values; what failed is as it was.
 *
 * place: a path of the very object (img_fd_path).  Where owners cannot be given (prefix
 * user.overlay.) set-id bits stand with the owner, as rootfs/objects.py keeps them, and only
 * capabilities concern these functions.
 */
#ifndef IMG_HARMLESS_H
#define IMG_HARMLESS_H

#include "upper/upperdir.h"

#define IMG_MARK_SET_ID "trusted.overlay.imgmount.set_id" /* octal: "4000", "2000", "6000" */
#define IMG_SET_ID_BITS 06000u
#define IMG_CAPABILITY_BYTES 64 /* linux/capability.h: at most 24, XATTR_CAPS_SZ_3 */

/* The bits that a mark gives the object; 0 without a mark, or with one that nobody of us wrote. */
uint32_t img_harmless_bits(const char *place);

/* chmod(2) of what is no directory; mode is the 07777 part.  before: the mode that it shows. */
int img_harmless_chmod(const img_upper *upper, const char *place, uint32_t before, uint32_t mode);

/* Takes these bits from the mark. What they were before goes to *had, for img_harmless_put_back. */
int img_harmless_take(const char *place, uint32_t bits, uint32_t *had);
void img_harmless_put_back(const char *place, uint32_t had);

/* The bits that chown(2) takes from what is no directory: inode(7), notify_change in the kernel. */
static inline uint32_t img_bits_lost_by_chown(uint32_t mode) {
    return mode & (S_ISUID | (mode & S_IXGRP ? S_ISGID : 0u));
}

/* The name of the mark. */
const char *img_mark_capability(const img_upper *upper);
/* Sets security.capability, or with value NULL removes it, be it real or in its mark; 0 too when it
 * was not there. */
int img_harmless_set_capability(const img_upper *upper, const char *place, const char *value,
                                size_t len);

#endif
