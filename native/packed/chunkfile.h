/* chunkfile.h: the chunk cache of one layer: what was decompressed, in a file that all mounts of
 * one user share.
 *
 * Law: a chunk that is given out has the digest that the pass over the whole layer found out.
 *
 *   file    sparse: chunk i of the tar at offset i * IMG_CHUNK_BYTES, or a hole, for all n chunks;
 *           then img_chunk_state[n], in host order: one of each chunk
 *
 * Nothing in the file is believed.  A process hashes each chunk before it uses it for the first
 * time, whoever wrote it; so a torn chunk, a chunk of before a crash and a damaged one are all
 * decompressed anew, and no order of writes has to be kept.  From then on the process believes the
 * chunk as long as the chunk's generation stays.
 *
 *   fill    lock chunk (shared) | read generation | write data | used = now | unlock
 *   punch   lock chunk (exclusive) | generation + 1, used = 0 | punch a hole | unlock
 *   read    read data | read generation: is it the one at which the chunk was hashed?
 *
 * A reader takes no lock.  If the generation after the read is still the same, no hole was being
 * punched when the data were read.  Locks are open file description locks (fcntl(2)) on the bytes
 * of the chunk's state; a punch uses a description of its own.  The threads of one process share a
 * description, so one of them would drop the lock of another: `filling` lets one at a time lock.
 *
 * What was written is in the page cache first.  If the kernel cannot write it to the disk later
 * (EIO, ENOSPC), the page can go, and zeros or older bytes come back.  So each read asks for such
 * an error after it has copied the data, and then nothing in the file is known any more.
 *
 * The file is opened, and made if need be, when a chunk is first looked for: an image may have
 * hundreds of layers of which few are read.
 *
 * Threads: all functions but _init and _close may be called by several threads at a time.
 */
#ifndef IMG_CHUNKFILE_H
#define IMG_CHUNKFILE_H

#include "base/error.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define IMG_CHUNK_BYTES                                                                            \
    (256u << 10)       /* bytes of a chunk of the tar; the last one may be shorter                 \
                        */
#define IMG_DIGEST 32u /* bytes of a SHA-256 */
#define IMG_CHUNKFILE_UNTRIED (-2)

typedef struct img_chunk_state {
    uint32_t generation;
    uint32_t used; /* when a process used the chunk, seconds since 1970; 0: there is none */
} img_chunk_state;

typedef struct img_chunkfile {
    int directory; /* borrowed: where the file is; -1: nothing is kept */
    char name[80]; /* of the file */
    atomic_int fd; /* IMG_CHUNKFILE_UNTRIED; -1: it cannot be opened */
    uint64_t tar_bytes;
    uint64_t n;
    pthread_mutex_t filling;
    uint8_t *digests;        /* n * IMG_DIGEST bytes; owned */
    _Atomic uint32_t *known; /* generation + 1 at which this process hashed the chunk; 0: not yet */
    _Atomic uint8_t *used;   /* 1: read since the last img_chunkfile_note_used */
    atomic_ullong filled;    /* bytes that this process has written */
    atomic_int failed;       /* errno of the last open or write; 0: it was done */
    atomic_int unsaid; /* errno of what failed since img_chunkfile_failed was called; 0: nothing */
    pthread_mutex_t asking; /* whether the kernel has lost what was written */
    atomic_uint losses;     /* how often it has */
} img_chunkfile;

static inline uint64_t img_chunks_of(uint64_t tar_bytes) {
    return tar_bytes / IMG_CHUNK_BYTES + (tar_bytes % IMG_CHUNK_BYTES != 0);
}

/* Copies the name, and the digests, one of each chunk. */
int img_chunkfile_init(img_chunkfile *file, int directory, const char *name, uint64_t tar_bytes,
                       const void *digests, img_error *err);
void img_chunkfile_close(img_chunkfile *file);
/* Closes the file only; nothing is kept afterwards. */
void img_chunkfile_shut(img_chunkfile *file);

/* True if chunks are kept: the file is open, or can be opened now. */
bool img_chunkfile_keeps(img_chunkfile *file);

/* How long the chunk is: IMG_CHUNK_BYTES, but for the last one. */
size_t img_chunkfile_size(const img_chunkfile *file, uint64_t chunk);

/* True if the bytes have the chunk's digest. */
bool img_chunkfile_matches(const img_chunkfile *file, uint64_t chunk, const void *data);

/* Reads size bytes at `at` inside a chunk that this process has hashed.  size; -EAGAIN: the chunk
 * is not known, or not kept any more, or (now) not in the page cache. */
ssize_t img_chunkfile_read(img_chunkfile *file, uint64_t chunk, size_t at, void *buffer,
                           size_t size, bool now);

/* Reads a whole chunk that some process has kept, and hashes it.  True: it is right, and known from
 * now on. */
bool img_chunkfile_load(img_chunkfile *file, uint64_t chunk, void *buffer);

/* Keeps a chunk, whose digest the caller has compared.  The bytes that are kept; 0: it cannot be
 * kept, for instance because the last of the disk stays free (ENOSPC in `failed`), or just now
 * because it is being punched. */
size_t img_chunkfile_fill(img_chunkfile *file, uint64_t chunk, const void *data);

/* errno of an open, a write, or a write to the disk behind it, that failed since the last call; 0:
 * none. */
int img_chunkfile_failed(img_chunkfile *file);

/* Writes the time of use of the chunks that were read since the last call. */
void img_chunkfile_note_used(img_chunkfile *file, uint32_t now);

/* Removes chunk `chunk` of n from a file, which the caller has opened for this purpose.  1; 0: it
 * is in use by a process that fills it; negative errno. */
int img_chunk_punch(int fd, uint64_t n, uint64_t chunk);

#endif
