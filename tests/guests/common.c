#include "guest.h"

static char buffer[8400];
static size_t used;

void abi_start(const void *boot_info);
_Noreturn void guest_start(const void *boot_info);

/* The stack pointer is call-like at entry; align it again to be sure. */
__asm__(".section .text.start,\"ax\",@progbits\n"
        ".globl _start\n"
        "_start:\n"
        "\txor %ebp, %ebp\n"
        "\tand $-16, %rsp\n"
        "\tcall guest_start\n"
        "\tud2\n"
        ".text\n");

_Noreturn void guest_start(const void *boot_info)
{
    abi_start(boot_info);
    guest_exit(guest_main());
}

void text(const char *s)
{
    while (*s != 0 && used < sizeof buffer - 1)
        buffer[used++] = *s++;
}

void number(uint64_t n)
{
    char digits[21];
    size_t i = sizeof digits - 1;

    digits[i] = 0;
    do
        digits[--i] = (char)('0' + n % 10);
    while ((n /= 10) != 0);
    text(digits + i);
}

void hex(uint64_t n, int digits)
{
    while (digits-- > 0) {
        char digit[2] = { "0123456789abcdef"[(n >> (4 * digits)) & 15], 0 };
        text(digit);
    }
}

void end_line(void)
{
    buffer[used++] = '\n';
    console_write(buffer, used);
    used = 0;
}

void line(const char *s)
{
    text(s);
    end_line();
}

const char *argument(const char *prefix)
{
    const char *word = command_line();

    for (;;) {
        size_t i = 0;
        while (prefix[i] != 0 && word[i] == prefix[i])
            i++;
        if (prefix[i] == 0)
            return word + i;
        while (*word != 0 && *word != ' ')
            word++;
        if (*word == 0)
            return NULL;
        word++;
    }
}

uint64_t argument_number(const char *prefix, uint64_t otherwise)
{
    const char *s = argument(prefix);
    uint64_t n = 0;

    if (s == NULL)
        return otherwise;
    while (*s >= '0' && *s <= '9')
        n = n * 10 + (uint64_t)(*s++ - '0');
    return n;
}

int is_word(const char *s, const char *word)
{
    while (*word != 0 && *s == *word)
        s++, word++;
    return *word == 0 && (*s == 0 || *s == ' ');
}

uint32_t device(const char *name, uint32_t type)
{
    const struct manifest *m = manifest();

    for (uint32_t i = 1; i < m->entries; i++)
        if (m->entry[i].type == type && is_word(m->entry[i].name, name))
            return i;
    return 0;
}

void *memcpy(void *to, const void *from, size_t n)
{
    char *t = to;
    const char *f = from;

    while (n-- > 0)
        *t++ = *f++;
    return to;
}

void *memset(void *to, int byte, size_t n)
{
    char *t = to;

    while (n-- > 0)
        *t++ = (char)byte;
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const unsigned char *x = a, *y = b;

    for (; n > 0; n--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}
