/* caller.c: reads what proc(5) has on the process that sent a request. */
#include "upper/caller.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LINE_BYTES 64

/* Whether the rest of the line, numbers after "Groups:", has the group. */
static bool listed(FILE *status, uint32_t gid) {
    unsigned long found;
    int c;
    while (fscanf(status, "%lu", &found) == 1) {
        if (found == gid)
            return true;
        while ((c = fgetc(status)) == ' ' || c == '\t')
            ;
        if (c == '\n' || ungetc(c, status) == EOF)
            return false;
    }
    return false;
}

bool img_caller_in_group(const img_caller *caller, uint32_t gid) {
    char text[LINE_BYTES];
    bool found = false;
    if (caller->gid == gid)
        return true;
    if (!caller->pid)
        return false;
    (void)snprintf(text, sizeof text, "/proc/%u/status", caller->pid);
    FILE *status = fopen(text, "re");
    if (!status)
        return false;
    while (fscanf(status, "%63s", text) == 1) {
        if (!strcmp(text, "Groups:")) {
            found = listed(status, gid);
            break;
        }
        if (fscanf(status, "%*[^\n]") == EOF)
            break;
    }
    (void)fclose(status);
    return found;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool first_namespace;

/* Only the initial user namespace maps all ids onto themselves (user_namespaces(7)). */
static void find_namespace(void) {
    unsigned long inside, outside, count;
    FILE *map = fopen("/proc/self/uid_map", "re");
    if (!map)
        return;
    first_namespace = fscanf(map, "%lu %lu %lu", &inside, &outside, &count) == 3 && inside == 0 &&
                      outside == 0 && count == UINT32_MAX;
    (void)fclose(map);
}

bool img_caller_keeps_set_id(const img_caller *caller) {
    (void)pthread_once(&once, find_namespace);
    return caller->uid == 0 && first_namespace;
}

uint32_t img_caller_loses(const img_caller *caller, uint32_t mode, uint32_t gid) {
    uint32_t bits = mode & S_ISUID;
    if (mode & S_ISGID && (mode & S_IXGRP || !img_caller_in_group(caller, gid)))
        bits |= S_ISGID;
    return bits;
}
