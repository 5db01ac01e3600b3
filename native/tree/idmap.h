/* idmap.h: translates owners between the ids that are stored and the ids that a mount shows.
 *
 * Law: the tree and all files on disk have stored ids; FUSE requests and answers have shown ids.
 * Only ids of requests and answers are translated, so a file that is copied up keeps its owner.
 *
 * The rules are those of fuse-overlayfs(1): an id in no range becomes 65534, in both directions.
 * Without ranges, ids do not change.  With squash, all ids are shown as one id; an id of a
 * request is still translated by the ranges before it is stored.  If ranges overlap, the first
 * range counts.
 */
#ifndef IMG_IDMAP_H
#define IMG_IDMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMG_ID_NOBODY 65534u
#define IMG_ID_RANGES_MAX 340u /* as many as a user namespace may have (user_namespaces(7)) */

/* The stored ids `stored` .. `stored + count - 1` are shown as `shown` .. `shown + count - 1`. */
typedef struct img_id_range {
    uint32_t stored, shown, count;
} img_id_range;

/* All zero: every id is shown as it is. */
typedef struct img_id_map {
    img_id_range *ranges; /* owned */
    size_t n;
    bool squashed;
    uint32_t squash;
} img_id_map;

/* The maps of a tree; they are set once, before the first request. */
typedef struct img_owner_map {
    img_id_map uids, gids;
} img_owner_map;

uint32_t img_id_shown(const img_id_map *map, uint32_t stored);
uint32_t img_id_stored(const img_id_map *map, uint32_t shown);

/* Sets the map to a copy of the ranges.  squash -1: none.  false: out of memory; the map is as
 * before. */
bool img_id_map_set(img_id_map *map, const img_id_range *ranges, size_t n, int64_t squash);
void img_id_map_free(img_id_map *map);

#endif
