/* hash.h: a hash of untrusted names; an attacker cannot choose names that collide.
 *
 * The seed is secret and takes part in every step.  If a step only multiplied by a known number,
 * an attacker could toggle two bits in each of W words so that the changes cancel for every seed,
 * and 2^W names would share one hash.
 */
#ifndef IMG_HASH_H
#define IMG_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Folded 64 x 64 -> 128 multiplication, eight bytes a step (after wyhash, by Wang Yi). */
static inline uint64_t img_hash_mix(uint64_t a, uint64_t b) {
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t img_hash(uint64_t seed, const char *text, size_t len) {
    uint64_t hash = seed ^ len, word;
    for (; len >= sizeof word; len -= sizeof word, text += sizeof word) {
        memcpy(&word, text, sizeof word);
        hash = img_hash_mix(hash ^ word, 0xa0761d6478bd642fu ^ (seed | 1));
    }
    word = 0;
    memcpy(&word, text, len);
    return img_hash_mix(hash ^ word, 0xe7037ed1a0b428dbu ^ (seed | 1));
}

#endif
