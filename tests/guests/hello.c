/* Prints a few lines and exits: [--lines=N] [--exit=STATUS]. */
#include "guest.h"

MANIFEST();

int guest_main(void)
{
    int status = (int)argument_number("--exit=", 0);
    uint64_t lines = argument_number("--lines=", 0);

    text("hello from an ");
    text(abi_name);
    line(" guest");
    text("memory: ");
    number(memory_size() >> 20);
    line(" MiB");
    text("command line: ");
    line(command_line());
    for (uint64_t i = 1; i <= lines; i++) {
        text("line ");
        number(i);
        end_line();
    }
    text("bye: exit ");
    number((uint64_t)status);
    end_line();
    return status;
}
