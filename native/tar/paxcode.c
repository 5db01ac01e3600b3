#include "tar/paxcode.h"

#include "base/decimal.h"

#include <stdbool.h>
#include <string.h>

enum { NS_DIGITS = 9, NS_PER_S = 1000000000 };

/* The digits behind the point.  *finer: a digit beyond the ninth is not 0. */
static int fraction(const char *text, size_t len, uint32_t *ns, bool *finer) {
    uint32_t value = 0;
    *finer = false;
    for (size_t i = 0; i < len; i++)
        if (text[i] < '0' || text[i] > '9')
            return -1;
    for (size_t i = 0; i < NS_DIGITS; i++)
        value = value * 10 + (i < len ? (uint32_t)(text[i] - '0') : 0);
    for (size_t i = NS_DIGITS; i < len; i++)
        *finer = *finer || text[i] != '0';
    *ns = value;
    return 0;
}

int img_pax_time(const char *text, size_t len, int64_t *s, uint32_t *ns) {
    bool negative = len && text[0] == '-', finer = false;
    if (negative || (len && text[0] == '+')) {
        text++;
        len--;
    }
    const char *point = len ? memchr(text, '.', len) : NULL;
    size_t whole = point ? (size_t)(point - text) : len;
    uint64_t seconds;
    if (img_decimal(text, whole, &seconds) < 0 || seconds >= INT64_MAX)
        return -1;
    *ns = 0;
    if (point && fraction(point + 1, len - whole - 1, ns, &finer) < 0)
        return -1;
    *s = (int64_t)seconds;
    if (!negative)
        return 0;
    /* -(s + ns/10^9 + finer), rounded down; ns is made positive again */
    uint32_t below = *ns + (finer ? 1 : 0);
    *s = -(int64_t)seconds - (below ? 1 : 0);
    *ns = below ? (uint32_t)(NS_PER_S - below) : 0;
    return 0;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

long img_pax_percent(const char *text, size_t len, char *out) {
    size_t used = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] != '%') {
            out[used++] = text[i];
            continue;
        }
        int high = i + 2 < len ? hex_digit(text[i + 1]) : -1;
        int low = i + 2 < len ? hex_digit(text[i + 2]) : -1;
        if (high < 0 || low < 0)
            return -1;
        out[used++] = (char)(high << 4 | low);
        i += 2;
    }
    return (long)used;
}

static int base64_digit(char c) {
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

long img_pax_base64(const char *text, size_t len, char *out) {
    uint32_t bits = 0, pending = 0; /* pending: the number of bits that are not written yet */
    size_t used = 0;
    while (len && text[len - 1] == '=')
        len--;
    for (size_t i = 0; i < len; i++) {
        int digit = base64_digit(text[i]);
        if (digit < 0)
            return -1;
        bits = bits << 6 | (uint32_t)digit;
        pending += 6;
        if (pending >= 8) {
            pending -= 8;
            out[used++] = (char)(bits >> pending & 0xff);
        }
    }
    return pending >= 6 ? -1 : (long)used;
}
