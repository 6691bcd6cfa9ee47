/* hvt, ABI version 2: hypercalls by a 32-bit out to port 0x500 + number. */
#include "guest.h"

struct boot_info {
    uint64_t memory_size;
    uint64_t kernel_end;
    uint64_t cycles_per_second;
    const char *command_line;
    const struct manifest *manifest;
};

static const struct {
    uint32_t name_size, size, type;
    char name[8];
    uint32_t target, version, reserved[2];
} abi_note __attribute__((used, aligned(4), section(".note.solo5.abi"))) = {
    6, 16, 0x31494241, "Solo5", 1, 2, { 0, 0 }
};

enum { PUTS = 2, POLL, BLOCK_WRITE, BLOCK_READ, NET_WRITE, NET_READ, HALT };
enum { AGAIN = 1 };

const char abi_name[] = "hvt";
static struct boot_info boot;

void abi_start(const void *boot_info);

/* Guest memory lies below 4 GiB, so an address fits the port's 32 bits. */
static void hypercall(uint16_t number, volatile void *arguments)
{
    uint16_t port = (uint16_t)(0x500 + number);
    uint32_t address = (uint32_t)(uintptr_t)arguments;

    __asm__ volatile("outl %0, %1" : : "a"(address), "d"(port) : "memory");
}

void abi_start(const void *boot_info)
{
    memcpy(&boot, boot_info, sizeof boot);
}

uint64_t memory_size(void)
{
    return boot.memory_size;
}

const char *command_line(void)
{
    return boot.command_line;
}

const struct manifest *manifest(void)
{
    return boot.manifest;
}

void console_write(const char *text, size_t length)
{
    volatile struct { const char *data; uint64_t length; } call = { text, length };
    hypercall(PUTS, &call);
}

_Noreturn void guest_exit(int status)
{
    volatile struct { uint64_t cookie; int32_t status; } call = { 0, status };

    for (;;)
        hypercall(HALT, &call);
}

void wait_ns(uint64_t ns)
{
    volatile struct { uint64_t timeout, ready; int32_t result; } call = { ns, 0, 0 };
    hypercall(POLL, &call);
}

long net_read(uint32_t handle, void *frame, size_t size)
{
    volatile struct { uint64_t handle; void *data; uint64_t length; int32_t result; }
        call = { handle, frame, size, 0 };

    hypercall(NET_READ, &call);
    if (call.result == AGAIN)
        return 0;
    return call.result == 0 ? (long)call.length : -call.result;
}

int net_write(uint32_t handle, const void *frame, size_t length)
{
    volatile struct { uint64_t handle; const void *data; uint64_t length; int32_t result; }
        call = { handle, frame, length, 0 };

    hypercall(NET_WRITE, &call);
    return call.result;
}

int block_read(uint32_t handle, uint64_t offset, void *block, size_t length)
{
    volatile struct { uint64_t handle, offset; void *data; uint64_t length; int32_t result; }
        call = { handle, offset, block, length, 0 };

    hypercall(BLOCK_READ, &call);
    return call.result;
}

int block_write(uint32_t handle, uint64_t offset, const void *block, size_t length)
{
    volatile struct { uint64_t handle, offset; const void *data; uint64_t length; int32_t result; }
        call = { handle, offset, block, length, 0 };

    hypercall(BLOCK_WRITE, &call);
    return call.result;
}
