/* Prints "ready", then a tick now and then until it is killed: [--interval-ms=N]. */
#include "guest.h"

MANIFEST();

int guest_main(void)
{
    uint64_t interval = argument_number("--interval-ms=", 1000) * 1000000;

    line("ready");
    for (uint64_t tick = 1;; tick++) {
        wait_ns(interval);
        text("tick ");
        number(tick);
        end_line();
    }
}
