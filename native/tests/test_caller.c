/* The groups of a process, from proc(5). */
#define _GNU_SOURCE
#include "upper/caller.h"

#include "check.h"

#include <grp.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static const uint32_t LOCKING = S_IFREG | 06644, BOTH = S_ISUID | S_ISGID;

static void test_own_groups(void) {
    const img_caller us = {.uid = 1, .gid = 987654321, .pid = (uint32_t)getpid()};
    gid_t groups[256];
    int n = getgroups(256, groups);
    CHECK(n >= 0);
    for (int i = 0; i < n; i++)
        CHECK(img_caller_in_group(&us, groups[i]));
    CHECK(img_caller_in_group(&us, 987654321));
    CHECK(!img_caller_in_group(&us, 987654320));
}

static void test_groups_that_were_given(void) {
    const gid_t lists[3][3] = {{0}, {77}, {7, 70, 4294967294u}};
    if (geteuid() != 0)
        return; /* only root may set groups */
    for (size_t n = 0; n < 3; n++) {
        CHECK(setgroups(n, lists[n]) == 0);
        const img_caller us = {.uid = 1, .gid = 5, .pid = (uint32_t)getpid()};
        CHECK(img_caller_in_group(&us, 77) == (n == 1));
        CHECK(img_caller_in_group(&us, 7) == (n == 2));
        CHECK(img_caller_in_group(&us, 0) == false);
    }
}

static void test_what_is_lost(void) {
    const img_caller member = {.uid = 1, .gid = 9}, gone = {.uid = 1, .gid = 8, .pid = 0x7fffffff};
    CHECK(img_caller_loses(&member, LOCKING, 9) == S_ISUID);
    CHECK(img_caller_loses(&gone, LOCKING, 9) == BOTH);
    CHECK(img_caller_loses(&member, LOCKING | S_IXGRP, 9) == BOTH);
    CHECK(img_caller_loses(&gone, S_IFREG | 0755, 9) == 0);
}

int main(void) {
    test_own_groups();
    test_groups_that_were_given();
    test_what_is_lost();
    return 0;
}
