/* index.h: what one layer holds, as flat arrays; that of a tar can be written to a file and read.
 *
 * Pure tar: whiteouts are ordinary members here; what they mean is merge.h's business.  Members
 * stand in archive order, repeats included.  Names are normalised: no leading slash, no "."
 * component, no ".." (resolved lexically, the root being its own parent), no empty component, each
 * <= 255 bytes.
 *
 *   file  = header | entries[n_entries] | extents[n_extents] | pool[pool_bytes]
 *           header.checksum is that of all of it (checksum.h), taken with checksum = 0 and with
 *           the file's key as its seed: a whole index under another's name does not match either
 *   pool  = bytes that entries point into: names, link targets, xattr records
 *   xattr record = u16 name_len | u32 value_len | name | value        (packed, host order)
 *
 * All offsets named archive_* count bytes of the uncompressed archive.  Integers are host order:
 * an index is a cache of this machine's, and the magic tells a foreign one.
 * Ownership: img_index owns its memory, either malloc'ed arrays or one block.
 * Threads: immutable once built.
 */
#ifndef IMG_INDEX_H
#define IMG_INDEX_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMG_INDEX_MAGIC "IMGIDX\0\1"
#define IMG_INDEX_VERSION 4u /* also of the rules by which a tar becomes an index */

/* Named limits; a number beyond one is an error E2BIG that says so. */
#define IMG_NAME_MAX 255u                  /* one component: NAME_MAX of Linux */
#define IMG_PATH_BYTES_MAX 8192u           /* a member's whole name: 2 * PATH_MAX */
#define IMG_PATH_DEPTH_MAX 4096u           /* components of a name */
#define IMG_SYMLINK_BYTES_MAX 4095u        /* a symlink's target: PATH_MAX without its NUL */
#define IMG_LINK_BYTES_MAX 8192u           /* a link target */
#define IMG_ENTRIES_MAX (8u * 1024 * 1024) /* members of one archive */
#define IMG_EXTENDED_BYTES_MAX (4u << 20)  /* a PAX header, a GNU long name */
#define IMG_XATTRS_MAX 1024u               /* xattrs of one member */
#define IMG_XATTR_VALUE_MAX 65536u         /* XATTR_SIZE_MAX of Linux */
#define IMG_GLOBAL_XATTRS_MAX 4096u        /* bytes of xattrs for all members of an archive, */
#define IMG_GLOBAL_XATTRS_N_MAX 64u        /* and how many: each member takes them over anew */
#define IMG_SPARSE_MAX (1u << 20)          /* extents of one sparse member */
#define IMG_INDEX_BYTES_MAX (1u << 31) /* the arrays of one index, and of all of an image: 136 */
                                       /* bytes a member beside its img_entry, if there are */
                                       /* IMG_ENTRIES_MAX; pool offsets are 32 bits */

typedef enum img_kind {
    IMG_FILE = 1,
    IMG_DIR,
    IMG_SYMLINK,
    IMG_HARDLINK, /* link = normalised root-relative name of the target; other fields unused */
    IMG_CHAR,
    IMG_BLOCK,
    IMG_FIFO,
    /* Directory layers only (dirscan.h): no such entry is ever written to a file or read from one.
     */
    IMG_SOCKET,
    IMG_WHITEOUT, /* hides name in the layers below */
} img_kind;

typedef struct img_extent {
    uint64_t file_offset; /* ascending, not overlapping, inside [0, size) */
    uint64_t length;      /* > 0 */
    uint64_t archive_offset;
} img_extent;

typedef struct img_entry {
    uint64_t size;           /* IMG_FILE: length as stat shows it; else 0 */
    uint64_t archive_header; /* first block of the member, extended headers included */
    uint64_t archive_data;   /* !IMG_ENTRY_SPARSE: where the size bytes of contents stand */
    int64_t mtime_s, atime_s, ctime_s; /* atime and ctime are mtime where the archive has none */
    uint32_t mtime_ns, atime_ns, ctime_ns; /* 0 .. 999,999,999 also for times before 1970 */
    uint32_t mode;                         /* st_mode: type and 07777 bits; IMG_HARDLINK: 0 */
    uint32_t uid, gid;
    uint32_t rdev_major, rdev_minor;
    uint32_t first_extent, n_extents; /* IMG_ENTRY_SPARSE: may be 0 extents, all hole */
    uint32_t xattrs;                  /* pool offset of the first record */
    uint32_t n_xattrs;
    uint32_t dir;  /* pool offset of the parent's path, "" for the root's children;
                      members of one directory share one offset */
    uint32_t name; /* pool offset; name_len 0 with dir_len 0 is the root itself */
    uint32_t link; /* symlink or hardlink target */
    uint16_t dir_len, name_len, link_len;
    uint8_t kind;  /* img_kind */
    uint8_t flags; /* IMG_ENTRY_* */
} img_entry;

#define IMG_ENTRY_SPARSE 1u
#define IMG_ENTRY_OWNER 32u /* its uid or gid is a number that is no id, shown as 0 */
/* A ".." of its name or hard link target would have left the root. */
#define IMG_ENTRY_CLAMPED 64u
/* Directory layers only. */
#define IMG_ENTRY_OPAQUE 2u /* a directory that shows nothing of the layers below */
#define IMG_ENTRY_REDIRECT                                                                         \
    4u /* link: where the layers below have it, "/from/the/root" or "beside" */
#define IMG_ENTRY_METACOPY 8u /* a file whose contents the layers below have */
#define IMG_ENTRY_ORIGIN 16u  /* what the layers below have at a path (see below) was copied up */

/* A directory layer's entries differ in this:
 *   archive_header   the number of the directory's own entry; the root's is 0, which is itself
 *   archive_data     IMG_FILE: pool offset of its img_file_record; IMG_HARDLINK: the number of the
 *                    entry that has the object (link is its path, to be read by people)
 *   rdev_*           IMG_FILE: st_blocks, the low and the high half
 *   first_extent, n_extents   IMG_ENTRY_ORIGIN: that path, its pool offset and length
 * Directories stand before what is in them, and the entries of one directory side by side. */
typedef struct img_file_record { /* in the pool, not aligned: to be copied out */
    uint32_t number;             /* of the layer's files, from 1 */
    uint32_t dir;                /* pool offset of the directory's path */
    uint16_t dir_len, name_len;  /* the name's bytes follow */
    uint32_t uid, gid, mode;     /* as they stood on disk, whatever marks said */
    uint32_t dev_major, dev_minor;
    uint64_t ino;
} img_file_record;

/* What is shown otherwise than the archive says it: how many entries, and the first of them. */
typedef struct img_oddities {
    uint64_t n_clamped, first_clamped; /* IMG_ENTRY_CLAMPED */
    uint64_t n_owner, first_owner;     /* IMG_ENTRY_OWNER */
} img_oddities;

typedef struct img_index_header {
    char magic[8];
    uint32_t version;
    uint32_t entry_size; /* sizeof(img_entry): a changed layout is a foreign index */
    uint64_t n_entries, n_extents, pool_bytes;
    uint64_t archive_bytes; /* where the end-of-archive mark (or plain EOF) was found */
    uint64_t checksum;      /* of a file; 0 in memory */
} img_index_header;

typedef struct img_index {
    img_index_header head;
    const img_entry *entries;
    const img_extent *extents;
    const char *pool;
    void *block; /* non-NULL: the arrays point into this anonymous mapping of block_bytes */
    size_t block_bytes;
    bool directory;   /* of a directory layer */
    uint32_t n_files; /* img_file_record.number runs to here */
    img_oddities oddities;
} img_index;

/* Counts an entry, which has that number. */
void img_oddities_count(img_oddities *oddities, const img_entry *entry, uint64_t number);

/* Frees the arrays or the mapping, and the index itself. NULL is fine. */
void img_index_free(img_index *index);

/* The key of a file of that name; 0 for none. */
uint64_t img_index_key(const void *name, size_t len);

/* What header.checksum of this index' file is. */
uint64_t img_index_checksum(const img_index *index, uint64_t key);

/* Writes the index to fd from its current position. Errors: the system's. */
int img_index_write(const img_index *index, int fd, uint64_t key, img_error *err);

/* Reads the file behind fd (which may be closed afterwards), compares its checksum, which tells of
 * damage, and checks every offset in it, so that no later use can leave the arrays whoever made it.
 * It is read, not mapped: a file that shrinks, or a disk that fails, must not end the process
 * (SIGBUS). EBADMSG: not an index, foreign, cut, damaged or written with another key. */
img_index *img_index_read(int fd, uint64_t key, img_error *err);

/* Gives the entries' memory back; extents and pool, which trees point into, stay. */
void img_index_drop_entries(img_index *index);

#endif
