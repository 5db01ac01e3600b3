/* The timed part of scripts/bench: one small C program for every contestant, so that nearly all of
 * the time is the file system's.  Prints one line: the seconds, a blank, and the number of operations
 * or files.  Times are CLOCK_MONOTONIC, taken inside this process, without its start-up.  Any error
 * ends it with status 1.
 *
 *   stat DIR            every entry: openat and readdir of directories, fstatat (no following)
 *   read DIR            every regular file in readdir order: openat, read to the end, close; file
 *                       types come from d_type, or from fstatat if the file system gives none
 *   read-fstat DIR      the same with one fstat after each openat, as cp and tar do
 *   create DIR N SIZE   N files of SIZE bytes, 200 in a directory: open(O_EXCL), write, close
 *   write FILE MIB      one new file in writes of 1 MiB, then fsync
 *   reread FILE         reads of 1 MiB to the end
 *   fsyncs FILE N       N times: write 4 KiB at the end, fsync
 *   byte FILE           open, write one byte in the middle, close
 *   chmod FILE          chmod to 0600
 *   run CMD... [-- CMD...]...   commands one after the other, from before the first fork to the
 *                       last exit; their standard output is dropped
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, PER_DIRECTORY = 200, SMALL = 4096, DEPTH_LIMIT = 256 };

static char buffer[BLOCK];

_Noreturn static void fail(const char *what, const char *name) {
    fprintf(stderr, "walker: %s %s: %s\n", what, name, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Reads `fd` to its end; returns the number of bytes. */
static uint64_t drain(int fd, const char *name) {
    uint64_t total = 0;
    for (;;) {
        ssize_t got = read(fd, buffer, sizeof buffer);
        if (got < 0)
            fail("read", name);
        if (got == 0)
            return total;
        total += (uint64_t)got;
    }
}

static void fill(int fd, size_t size, const char *name) {
    while (size > 0) {
        size_t piece = size < sizeof buffer ? size : sizeof buffer;
        ssize_t put = write(fd, buffer, piece);
        if (put <= 0)
            fail("write", name);
        size -= (size_t)put;
    }
}

enum what { WALK_STAT, WALK_READ, WALK_READ_FSTAT };

static void read_one(int directory, const char *name, enum what what) {
    int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        fail("open", name);
    struct stat found;
    if (what == WALK_READ_FSTAT && fstat(fd, &found) < 0)
        fail("fstat", name);
    drain(fd, name);
    close(fd);
}

/* Returns DT_DIR, DT_REG or another type; calls fstatat only if d_type does not have it. */
static unsigned char kind_of(int directory, const struct dirent *entry) {
    struct stat found;
    if (entry->d_type != DT_UNKNOWN)
        return entry->d_type;
    if (fstatat(directory, entry->d_name, &found, AT_SYMLINK_NOFOLLOW) < 0)
        fail("stat", entry->d_name);
    return (unsigned char)IFTODT(found.st_mode);
}

/* Walks the directory `fd` and closes it.  Returns the number of entries (WALK_STAT) or of files
 * (the other modes). */
static uint64_t walk(int fd, enum what what, int depth) {
    if (depth > DEPTH_LIMIT) {
        errno = ELOOP;
        fail("walk", "too deep");
    }
    DIR *directory = fdopendir(fd);
    if (!directory)
        fail("fdopendir", "");
    uint64_t count = 0;
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(directory);
        if (!entry) {
            if (errno)
                fail("readdir", "");
            break;
        }
        const char *name = entry->d_name;
        if (!strcmp(name, ".") || !strcmp(name, ".."))
            continue;
        unsigned char kind = entry->d_type;
        if (what == WALK_STAT) {
            struct stat found;
            if (fstatat(fd, name, &found, AT_SYMLINK_NOFOLLOW) < 0)
                fail("stat", name);
            kind = S_ISDIR(found.st_mode) ? DT_DIR : DT_UNKNOWN;
            count++;
        } else {
            kind = kind_of(fd, entry);
            if (kind == DT_REG) {
                read_one(fd, name, what);
                count++;
            }
        }
        if (kind == DT_DIR) {
            int child = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (child < 0)
                fail("open", name);
            count += walk(child, what, depth + 1);
        }
    }
    closedir(directory);
    return count;
}

static uint64_t walk_from(const char *path, enum what what) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        fail("open", path);
    return walk(fd, what, 0);
}

static uint64_t create(const char *path, uint64_t files, size_t size) {
    int directory = -1;
    char name[32];
    if (mkdir(path, 0755) < 0 || chdir(path) < 0)
        fail("mkdir", path);
    for (uint64_t i = 0; i < files; i++) {
        if (i % PER_DIRECTORY == 0) {
            if (directory >= 0)
                close(directory);
            snprintf(name, sizeof name, "dir%05" PRIu64, i / PER_DIRECTORY);
            if (mkdir(name, 0755) < 0)
                fail("mkdir", name);
            directory = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            if (directory < 0)
                fail("open", name);
        }
        snprintf(name, sizeof name, "file%07" PRIu64, i);
        int fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (fd < 0)
            fail("create", name);
        fill(fd, size, name);
        if (close(fd) < 0)
            fail("close", name);
    }
    if (directory >= 0)
        close(directory);
    return files;
}

static uint64_t write_whole(const char *path, uint64_t mebibytes) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        fail("create", path);
    for (uint64_t i = 0; i < mebibytes; i++)
        fill(fd, BLOCK, path);
    if (fsync(fd) < 0 || close(fd) < 0)
        fail("fsync", path);
    return mebibytes;
}

static uint64_t reread(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        fail("open", path);
    uint64_t total = drain(fd, path);
    close(fd);
    return total / BLOCK;
}

static uint64_t fsyncs(const char *path, uint64_t times) {
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        fail("create", path);
    for (uint64_t i = 0; i < times; i++) {
        fill(fd, SMALL, path);
        if (fsync(fd) < 0)
            fail("fsync", path);
    }
    if (close(fd) < 0)
        fail("close", path);
    return times;
}

static uint64_t change_byte(const char *path) {
    struct stat found;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &found) < 0)
        fail("open", path);
    if (pwrite(fd, "x", 1, found.st_size / 2) != 1 || close(fd) < 0)
        fail("write", path);
    return 1;
}

static void run_one(char **command) {
    pid_t child = fork();
    if (child < 0)
        fail("fork", command[0]);
    if (child == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 1);
        execvp(command[0], command);
        fail("exec", command[0]);
    }
    int status;
    if (waitpid(child, &status, 0) < 0)
        fail("wait", command[0]);
    if (status != 0) {
        fprintf(stderr, "walker: %s %s %d\n", command[0],
                WIFSIGNALED(status) ? "was killed by signal" : "gave",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        exit(1);
    }
}

/* Replaces each "--" by the NULL that execvp needs at the end of a command's words. */
static uint64_t run_all(char **words) {
    uint64_t count = 0;
    char **start = words;
    for (char **word = words;; word++) {
        if (*word && strcmp(*word, "--") != 0)
            continue;
        int last = !*word;
        *word = NULL;
        run_one(start);
        count++;
        if (last)
            return count;
        start = word + 1;
    }
}

static uint64_t perform(int words, char **word) {
    const char *mode = word[1], *path = word[2];
    uint64_t number = words > 3 ? strtoull(word[3], NULL, 10) : 0;
    if (!strcmp(mode, "stat"))
        return walk_from(path, WALK_STAT);
    if (!strcmp(mode, "read"))
        return walk_from(path, WALK_READ);
    if (!strcmp(mode, "read-fstat"))
        return walk_from(path, WALK_READ_FSTAT);
    if (!strcmp(mode, "create") && words == 5)
        return create(path, number, strtoull(word[4], NULL, 10));
    if (!strcmp(mode, "write") && words == 4)
        return write_whole(path, number);
    if (!strcmp(mode, "reread"))
        return reread(path);
    if (!strcmp(mode, "fsyncs") && words == 4)
        return fsyncs(path, number);
    if (!strcmp(mode, "byte"))
        return change_byte(path);
    if (!strcmp(mode, "chmod")) {
        if (chmod(path, 0600) < 0)
            fail("chmod", path);
        return 1;
    }
    if (!strcmp(mode, "run"))
        return run_all(word + 2);
    errno = EINVAL;
    fail("mode", mode);
}

int main(int words, char **word) {
    if (words < 3) {
        fputs("usage: walker MODE PATH [N [SIZE]]; walker run CMD...\n", stderr);
        return 2;
    }
    memset(buffer, 'x', sizeof buffer); /* so that the buffer's page faults are not timed */
    double start = now();
    uint64_t count = perform(words, word);
    printf("%.9f %" PRIu64 "\n", now() - start, count);
    return 0;
}
