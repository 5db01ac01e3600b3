/* The checksum is XXH64: the values are from the program of its authors (xxhsum -H64). */
#include "base/checksum.h"
#include "check.h"

#include <string.h>

static void test_known_values(void) {
    static const struct {
        const char *text;
        uint64_t sum;
    } known[] = {
        {"", 0xEF46DB3751D8E999u},
        {"a", 0xD24EC4F1A98C6E5Bu},
        {"abc", 0x44BC2CF5AD770999u},
        {"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1u},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        CHECK(img_checksum(known[i].text, strlen(known[i].text), 0) == known[i].sum);
}

static void test_every_bit_counts(void) {
    char data[100] = "any";
    for (size_t size = 1; size <= sizeof data; size++) {
        uint64_t sum = img_checksum(data, size, 7);
        CHECK(img_checksum(data, size, 8) != sum);
        for (size_t bit = 0; bit < size * 8; bit++) {
            data[bit / 8] = (char)(data[bit / 8] ^ 1 << bit % 8);
            CHECK(img_checksum(data, size, 7) != sum);
            data[bit / 8] = (char)(data[bit / 8] ^ 1 << bit % 8);
        }
    }
}

int main(void) {
    test_known_values();
    test_every_bit_counts();
    return 0;
}
