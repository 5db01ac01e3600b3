#include "tree/idmap.h"

#include <stdlib.h>
#include <string.h>

uint32_t img_id_shown(const img_id_map *map, uint32_t stored) {
    if (map->squashed)
        return map->squash;
    for (size_t i = 0; i < map->n; i++)
        if (stored - map->ranges[i].stored < map->ranges[i].count)
            return map->ranges[i].shown + (stored - map->ranges[i].stored);
    return map->n ? IMG_ID_NOBODY : stored;
}

uint32_t img_id_stored(const img_id_map *map, uint32_t shown) {
    for (size_t i = 0; i < map->n; i++)
        if (shown - map->ranges[i].shown < map->ranges[i].count)
            return map->ranges[i].stored + (shown - map->ranges[i].shown);
    return map->n ? IMG_ID_NOBODY : shown;
}

bool img_id_map_set(img_id_map *map, const img_id_range *ranges, size_t n, int64_t squash) {
    img_id_range *copy = n ? reallocarray(NULL, n, sizeof *copy) : NULL;
    if (n && !copy)
        return false;
    if (n)
        memcpy(copy, ranges, n * sizeof *copy);
    img_id_map_free(map);
    *map = (img_id_map){copy, n, squash >= 0, squash >= 0 ? (uint32_t)squash : 0};
    return true;
}

void img_id_map_free(img_id_map *map) {
    free(map->ranges);
    *map = (img_id_map){0};
}
