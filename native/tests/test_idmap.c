/* Ids are translated both ways: ranges, ids in no range, squashing, and the edges of 32 bits. */
#include "tree/idmap.h"

#include "check.h"

static void test_nothing_said(void) {
    const img_id_map none = {0};
    CHECK(img_id_shown(&none, 0) == 0 && img_id_stored(&none, 0) == 0);
    CHECK(img_id_shown(&none, UINT32_MAX) == UINT32_MAX);
    CHECK(img_id_stored(&none, 70000) == 70000);
}

static void test_ranges(void) {
    const img_id_range ranges[] = {{1000, 0, 1}, {100000, 1, 65536}, {UINT32_MAX, 70000, 1}};
    img_id_map map = {0};
    CHECK(img_id_map_set(&map, ranges, 3, -1));
    CHECK(img_id_shown(&map, 1000) == 0 && img_id_stored(&map, 0) == 1000);
    CHECK(img_id_shown(&map, 165535) == 65536 && img_id_stored(&map, 65536) == 165535);
    CHECK(img_id_shown(&map, 165536) == IMG_ID_NOBODY);
    CHECK(img_id_shown(&map, 0) == IMG_ID_NOBODY && img_id_shown(&map, 1001) == IMG_ID_NOBODY);
    CHECK(img_id_stored(&map, 65537) == IMG_ID_NOBODY);
    CHECK(img_id_shown(&map, UINT32_MAX) == 70000 && img_id_stored(&map, 70000) == UINT32_MAX);
    for (uint32_t id = 0; id <= 65536; id += 97)
        CHECK(img_id_shown(&map, img_id_stored(&map, id)) == id);
    img_id_map_free(&map);
    CHECK(map.n == 0 && img_id_shown(&map, 1000) == 1000);
}

static void test_the_first_range_counts(void) {
    const img_id_range ranges[] = {{5, 50, 2}, {6, 60, 2}, {9, 51, 1}, {3, 3, 0}};
    img_id_map map = {0};
    CHECK(img_id_map_set(&map, ranges, 4, -1));
    CHECK(img_id_shown(&map, 6) == 51 && img_id_shown(&map, 7) == 61);
    CHECK(img_id_stored(&map, 51) == 6);
    CHECK(img_id_shown(&map, 3) == IMG_ID_NOBODY);
    img_id_map_free(&map);
}

static void test_squashing(void) {
    const img_id_range ranges[] = {{1000, 0, 10}};
    img_id_map map = {0};
    CHECK(img_id_map_set(&map, NULL, 0, 7));
    CHECK(img_id_shown(&map, 0) == 7 && img_id_shown(&map, UINT32_MAX) == 7);
    CHECK(img_id_stored(&map, 7) == 7 && img_id_stored(&map, 8) == 8);
    CHECK(img_id_map_set(&map, ranges, 1, UINT32_MAX));
    CHECK(img_id_shown(&map, 1001) == UINT32_MAX);
    CHECK(img_id_stored(&map, 1) == 1001 && img_id_stored(&map, 10) == IMG_ID_NOBODY);
    img_id_map_free(&map);
}

int main(void) {
    test_nothing_said();
    test_ranges();
    test_the_first_range_counts();
    test_squashing();
    return 0;
}
