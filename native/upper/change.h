/* change.h: the rule that all changes of the running file system follow, and their common result.
 *
 *     changemake.h   makes objects                      changeattr.h   mode, owner, size, times
 *     changename.h   unlink, rmdir, link, rename        changexattr.h  xattrs
 *     changedata.h   write, allocate, copy, sync
 *
 * Law: the upper is changed first, then the tree; if the upper cannot be changed, neither is.  An
 * operation is either done completely, or declined (IMG_DECLINED) before anything was changed.
 * Copy-up, ACL inheritance, opaque marks, redirects and stored owners take more than one step;
 * these are declined, and rootfs/ of Python does them.  Both doors (the fast path, and pyfuse3's
 * handlers through fusemount._native) call these functions first, so each rule is written once.
 *
 * Crash safety.  Each change becomes visible by one system call.  An object is made under its final
 * name if the system makes it with its final owner and mode; else it is made in the work directory
 * and renamed.
 *
 * The functions take the locks `places` and tree themselves.  The caller holds `change`
 * (upperdir.h), except for those of changedata.h, which change no names and need no lock.  The
 * caller has checked permissions (the kernel does, with default_permissions).  Errors: negative
 * errno values of the upper's file system, and those that each function names.
 */
#ifndef IMG_CHANGE_H
#define IMG_CHANGE_H

enum { IMG_DECLINED = 1 };

#endif
