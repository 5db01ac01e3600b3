/* replay.c: runs each file through a fuzz target once: seeds, and inputs that were found before.
 * Usage: NAME FILE...
 */
#include "fuzz.h"

#include <string.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) {
    (void)data; /* only a mutator calls this function, and replay does not mutate */
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
    uint8_t *exact = malloc(all.len ? all.len : 1); /* a sanitizer sees a read beyond the end */
    CHECK(exact);
    if (all.len)
        memcpy(exact, all.data, all.len);
    CHECK(LLVMFuzzerTestOneInput(exact, all.len) == 0);
    free(exact);
    img_bytes_free(&all);
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        (void)fprintf(stderr, "%s\n",
                      argv[i]); /* if the program ends, the last name is the cause */
        run(argv[i]);
    }
    return 0;
}
