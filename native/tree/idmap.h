/* idmap.h: owners as they are stored in layers and upper, and as a mount shows them.
 *
 * Law: the tree and all that stands on disk have stored ids; who asks through FUSE sees and gives
 * shown ones.  Nothing in between has another, so what is copied up keeps the owner it had.
 *
 * As fuse-overlayfs(1) has it: an id in no range is shown, or stored, as 65534; without ranges ids
 * are what they are.  Squashed, all are shown as one id, and are stored as without that.  Of ranges
 * that overlap the first counts.
 */
#ifndef IMG_IDMAP_H
#define IMG_IDMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMG_ID_NOBODY 65534u
#define IMG_ID_RANGES_MAX 340u /* as many as a user namespace may have (user_namespaces(7)) */

/* Stored ids stored .. stored + count - 1 are shown from shown on. */
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

/* Of a tree; set once, before anybody asks. */
typedef struct img_owner_map {
    img_id_map uids, gids;
} img_owner_map;

uint32_t img_id_shown(const img_id_map *map, uint32_t stored);
uint32_t img_id_stored(const img_id_map *map, uint32_t shown);

/* Copies the ranges; squash -1: no. false: out of memory, and the map is what it was. */
bool img_id_map_set(img_id_map *map, const img_id_range *ranges, size_t n, int64_t squash);
void img_id_map_free(img_id_map *map);

#endif
