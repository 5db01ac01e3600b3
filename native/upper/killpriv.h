/* killpriv.h: takes set-id bits and security.capability from a file whose contents change.
 *
 * Usually the kernel does this; with FUSE_HANDLE_KILLPRIV_V2 it leaves it to the file system.
 */
#ifndef IMG_KILLPRIV_H
#define IMG_KILLPRIV_H

#include "upper/caller.h"
#include "upper/upperdir.h"

/* Takes the set-id bits that a change by this caller takes (img_caller_loses) from the object, from
 * its marks and from the node. fd: of the object. 0, or a negative errno. */
int img_killpriv_set_id(img_upper *upper, img_id id, int fd, const img_caller *caller);

/* Removes security.capability, or its mark, from the object and the node. Call before the change
 * that takes it. The upper's file system would remove only a real capability, and only if there is
 * a change: a truncation to the present size is left out. 0, or a negative errno. */
int img_killpriv_capability(img_upper *upper, img_id id, int fd);

/* Gives the object the capability that the node has, after a write that has removed it from the
 * object and should not have. */
void img_killpriv_undo_capability(img_upper *upper, img_id id, int fd);

#endif
