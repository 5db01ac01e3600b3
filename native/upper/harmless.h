/* harmless.h: keeps set-id bits and capabilities of an upper's objects in marks, not in inodes.
 *
 * Law: an upper lies on the host's disk, where the flags nosuid and nodev of an imgmount mount have
 * no effect.  So a mount with these flags makes only objects in its upper that do no harm there:
 *
 *     options.harmless_files     (nosuid) set-id bits are kept in the mark IMG_MARK_SET_ID, except
 *                                for directories; security.capability is kept in the mark that
 *                                img_mark_capability names
 *     options.harmless_devices   (nodev) devices are empty files with the mark imgmount.special
 *                                (fusemount/rootfs/objects.py makes them)
 *
 * A mark means the same to every mount: the bits are added to the mode, and the capability is shown
 * as security.capability.  A mount without the flag sets real bits and capabilities and removes the
 * marks.  An object that has both is shown with the bits of both, and with the real capability.
 *
 * Order: bits and capabilities are removed before the rest of a change, and added after it.  So
 * after a crash an object may have fewer of them than it had or was to get, but never more. Errors:
 * negative errno values; then the object is as it was.
 *
 * fd_path: leads to the object itself (img_fd_path).  If the upper cannot store owners (prefix
 * user.overlay.), set-id bits are kept with the stored owner (rootfs/objects.py); then only the
 * functions for capabilities are used.
 */
#ifndef IMG_HARMLESS_H
#define IMG_HARMLESS_H

#include "upper/upperdir.h"

#define IMG_MARK_SET_ID "trusted.overlay.imgmount.set_id" /* octal: "4000", "2000", "6000" */
#define IMG_SET_ID_BITS 06000u
#define IMG_CAPABILITY_BYTES 64 /* linux/capability.h: at most 24, XATTR_CAPS_SZ_3 */

/* The bits in the object's mark; 0 when it has no mark, or one that this program did not write. */
uint32_t img_harmless_bits(const char *fd_path);

/* chmod(2) of an object that is no directory.  mode: the 07777 bits.  before: the mode that is
 * shown for it, marks included. */
int img_harmless_chmod(const img_upper *upper, const char *fd_path, uint32_t before, uint32_t mode);

/* Removes these bits from the mark. *had: the mark's bits before, for img_harmless_put_back. */
int img_harmless_take(const char *fd_path, uint32_t bits, uint32_t *had);
void img_harmless_put_back(const char *fd_path, uint32_t had);

/* The bits that chown(2) removes from an object that is no directory (inode(7); notify_change in
 * the kernel). */
static inline uint32_t img_bits_lost_by_chown(uint32_t mode) {
    return mode & (S_ISUID | (mode & S_IXGRP ? S_ISGID : 0u));
}

/* The name of the mark for security.capability. */
const char *img_mark_capability(const img_upper *upper);
/* Sets security.capability, really or in its mark; with value NULL removes both. 0 also when there
 * is nothing to remove. */
int img_harmless_set_capability(const img_upper *upper, const char *fd_path, const char *value,
                                size_t len);

#endif
