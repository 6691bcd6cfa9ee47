/* spt, ABI version 2: raw Linux system calls in the tender's own process. */
#include "guest.h"

struct boot_info {
    uint64_t memory_size;
    uint64_t kernel_end;
    const char *command_line;
    const struct manifest *manifest;
    int32_t epoll_fd;
    int32_t timer_fd;
};

static const struct {
    uint32_t name_size, size, type;
    char name[8];
    uint32_t target, version, reserved[2];
} abi_note __attribute__((used, aligned(4), section(".note.solo5.abi"))) = {
    6, 16, 0x31494241, "Solo5", 2, 2, { 0, 0 }
};

const char abi_name[] = "spt";
static struct boot_info boot;

void abi_start(const void *boot_info);

static long system_call(long nr, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
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
    while (length > 0) {
        long n = system_call(1, 1, (long)text, (long)length, 0, 0, 0);
        if (n == -4)
            continue;
        if (n <= 0)
            return;
        text += n;
        length -= (size_t)n;
    }
}

_Noreturn void guest_exit(int status)
{
    for (;;)
        system_call(231, status, 0, 0, 0, 0, 0);
}

void wait_ns(uint64_t ns)
{
    /* A zero expiry would disarm the timer. */
    uint64_t timer[4] = { 0, 0, ns / 1000000000, ns % 1000000000 | 1 };
    struct { uint32_t events; uint64_t data; } __attribute__((packed)) events[64];

    system_call(286, boot.timer_fd, 0, (long)timer, 0, 0, 0);
    while (system_call(281, boot.epoll_fd, (long)events, 64, -1, 0, 0) == -4)
        ;
}

static long host_fd(uint32_t handle)
{
    return boot.manifest->entry[handle].host_fd;
}

long net_read(uint32_t handle, void *frame, size_t size)
{
    long n = system_call(0, host_fd(handle), (long)frame, (long)size, 0, 0, 0);
    return n == -11 ? 0 : n;
}

int net_write(uint32_t handle, const void *frame, size_t length)
{
    long n = system_call(1, host_fd(handle), (long)frame, (long)length, 0, 0, 0);
    return n != (long)length;
}

int block_read(uint32_t handle, uint64_t offset, void *block, size_t length)
{
    long n = system_call(17, host_fd(handle), (long)block, (long)length, (long)offset, 0, 0);
    return n != (long)length;
}

int block_write(uint32_t handle, uint64_t offset, const void *block, size_t length)
{
    long n = system_call(18, host_fd(handle), (long)block, (long)length, (long)offset, 0, 0);
    return n != (long)length;
}
