/* Runs files through a fuzz target once each: what was found, and the seeds.  Usage: NAME FILE...
 */
#include "fuzz.h"

#include <string.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) {
    (void)data; /* a mutator that is linked in calls it, and nobody calls the mutator here */
    (void)max_size;
    return size;
}

static void run(const char *path) {
    FILE *file = fopen(path, "rb");
    img_bytes all = {0};
    char part[4096];
    size_t n;
    CHECK(file);
    while ((n = fread(part, 1, sizeof part, file)) > 0)
        CHECK(img_bytes_add(&all, part, n) == 0);
    CHECK(!ferror(file) && fclose(file) == 0);
    uint8_t *exact = malloc(all.len ? all.len : 1); /* a read beyond the end is seen */
    CHECK(exact);
    if (all.len)
        memcpy(exact, all.data, all.len);
    CHECK(LLVMFuzzerTestOneInput(exact, all.len) == 0);
    free(exact);
    img_bytes_free(&all);
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        (void)fprintf(stderr, "%s\n", argv[i]); /* the last one named is the one at fault */
        run(argv[i]);
    }
    return 0;
}
