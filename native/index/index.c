#include "index/index.h"

#include "base/checksum.h"
#include "base/interrupt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(sizeof(img_index_header) % 8 == 0, "entries are aligned behind the header");
_Static_assert(sizeof(img_entry) % 8 == 0, "extents are aligned behind the entries");
_Static_assert((IMG_ENTRY_SPARSE | IMG_ENTRY_OWNER | IMG_ENTRY_CLAMPED | IMG_ENTRY_OPAQUE |
                IMG_ENTRY_REDIRECT | IMG_ENTRY_METACOPY | IMG_ENTRY_ORIGIN) ==
                   IMG_ENTRY_SPARSE + IMG_ENTRY_OWNER + IMG_ENTRY_CLAMPED + IMG_ENTRY_OPAQUE +
                       IMG_ENTRY_REDIRECT + IMG_ENTRY_METACOPY + IMG_ENTRY_ORIGIN,
               "each flag has a bit of its own");

#define PIECE ((size_t)16 << 20) /* bytes of one read or write; signals are noticed in between */
enum { NS_PER_S = 1000000000, RECORD_HEAD = sizeof(uint16_t) + sizeof(uint32_t) };

void img_index_free(img_index *index) {
    if (!index)
        return;
    if (index->block) {
        munmap(index->block, index->block_bytes);
    } else {
        free((void *)index->entries);
        free((void *)index->extents);
        free((void *)index->pool);
    }
    free(index);
}

void img_oddities_count(img_oddities *oddities, const img_entry *entry, uint64_t number) {
    if (entry->flags & IMG_ENTRY_CLAMPED && oddities->n_clamped++ == 0)
        oddities->first_clamped = number;
    if (entry->flags & IMG_ENTRY_OWNER && oddities->n_owner++ == 0)
        oddities->first_owner = number;
}

static int write_all(int fd, const void *data, uint64_t size, img_error *err) {
    const char *at = data;
    while (size) {
        size_t piece = size < PIECE ? (size_t)size : PIECE;
        if (img_interrupted(IMG_IO_STEP, err) < 0)
            return -1;
        ssize_t written = write(fd, at, piece);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return img_fail(err, errno, "cannot write the index: %s", strerror(errno));
        at += written;
        size -= (uint64_t)written;
    }
    return 0;
}

uint64_t img_index_key(const void *name, size_t len) {
    return len ? img_checksum(name, len, 0) : 0;
}

uint64_t img_index_checksum(const img_index *index, uint64_t key) {
    img_index_header head = index->head;
    head.checksum = 0;
    uint64_t sum = img_checksum(&head, sizeof head, key);
    sum = img_checksum(index->entries, (size_t)head.n_entries * sizeof(img_entry), sum);
    sum = img_checksum(index->extents, (size_t)head.n_extents * sizeof(img_extent), sum);
    return img_checksum(index->pool, (size_t)head.pool_bytes, sum);
}

int img_index_write(const img_index *index, int fd, uint64_t key, img_error *err) {
    const img_index_header *head = &index->head;
    img_index_header summed = *head;
    summed.checksum = img_index_checksum(index, key);
    if (write_all(fd, &summed, sizeof summed, err) < 0 ||
        write_all(fd, index->entries, head->n_entries * sizeof(img_entry), err) < 0 ||
        write_all(fd, index->extents, head->n_extents * sizeof(img_extent), err) < 0)
        return -1;
    return write_all(fd, index->pool, head->pool_bytes, err);
}

/* Sets the pointers to the arrays in a file with this header; false if its size is not `size`. */
static bool lay_out(img_index *index, const char *base, uint64_t size) {
    const img_index_header *head = &index->head;
    if (head->n_entries > IMG_ENTRIES_MAX || head->n_extents > UINT32_MAX ||
        head->pool_bytes > IMG_INDEX_BYTES_MAX)
        return false; /* with larger numbers, the sums below could overflow */
    uint64_t entries = sizeof *head;
    uint64_t extents = entries + head->n_entries * sizeof(img_entry);
    uint64_t pool = extents + head->n_extents * sizeof(img_extent);
    index->entries = (const img_entry *)(base + entries);
    index->extents = (const img_extent *)(base + extents);
    index->pool = base + pool;
    return pool + head->pool_bytes == size;
}

static bool in_pool(const img_index *index, uint32_t at, uint32_t len) {
    return (uint64_t)at + len <= index->head.pool_bytes;
}

static bool xattrs_hold(const img_index *index, const img_entry *entry) {
    uint64_t at = entry->xattrs, end = index->head.pool_bytes;
    if (entry->n_xattrs > IMG_XATTRS_MAX)
        return false;
    for (uint32_t i = 0; i < entry->n_xattrs; i++) {
        uint16_t name_len;
        uint32_t value_len;
        if (at + RECORD_HEAD > end)
            return false;
        memcpy(&name_len, index->pool + at, sizeof name_len);
        memcpy(&value_len, index->pool + at + sizeof name_len, sizeof value_len);
        at += RECORD_HEAD + (uint64_t)name_len + value_len;
        if (at > end || name_len == 0 || value_len > IMG_XATTR_VALUE_MAX)
            return false;
    }
    return true;
}

static bool in_archive(const img_index *index, uint64_t at, uint64_t len) {
    uint64_t end = index->head.archive_bytes;
    return at <= end && len <= end - at;
}

static bool contents_hold(const img_index *index, const img_entry *entry) {
    if (entry->size > INT64_MAX)
        return false;
    if (!(entry->flags & IMG_ENTRY_SPARSE))
        return entry->n_extents == 0 &&
               (entry->size == 0 || in_archive(index, entry->archive_data, entry->size));
    uint64_t first = entry->first_extent, end = 0;
    if (first + entry->n_extents > index->head.n_extents)
        return false;
    for (const img_extent *extent = index->extents + first, *stop = extent + entry->n_extents;
         extent < stop; extent++) {
        if (extent->length == 0 || extent->file_offset < end || extent->file_offset > entry->size ||
            extent->length > entry->size - extent->file_offset ||
            !in_archive(index, extent->archive_offset, extent->length))
            return false;
        end = extent->file_offset + extent->length;
    }
    return true;
}

/* True if a tree may have a name like this. */
static bool component_holds(const char *name, size_t len) {
    if (len == 0 || len > IMG_NAME_MAX || memchr(name, '/', len) || memchr(name, 0, len))
        return false;
    return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

static bool path_holds(const char *path, size_t len) {
    const char *end = path + len;
    if (len == 0)
        return true;
    if (len > IMG_PATH_BYTES_MAX)
        return false;
    for (;;) {
        const char *slash = memchr(path, '/', (size_t)(end - path));
        if (!component_holds(path, (size_t)((slash ? slash : end) - path)))
            return false;
        if (!slash)
            return true;
        path = slash + 1;
    }
}

static bool names_hold(const img_index *index, const img_entry *entry, const img_entry *before) {
    if (!in_pool(index, entry->dir, entry->dir_len) ||
        !in_pool(index, entry->name, entry->name_len) ||
        !in_pool(index, entry->link, entry->link_len) || entry->link_len > IMG_LINK_BYTES_MAX)
        return false;
    if (entry->name_len == 0)
        return entry->dir_len == 0 && entry->kind == IMG_DIR;
    bool same_dir = before && before->dir == entry->dir && before->dir_len == entry->dir_len;
    const char *name = index->pool + entry->name;
    /* Of a whiteout the hidden name counts: with its prefix it may be longer than a name. */
    size_t prefix = entry->name_len > IMG_NAME_MAX && memcmp(name, ".wh.", 4) == 0 ? 4 : 0;
    if (!component_holds(name + prefix, entry->name_len - prefix) ||
        (!same_dir && !path_holds(index->pool + entry->dir, entry->dir_len)))
        return false;
    const char *link = index->pool + entry->link;
    if (entry->kind == IMG_HARDLINK)
        return entry->link_len != 0 && path_holds(link, entry->link_len);
    return (entry->kind == IMG_SYMLINK) == (entry->link_len != 0) &&
           !memchr(link, 0, entry->link_len);
}

static mode_t type_of(uint8_t kind) {
    static const mode_t types[] = {
        [IMG_FILE] = S_IFREG, [IMG_DIR] = S_IFDIR,   [IMG_SYMLINK] = S_IFLNK, [IMG_HARDLINK] = 0,
        [IMG_CHAR] = S_IFCHR, [IMG_BLOCK] = S_IFBLK, [IMG_FIFO] = S_IFIFO,
    };
    return types[kind];
}

static bool entry_holds(const img_index *index, const img_entry *entry, const img_entry *before) {
    const unsigned odd = IMG_ENTRY_CLAMPED | IMG_ENTRY_OWNER;
    if (entry->kind < IMG_FILE || entry->kind > IMG_FIFO ||
        (entry->flags & ~(IMG_ENTRY_SPARSE | odd)))
        return false;
    if ((entry->mode & ~07777u) != type_of(entry->kind))
        return false;
    if (entry->mtime_ns >= NS_PER_S || entry->atime_ns >= NS_PER_S || entry->ctime_ns >= NS_PER_S)
        return false;
    if (entry->kind != IMG_FILE &&
        (entry->size || entry->n_extents || entry->flags & IMG_ENTRY_SPARSE))
        return false;
    return names_hold(index, entry, before) && xattrs_hold(index, entry) &&
           contents_hold(index, entry);
}

static int check(img_index *index, const char *base, uint64_t size, uint64_t key, img_error *err) {
    if (memcmp(index->head.magic, IMG_INDEX_MAGIC, sizeof index->head.magic) != 0)
        return img_fail(err, EBADMSG, "not an index");
    if (index->head.version != IMG_INDEX_VERSION || index->head.entry_size != sizeof(img_entry))
        return img_fail(err, EBADMSG, "an index of another version");
    if (!lay_out(index, base, size) ||
        !in_pool(index, index->head.skipped_name, index->head.skipped_len))
        return img_fail(err, EBADMSG, "an index that is cut or has grown");
    if (img_index_checksum(index, key) != index->head.checksum)
        return img_fail(err, EBADMSG, "damaged, or of another name: its checksum is another");
    for (uint64_t i = 0; i < index->head.n_entries; i++) {
        if (img_interrupted(1, err) < 0)
            return -1;
        if (!entry_holds(index, &index->entries[i], i ? &index->entries[i - 1] : NULL))
            return img_fail(err, EBADMSG, "a damaged index, entry %llu", (unsigned long long)i);
        img_oddities_count(&index->oddities, &index->entries[i], i);
    }
    return 0;
}

static int read_all(int fd, char *at, size_t size, img_error *err) {
    for (off_t offset = 0; size;) {
        if (img_interrupted(IMG_IO_STEP, err) < 0)
            return -1;
        ssize_t n = pread(fd, at, size < PIECE ? size : PIECE, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return img_fail(err, errno, "cannot read the index: %s", strerror(errno));
        if (n == 0)
            return img_fail(err, EBADMSG, "an index that is cut");
        at += n;
        offset += n;
        size -= (size_t)n;
    }
    return 0;
}

img_index *img_index_read(int fd, uint64_t key, img_error *err) {
    struct stat st;
    err->offset = 0;
    err->member[0] = 0;
    if (fstat(fd, &st) < 0) {
        img_fail(err, errno, "cannot look at the index: %s", strerror(errno));
        return NULL;
    }
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < sizeof(img_index_header)) {
        img_fail(err, EBADMSG, "not an index");
        return NULL;
    }
    size_t size = (size_t)st.st_size;
    char *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    img_index *index = calloc(1, sizeof *index);
    if (block == MAP_FAILED || !index) {
        if (block != MAP_FAILED)
            munmap(block, size);
        free(index);
        img_fail(err, ENOMEM, "out of memory");
        return NULL;
    }
    index->block = block;
    index->block_bytes = size;
    if (read_all(fd, block, size, err) == 0) {
        memcpy(&index->head, block, sizeof index->head);
        if (check(index, block, size, key, err) == 0) {
            index->head.checksum = 0;
            return index;
        }
    }
    img_index_free(index);
    return NULL;
}

void img_index_drop_entries(img_index *index) {
    size_t bytes = (size_t)index->head.n_entries * sizeof(img_entry);
    index->head.n_entries = 0;
    if (!index->block) {
        free((void *)index->entries);
    } else {
        uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = (uintptr_t)index->entries;
        uintptr_t first = (start + page - 1) & ~(page - 1), last = (start + bytes) & ~(page - 1);
        if (first < last)
            (void)madvise((void *)first, last - first, MADV_DONTNEED); /* only saves memory */
    }
    index->entries = NULL;
}
