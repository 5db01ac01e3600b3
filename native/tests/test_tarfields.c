/* The functions that decode the fields of a member: names, numbers, times, codings, ACLs. */

#include "check.h"
#include "index/index.h"
#include "tar/acl.h"
#include "tar/paxcode.h"
#include "tar/tarblock.h"
#include "tar/tarname.h"

#include <errno.h>
#include <string.h>

static void test_m09_names(void) {
    static const char *const same[][2] = {
        {"a", "a"},          {"./a", "a"},     {"/a", "a"},
        {"//a//b//", "a/b"}, {"a/./b", "a/b"}, {".", ""},
        {"/", ""},           {"./", ""},       {"a/..", ""},
        {"a/../b", "b"},     {"...", "..."},   {"a/b/../../c", "c"},
        {"..a", "..a"},      {"a/b/..", "a"},  {".wh..wh..opq", ".wh..wh..opq"},
    };
    static const char *const outside[][2] = {
        {"..", ""}, {"a/../..", ""}, {"../a", "a"}, {"/..", ""}, {"a/../../b/../../c", "c"},
    };
    bool clamped = false;
    char out[IMG_PATH_BYTES_MAX], *deep = malloc(20001);
    img_error err = {0};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        long len = img_tarname_normalise(same[i][0], strlen(same[i][0]), out, &clamped, &err);
        CHECK(len == (long)strlen(same[i][1]) && memcmp(out, same[i][1], (size_t)len) == 0);
    }
    CHECK(!clamped);
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        clamped = false;
        long len = img_tarname_normalise(outside[i][0], strlen(outside[i][0]), out, &clamped, &err);
        CHECK(len == (long)strlen(outside[i][1]) && memcmp(out, outside[i][1], (size_t)len) == 0);
        CHECK(clamped);
    }
    CHECK(img_tarname_normalise("", 0, out, &clamped, &err) < 0 && err.code == EBADMSG);
    CHECK(img_tarname_normalise("a\0b", 3, out, &clamped, &err) < 0 && err.code == EBADMSG);
    memset(deep, 'a', 256);
    CHECK(img_tarname_normalise(deep, 255, out, &clamped, &err) == 255);
    CHECK(img_tarname_normalise(deep, 256, out, &clamped, &err) < 0 && err.code == E2BIG);
    for (size_t i = 0; i < 20000; i += 2)
        memcpy(deep + i, "a/", 2);
    CHECK(img_tarname_normalise(deep, 8192, out, &clamped, &err) == 8191);
    CHECK(img_tarname_normalise(deep, 20000, out, &clamped, &err) < 0 && err.code == E2BIG);
    free(deep);
}

static void test_t17_numbers(void) {
    static const struct {
        const char *digits;
        int result;
        int64_t value;
    } cases[] = {
        {"0000644\0", 0, 420},
        {"   644 \0", 0, 420},
        {"00000644", 0, 420},
        {"        ", 0, 0},
        {"\0\0\0\0\0\0\0\0", 0, 0},
        {"12 garb.", 0, 10},
        {"00008000", -1, 0},
        {"-0000001", -1, 0},
        {"\200\0\0\0\0\0\1\0", 0, 256},
        {"\377\377\377\377\377\377\377\377", 0, -1},
        {"\200\377\377\377\377\377\377\377", 0, 0xffffffffffffff},
        {"\377\0\0\0\0\0\0\0", 0, -0x100000000000000},
        {"\277\377\377\377\377\377\377\377", 0, 0x3fffffffffffffff},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t value = 0;
        CHECK(tar_number((const unsigned char *)cases[i].digits, 8, &value) == cases[i].result);
        CHECK(value == cases[i].value);
    }
}

static void test_t18_times(void) {
    static const struct {
        const char *text;
        int result;
        int64_t s;
        uint32_t ns;
    } cases[] = {
        {"0", 0, 0, 0},
        {"1.5", 0, 1, 500000000},
        {"1.", 0, 1, 0},
        {"-1.5", 0, -2, 500000000},
        {"-0.25", 0, -1, 750000000},
        {"-3", 0, -3, 0},
        {"1.1234567899", 0, 1, 123456789},
        {"-1.0000000001", 0, -2, 999999999},
        {"-1.9999999991", 0, -2, 0},
        {"9223372036854775806.9", 0, INT64_MAX - 1, 900000000},
        {"9223372036854775807", -1, 0, 0},
        {"", -1, 0, 0},
        {"-", -1, 0, 0},
        {".5", -1, 0, 0},
        {"1.5x", -1, 0, 0},
        {"1e5", -1, 0, 0},
        {"1.0.", -1, 0, 0},
        {"1.0000000000x", -1, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t s = 0;
        uint32_t ns = 0;
        CHECK(img_pax_time(cases[i].text, strlen(cases[i].text), &s, &ns) == cases[i].result);
        if (cases[i].result == 0)
            CHECK(s == cases[i].s && ns == cases[i].ns);
    }
}

static void test_t18_codes(void) {
    char out[64];
    CHECK(img_pax_percent("a%3D%25", 7, out) == 3 && memcmp(out, "a=%", 3) == 0);
    CHECK(img_pax_percent("a%3", 3, out) < 0 && img_pax_percent("%zz", 3, out) < 0);
    CHECK(img_pax_base64("AAEC/w==", 8, out) == 4 && memcmp(out, "\0\1\2\377", 4) == 0);
    CHECK(img_pax_base64("AAEC/w", 6, out) == 4 && img_pax_base64("", 0, out) == 0);
    CHECK(img_pax_base64("A", 1, out) < 0 && img_pax_base64("A*==", 4, out) < 0);
}

static void test_t18_acls(void) {
    img_bytes out = {0};
    img_error err = {0};
    bool minimal;
    const char *text = "other::r--\ngroup::r-x #effective:r--\nuser:joe:rwx:1000,user::rwx\n"
                       "group:unknown:rwx,mask::r--,user:5:-w-";
    CHECK(img_acl_from_text(text, strlen(text), &out, &minimal, &err) == 0 && !minimal);
    static const unsigned char want[] = {
        2,  0, 0, 0, 1,   0,   7,   0,   255, 255, 255, 255, 2,   0,   2,   0,   5,   0,
        0,  0, 2, 0, 7,   0,   232, 3,   0,   0,   4,   0,   5,   0,   255, 255, 255, 255,
        16, 0, 4, 0, 255, 255, 255, 255, 32,  0,   4,   0,   255, 255, 255, 255};
    CHECK(out.len == sizeof want && memcmp(out.data, want, sizeof want) == 0);
    text = "user::rw-,group::r--,other::---";
    CHECK(img_acl_from_text(text, strlen(text), &out, &minimal, &err) == 0 && minimal);
    text = "u::rw-,g::r--,g:7:-wx,o:---"; /* without a mask, which the group class gives */
    CHECK(img_acl_from_text(text, strlen(text), &out, &minimal, &err) == 0 && !minimal);
    CHECK(out.len == 4 + 8 * 5 && out.data[4 + 8 * 3] == 16 && out.data[4 + 8 * 3 + 2] == 7);
    static const char *const bad[] = {"user::rwx",
                                      "user::rwx,user::rwx,group::r--,other::r--",
                                      "u::q,g::r,o::r",
                                      "x::r,u::r,g::r,o::r",
                                      "user",
                                      "user:",
                                      ":",
                                      "u::r,g::r,o::r,u:1:r,u:1:w",
                                      "u::r,g::r,mask:x:r,o::r"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(img_acl_from_text(bad[i], strlen(bad[i]), &out, &minimal, &err) < 0 &&
              err.code == EBADMSG);
    img_bytes_free(&out);
}

int main(void) {
    test_m09_names();
    test_t17_numbers();
    test_t18_times();
    test_t18_codes();
    test_t18_acls();
    return 0;
}
