/* fastrequest.h: one request: checked, dispatched to its handler, answered, counted. */
#ifndef IMG_FASTREQUEST_H
#define IMG_FASTREQUEST_H

#include "fast/fast.h"
#include "upper/caller.h"

/* Handles one message. A handler that needs the message later copies it. */
void fast_handle(img_fastpath *path, int fd, char *message, size_t size, char *out);
/* Runs a request once more, or answers it with error (negative; 0: none) if what it waited for has
 * failed. */
void fast_resume(img_fastpath *path, int fd, char *message, size_t size, char *out, uint64_t start,
                 fast_stage stage, int error);

/* Sends an answer. 0, or a negative errno of the device. */
int fast_reply(fast_request *req, const void *body, size_t size);
/* Whether an answer says that the upper has no space left. */
bool fast_is_full(int result);

/* The process that sent the request. */
img_caller fast_caller(const fast_request *req);
/* A NUL-terminated name at *at; NULL when there is none. Moves *at behind it. */
const char *fast_name(const fast_request *req, size_t *at, size_t *len);
/* Counts and logs a request that breaks the protocol. Returns -EINVAL. */
int fast_malformed(const fast_request *req, const char *why);

#endif
