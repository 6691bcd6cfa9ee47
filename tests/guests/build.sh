#!/bin/sh
# Builds every test guest for both tenders: OUTDIR/NAME.spt and OUTDIR/NAME.hvt.
# usage: build.sh OUTDIR        (environment: CC)
#
# Safe to run twice at once: each run builds in a directory of its own and renames.
set -eu

[ $# -eq 1 ] || { echo "usage: build.sh OUTDIR" >&2; exit 64; }
case $(uname -m) in
x86_64 | amd64) ;;
*) echo "build.sh: the test guests are written for x86_64, not $(uname -m)" >&2; exit 69 ;;
esac

CC=${CC:-cc}
FLAGS="-std=gnu11 -O2 -Wall -Wextra -ffreestanding -nostdlib -static -no-pie -fno-pic
 -mgeneral-regs-only -mno-red-zone -fno-stack-protector -fcf-protection=none
 -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns"
LINK="-Wl,-T,guest.lds -Wl,-z,max-page-size=0x1000 -Wl,-z,norelro -Wl,--build-id=none"

mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")"

stamp=$({ echo "$CC $FLAGS $LINK"; cat ./*.c guest.h guest.lds build.sh; } | cksum)
if [ "$(cat "$out/.stamp" 2>/dev/null || :)" = "$stamp" ]; then
    exit 0
fi

work=$(mktemp -d "$out/.build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# link NAME SOURCE [FLAG...]
link() {
    name=$1 source=$2
    shift 2
    # shellcheck disable=SC2086
    $CC $FLAGS "$@" -c "$source" -o "$work/$name.o"
    for abi in spt hvt; do
        # shellcheck disable=SC2086
        $CC $FLAGS $LINK "$work/$name.o" "$work/abi-$abi.o" "$work/common.o" -o "$work/$name.$abi"
    done
}

for part in common abi-spt abi-hvt; do
    # shellcheck disable=SC2086
    $CC $FLAGS -c "$part.c" -o "$work/$part.o"
done
for name in hello forever flood fault devices; do
    link "$name" "$name.c"
done
link net devices.c -DNET_ONLY
link nets devices.c -DTWO_NETS
link block devices.c -DBLOCK_ONLY

for image in "$work"/*.spt "$work"/*.hvt; do
    mv -f "$image" "$out/"
done
echo "$stamp" > "$work/stamp"
mv -f "$work/stamp" "$out/.stamp"
