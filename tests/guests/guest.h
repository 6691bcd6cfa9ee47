/*
 * What a test guest may use. The same guest source is linked once against
 * abi-spt.c and once against abi-hvt.c; only those two know the tender.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stddef.h>
#include <stdint.h>

/* Notes: every guest states its devices with one MANIFEST(...) line. */

#define TYPE_BLOCK 1u
#define TYPE_NET 2u
#define TYPE_RESERVED 0x40000000u

struct entry {
    char name[68];
    uint32_t type;
    union {
        struct { uint8_t mac[6]; uint16_t mtu; } net;
        struct { uint64_t capacity; uint16_t block_size; } block;
        uint8_t size[16];
    } u;
    int32_t host_fd;
    uint32_t host_fd_pad;
    uint8_t attached;
    uint8_t pad[7];
} __attribute__((packed, aligned(4)));

struct manifest {
    uint32_t version;
    uint32_t entries;
    struct entry entry[];
};

#define NET(NAME) { .name = NAME, .type = TYPE_NET }
#define BLOCK(NAME) { .name = NAME, .type = TYPE_BLOCK }

#define MANIFEST(...)                                                         \
    static const struct {                                                     \
        uint32_t name_size, size, type;                                       \
        char name[8];                                                         \
        uint32_t pad, version, entries;                                       \
        struct entry entry[sizeof((struct entry[]){ __VA_ARGS__ }) / 104 + 1];\
    } manifest_note __attribute__((used, aligned(4),                          \
                                   section(".note.solo5.manifest"))) = {      \
        6, sizeof manifest_note - 20, 0x3154464d, "Solo5", 0, 1,              \
        sizeof manifest_note.entry / 104,                                     \
        { { .type = TYPE_RESERVED }, __VA_ARGS__ }                            \
    }

/* The tender's side: abi-spt.c or abi-hvt.c. Return 0 for success. */

extern const char abi_name[];

uint64_t memory_size(void);
const char *command_line(void);
const struct manifest *manifest(void);

void console_write(const char *text, size_t length);
_Noreturn void guest_exit(int status);
/* Sleeps until a frame arrives or `ns` nanoseconds went by. */
void wait_ns(uint64_t ns);
/* The length of a frame, 0 when there is none, or negative. */
long net_read(uint32_t handle, void *frame, size_t size);
int net_write(uint32_t handle, const void *frame, size_t length);
int block_read(uint32_t handle, uint64_t offset, void *block, size_t length);
int block_write(uint32_t handle, uint64_t offset, const void *block, size_t length);

/* The guest's side: common.c calls guest_main and exits with its result. */

int guest_main(void);

/* A line is collected and leaves in one console call. */
void text(const char *s);
void number(uint64_t n);
void hex(uint64_t n, int digits);
void end_line(void);
void line(const char *s);

/* What follows `prefix` (such as "--exit=") in the command line, or NULL. */
const char *argument(const char *prefix);
uint64_t argument_number(const char *prefix, uint64_t otherwise);
int is_word(const char *s, const char *word);

/* Index in the manifest, 0 when there is no such device. */
uint32_t device(const char *name, uint32_t type);

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);

#endif
