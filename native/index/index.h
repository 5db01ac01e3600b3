/* index.h: the members of one layer, as flat arrays.  The index of a tar can be written to a file
 * and read back.
 *
 * Law: an index stores members and does not interpret them.  A tar's whiteout is an ordinary member
 * here; merge.h applies it.  Members are in archive order, repeated ones included.  Names are
 * normalised: no leading slash, no empty component, no ".", no ".." (resolved lexically, the root
 * being its own parent), each component <= 255 bytes.
 *
 *   file  = header | entries[n_entries] | extents[n_extents] | pool[pool_bytes]
 *           header.checksum is the checksum (checksum.h) of the whole file with checksum = 0, and
 *           its seed is the key of the file's name: an intact index under the name of another index
 *           does not match either
 *   pool  = bytes that entries point into: names, link targets, xattr records
 *   xattr record = u16 name_len | u32 value_len | name | value        (packed, host order)
 *
 * All offsets named archive_* count bytes of the uncompressed archive.  Integers are in host order:
 * an index is a cache that is read on the machine that wrote it.  An index of the other byte order
 * has another version number, and is refused.
 * Ownership: img_index owns its memory, which is either malloc'ed arrays or one mapped block.
 * Threads: an index does not change once it is built.
 */
#ifndef IMG_INDEX_H
#define IMG_INDEX_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMG_INDEX_MAGIC "IMGIDX\0\1"
#define IMG_INDEX_VERSION 5u /* of the format and of the rules by which a tar becomes an index */

/* Named limits.  A number beyond its limit is an error E2BIG whose message has the limit. */
#define IMG_NAME_MAX 255u                  /* one component: NAME_MAX of Linux */
#define IMG_WHITEOUT_MAX 259u              /* ".wh." and such a name: a whiteout in a tar */
#define IMG_PATH_BYTES_MAX 8192u           /* a member's name: 2 * PATH_MAX */
#define IMG_PATH_DEPTH_MAX 4096u           /* components of a name */
#define IMG_SYMLINK_BYTES_MAX 4095u        /* a symlink's target: PATH_MAX without its NUL */
#define IMG_LINK_BYTES_MAX 8192u           /* a link target */
#define IMG_ENTRIES_MAX (8u * 1024 * 1024) /* members of one archive */
#define IMG_EXTENDED_BYTES_MAX (4u << 20)  /* a PAX header, a GNU long name */
#define IMG_XATTRS_MAX 1024u               /* xattrs of one member */
#define IMG_XATTR_VALUE_MAX 65536u         /* XATTR_SIZE_MAX of Linux */
#define IMG_SPARSE_MAX (1u << 20)          /* extents of one sparse member */
/* The xattrs of global headers: their bytes and their number.  The limits are low because each
 * member gets a copy. */
#define IMG_GLOBAL_XATTRS_MAX 4096u
#define IMG_GLOBAL_XATTRS_N_MAX 64u
/* The bytes of the arrays of one index, and of all indexes of an image.  Pool offsets have 32 bits.
 * With IMG_ENTRIES_MAX members, 136 bytes are left for each one beside its img_entry. */
#define IMG_INDEX_BYTES_MAX (1u << 31)

typedef enum img_kind {
    IMG_FILE = 1,
    IMG_DIR,
    IMG_SYMLINK,
    IMG_HARDLINK, /* link = normalised root-relative name of the target; other fields unused */
    IMG_CHAR,
    IMG_BLOCK,
    IMG_FIFO,
    /* Only in directory layers (dirscan.h), whose index is never written to a file. */
    IMG_SOCKET,
    IMG_WHITEOUT, /* hides `name` in the layers below */
} img_kind;

typedef struct img_extent {
    uint64_t file_offset; /* ascending, not overlapping, inside [0, size) */
    uint64_t length;      /* > 0 */
    uint64_t archive_offset;
} img_extent;

typedef struct img_entry {
    uint64_t size;           /* IMG_FILE: st_size; else 0 */
    uint64_t archive_header; /* the first block of the member, extended headers included */
    uint64_t archive_data;   /* !IMG_ENTRY_SPARSE: the first of the `size` bytes of contents */
    int64_t mtime_s, atime_s, ctime_s;     /* atime and ctime are mtime if the archive has none */
    uint32_t mtime_ns, atime_ns, ctime_ns; /* 0 .. 999,999,999 also for times before 1970 */
    uint32_t mode;                         /* st_mode: type and 07777 bits; IMG_HARDLINK: 0 */
    uint32_t uid, gid;
    uint32_t rdev_major, rdev_minor;
    uint32_t first_extent, n_extents; /* IMG_ENTRY_SPARSE; 0 extents: the file is one hole */
    uint32_t xattrs;                  /* pool offset of the first record */
    uint32_t n_xattrs;
    uint32_t dir;  /* pool offset of the parent's path, which is "" for the root's children;
                      members of one directory have the same offset */
    uint32_t name; /* pool offset; name_len 0 with dir_len 0 is the root itself */
    uint32_t link; /* symlink or hardlink target */
    uint16_t dir_len, name_len, link_len;
    uint8_t kind;  /* img_kind */
    uint8_t flags; /* IMG_ENTRY_* */
} img_entry;

#define IMG_ENTRY_SPARSE 1u
#define IMG_ENTRY_OWNER 32u /* the archive's uid or gid is no id; the entry has 0 instead */
/* A ".." in its name or hard link target would have left the root. */
#define IMG_ENTRY_CLAMPED 64u
/* Only in directory layers. */
#define IMG_ENTRY_OPAQUE 2u /* a directory that shows nothing of the layers below */
/* link: the path in the layers below, "/from/the/root", or another name in the same directory */
#define IMG_ENTRY_REDIRECT 4u
#define IMG_ENTRY_METACOPY 8u /* a file whose contents are in the layers below */
#define IMG_ENTRY_ORIGIN 16u  /* it was copied up from a path in the layers below (see below) */

/* In the index of a directory layer, some fields of an entry have another meaning:
 *   archive_header   the number of its directory's entry; the root's is 0, the root itself
 *   archive_data     IMG_FILE: the pool offset of its img_file_record
 *                    IMG_HARDLINK: the number of the entry that has the object (link is the path of
 *                    that entry, for messages)
 *   rdev_major, rdev_minor   IMG_FILE: the low and the high half of st_blocks
 *   first_extent, n_extents  IMG_ENTRY_ORIGIN: the pool offset and the length of the origin's path
 * A directory comes before its contents, and the entries of one directory follow one another. */

/* Whom an object on the host admitted when it was scanned: as stat returned it, not as marks change
 * it. */
typedef struct img_access {
    uint32_t above; /* pool offset of its directory's img_access; IMG_NO_ACCESS: the layer's root */
    uint32_t uid, gid, mode;
    uint32_t ctime_ns;
    uint32_t acl, acl_len; /* pool offset of the access ACL's value; 0 bytes: none */
    uint32_t number;       /* of a directory: counts the layer's files and directories, from 1 */
    int64_t ctime_s;
} img_access;
#define IMG_NO_ACCESS UINT32_MAX
#define IMG_ACL_ACCESS "system.posix_acl_access"

typedef struct img_file_record { /* in the pool, not aligned: copy it before use */
    uint32_t number;             /* counts the layer's files and directories, from 1 */
    uint32_t dir;                /* pool offset of the directory's path */
    uint16_t dir_len, name_len;  /* the bytes of the name follow the record */
    uint32_t dev_major, dev_minor;
    uint64_t ino;
    img_access access;
} img_file_record;

/* Entries that differ from what the archive contains: their number, and the first of them.
 * (The header counts members that have no entry.) */
typedef struct img_oddities {
    uint64_t n_clamped, first_clamped; /* IMG_ENTRY_CLAMPED */
    uint64_t n_owner, first_owner;     /* IMG_ENTRY_OWNER */
} img_oddities;

typedef struct img_index_header {
    char magic[8];
    uint32_t version;
    uint32_t entry_size; /* sizeof(img_entry): an index with another layout is refused */
    uint64_t n_entries, n_extents, pool_bytes;
    uint64_t archive_bytes; /* offset of the end-of-archive mark, or the end of the input */
    uint64_t n_skipped;     /* members of a vendor's type, which have no entry */
    uint32_t skipped_name, skipped_len; /* the first one's name, in the pool, not normalised */
    uint64_t checksum;                  /* only in a file; 0 in memory */
} img_index_header;

typedef struct img_index {
    img_index_header head;
    const img_entry *entries;
    const img_extent *extents;
    const char *pool;
    void *block; /* not NULL: the arrays point into this anonymous mapping of block_bytes */
    size_t block_bytes;
    bool directory;   /* the layer is a directory layer */
    uint32_t n_files; /* the highest number of an img_file_record or img_access */
    img_oddities oddities;
} img_index;

/* Counts entry, whose position in the index is number, if it is odd. */
void img_oddities_count(img_oddities *oddities, const img_entry *entry, uint64_t number);

/* Frees the arrays or the mapping, and the index itself. NULL is fine. */
void img_index_free(img_index *index);

/* The key of a file with that name; 0 for an empty name. */
uint64_t img_index_key(const void *name, size_t len);

/* The header.checksum that the file of this index has. */
uint64_t img_index_checksum(const img_index *index, uint64_t key);

/* Writes the index to fd, from the current position of fd.  Errors: those of write(2). */
int img_index_write(const img_index *index, int fd, uint64_t key, img_error *err);

/* Reads the file fd; fd may be closed afterwards.  The checksum must match, which excludes damage.
 * Every offset is checked, so that no later use can leave the arrays even if an attacker made the
 * file.  The file is read and not mapped: a file that shrinks or a disk that fails must not end the
 * process (SIGBUS).  EBADMSG: not an index, another version, cut, damaged, or of another key. */
img_index *img_index_read(int fd, uint64_t key, img_error *err);

/* Frees the memory of the entries; extents and pool stay, because trees point into them. */
void img_index_drop_entries(img_index *index);

#endif
