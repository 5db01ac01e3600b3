#define _GNU_SOURCE /* memrchr */

#include "tar/tarname.h"

#include "index/index.h"

#include <errno.h>
#include <string.h>

/* A component takes at least two bytes ("a/"), so the limit of bytes is also a limit of depth. */
_Static_assert(IMG_PATH_BYTES_MAX / 2 <= IMG_PATH_DEPTH_MAX, "depth needs a check of its own");

/* The length of out[0..len) without its last component. */
static size_t parent_length(const char *out, size_t len) {
    const char *slash = memrchr(out, '/', len);
    return slash ? (size_t)(slash - out) : 0;
}

static int check_whole(const char *name, size_t len, img_error *err) {
    if (len == 0)
        return img_fail(err, EBADMSG, "an empty name");
    if (len > IMG_PATH_BYTES_MAX)
        return img_fail(err, E2BIG, "a name of %zu bytes, the limit is %u", len,
                        IMG_PATH_BYTES_MAX);
    if (memchr(name, 0, len))
        return img_fail(err, EBADMSG, "a name with a NUL byte in it");
    return 0;
}

/* The most bytes that the component at `at` may have: more for a whiteout, which has a prefix and
 * is the last component. */
static size_t longest(const char *at, const char *slash, const char *end) {
    bool whiteout = !slash && end - at >= 4 && memcmp(at, ".wh.", 4) == 0;
    return whiteout ? IMG_WHITEOUT_MAX : IMG_NAME_MAX;
}

long img_tarname_normalise(const char *name, size_t len, char *out, bool *clamped, img_error *err) {
    if (check_whole(name, len, err) < 0)
        return -1;
    const char *at = name, *end = name + len;
    size_t used = 0;
    while (at < end) {
        const char *slash = memchr(at, '/', (size_t)(end - at));
        size_t part = (size_t)((slash ? slash : end) - at);
        if (part == 2 && at[0] == '.' && at[1] == '.') {
            if (used == 0)
                *clamped = true;
            used = parent_length(out, used);
        } else if (part > longest(at, slash, end)) {
            return img_fail(err, E2BIG, "a name component of %zu bytes, the limit is %u", part,
                            IMG_NAME_MAX);
        } else if (part != 0 && !(part == 1 && at[0] == '.')) {
            if (used)
                out[used++] = '/';
            memcpy(out + used, at, part);
            used += part;
        }
        at += part + 1;
    }
    return (long)used;
}
