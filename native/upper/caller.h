/* caller.h: the process that sent a request, and which set-id bits its changes take.
 *
 * The header of a request has the ids that new files get, but no supplementary groups. These are
 * read from "Groups" of /proc/PID/status (proc(5)). The process waits for the answer meanwhile, so
 * its PID cannot belong to another process.
 */
#ifndef IMG_CALLER_H
#define IMG_CALLER_H

#include <stdbool.h>
#include <stdint.h>

/* From fuse_in_header. pid: of the thread, in the daemon's PID namespace; 0: it has none there. */
typedef struct img_caller {
    uint32_t uid, gid, pid;
} img_caller;

/* Whether the process is in the group. False also when that cannot be found out. */
bool img_caller_in_group(const img_caller *caller, uint32_t gid);

/* Whether a write by the caller keeps set-id bits, because the caller has CAP_FSETID. The
 * capability counts only in the initial user namespace (fs/attr.c, setattr_should_drop_suidgid);
 * there root is taken to have it. In another user namespace every write takes set-id bits. */
bool img_caller_keeps_set_id(const img_caller *caller);

/* The set-id bits of mode that a write, a truncation or a chown takes if the caller has no
 * CAP_FSETID. A set-gid bit without group execute permission means mandatory locking; it stays if
 * the caller is in the file's group (fs/attr.c, setattr_should_drop_sgid, since Linux 6.2). */
uint32_t img_caller_loses(const img_caller *caller, uint32_t mode, uint32_t gid);

#endif
