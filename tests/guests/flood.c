/* Prints numbered lines as fast as it can: [--lines=N] (0, the default: for ever). */
#include "guest.h"

MANIFEST();

int guest_main(void)
{
    uint64_t lines = argument_number("--lines=", 0);

    for (uint64_t i = 1; lines == 0 || i <= lines; i++) {
        text("flood ");
        number(i);
        text(" the quick brown fox jumps over the lazy dog");
        end_line();
    }
    return (int)argument_number("--exit=", 0);
}
