#define _GNU_SOURCE /* struct statx */
#include "dir/dirlinks.h"

#include <stdlib.h>
#include <sys/stat.h>

static size_t slot_of(const img_dirlinks *links, uint64_t ino) {
    return ino * 0x9e3779b97f4a7c15u >> 20 & (links->size - 1);
}

static size_t next_slot(const img_dirlinks *links, size_t slot) {
    return (slot + 1) & (links->size - 1);
}

static int grow(img_dirlinks *links) {
    img_dirlinks grown = {.n = links->n, .size = links->size ? 2 * links->size : 64};
    grown.slots = calloc(grown.size, sizeof *grown.slots);
    if (!grown.slots)
        return -1;
    for (size_t i = 0; i < links->size; i++) {
        if (!links->slots[i].entry)
            continue;
        size_t slot = slot_of(&grown, links->slots[i].ino);
        while (grown.slots[slot].entry)
            slot = next_slot(&grown, slot);
        grown.slots[slot] = links->slots[i];
    }
    free(links->slots);
    *links = grown;
    return 0;
}

int img_dirlinks_entry(img_dirlinks *links, const struct statx *st, uint32_t entry,
                       uint32_t *first) {
    if (2 * (links->n + 1) > links->size && grow(links) < 0)
        return -1;
    size_t slot = slot_of(links, st->stx_ino);
    for (; links->slots[slot].entry; slot = next_slot(links, slot)) {
        const img_dirlink *link = &links->slots[slot];
        if (link->ino == st->stx_ino && link->major == st->stx_dev_major &&
            link->minor == st->stx_dev_minor) {
            *first = link->entry;
            return 0;
        }
    }
    links->slots[slot] = (img_dirlink){st->stx_ino, st->stx_dev_major, st->stx_dev_minor, entry};
    links->n++;
    *first = 0;
    return 0;
}

void img_dirlinks_free(img_dirlinks *links) {
    free(links->slots);
    *links = (img_dirlinks){0};
}
