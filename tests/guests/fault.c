/* Does what a guest must not do: --how=null|unmapped|ud2|divide|write-text|exec-data|syscall|return. */
#include "guest.h"

MANIFEST();

static unsigned char ret_instruction[16] = { 0xc3 };

static void fault(const char *how)
{
    volatile uint64_t zero = 0;

    if (is_word(how, "null")) {
        *(volatile uint64_t *)(zero + 8) = 1;
    } else if (is_word(how, "unmapped")) {
        *(volatile uint64_t *)(zero + (1ul << 34)) = 1;
    } else if (is_word(how, "ud2")) {
        __asm__ volatile("ud2");
    } else if (is_word(how, "divide")) {
        __asm__ volatile("xor %%edx, %%edx\n\tdivq %0" : : "r"(zero), "a"(1ul) : "rdx");
    } else if (is_word(how, "write-text")) {
        *(volatile unsigned char *)(uintptr_t)guest_main = 0xcc;
    } else if (is_word(how, "exec-data")) {
        ((void (*)(void))(uintptr_t)ret_instruction)();
    } else if (is_word(how, "syscall")) {
        /* 39 is Linux's getpid: harmless, and not among the allowed ones. */
        __asm__ volatile("syscall" : : "a"(39ul) : "rcx", "r11", "memory");
    } else if (is_word(how, "return")) {
        __asm__ volatile("mov %0, %%rsp\n\tret" : : "r"(memory_size() - 8));
    } else {
        line("fault: unknown --how");
        guest_exit(64);
    }
}

int guest_main(void)
{
    const char *how = argument("--how=");

    if (how == NULL)
        how = "null";
    line("fault: now");
    fault(how);
    line("fault: survived");
    return 0;
}
