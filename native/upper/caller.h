/* caller.h: who asked, and whether the file's group is one of theirs.
 *
 * A request's header has the ids that files are made with; what supplementary groups its process
 * has, proc(5) says ("Groups" of /proc/PID/status). The process waits for us meanwhile, so its
 * number cannot have gone on to another one.
 */
#ifndef IMG_CALLER_H
#define IMG_CALLER_H

#include <stdbool.h>
#include <stdint.h>

/* Of fuse_in_header. pid: of the thread, in the daemon's pid namespace; 0: not seen from there. */
typedef struct img_caller {
    uint32_t uid, gid, pid;
} img_caller;

/* No: also when it cannot be found out. */
bool img_caller_in_group(const img_caller *caller, uint32_t gid);

/* Whether their writes leave set-id bits alone: CAP_FSETID counts in the first user namespace alone
 * (fs/attr.c, setattr_should_drop_suidgid), where it is taken of root; in another one nobody's do.
 */
bool img_caller_keeps_set_id(const img_caller *caller);

/* The set-id bits of mode that a write, a truncation or a chown takes from who has no CAP_FSETID:
 * set-gid that group members may not use to execute means locking, and stays with members of the
 * file's group (fs/attr.c, setattr_should_drop_sgid, since Linux 6.2). */
uint32_t img_caller_loses(const img_caller *caller, uint32_t mode, uint32_t gid);

#endif
