#!/bin/sh
# Type-check or lint the crate for FreeBSD on a Debian amd64 machine, as root or
# as an ordinary user.
#
#   sh contrib/freebsd.sh setup|check|clippy [more cargo arguments]
#
# A FreeBSD standard library must come from the very compiler that uses it, and
# cargo alone can get neither. Debian's rustc-web is a recent compiler with the
# sources of its library in a package beside it: those are unpacked into a
# cache, the library is built for FreeBSD once, and cargo is pointed at the two.
# Nothing is linked: the C code of ring's build script is compiled for the host
# and thrown away, so no FreeBSD linker or C library is needed.
#
# PETREL_FREEBSD_CACHE  where the compiler is kept (600 MB);
#                       ${XDG_CACHE_HOME:-$HOME/.cache}/petrel-freebsd
# Exit codes: 0 done, 1 or cargo's own: failed, 69 this machine cannot (see debian.sh).
set -eu

target=x86_64-unknown-freebsd
here=$(cd "$(dirname "$0")" && pwd)
mode=${1:-}
case $mode in
    setup|check|clippy) shift ;;
    *) sed -n '2,18s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
esac

cache=${PETREL_FREEBSD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/petrel-freebsd}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
usr=$cache/root/usr
libraries=$usr/lib/x86_64-linux-gnu
library=$usr/lib/rustlib/$target/lib

# What the caller's own toolchain would add does not fit this one.
unset RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET
export RUSTC="$cache/rustc"

build_library() {
    sources=$(echo "$usr"/src/rustc-*/library)
    # As an rlib only: its shared form would need a FreeBSD linker.
    sed -i 's/^crate-type = .*/crate-type = ["rlib"]/' "$sources/std/Cargo.toml"
    RUSTC_BOOTSTRAP=1 __CARGO_DEFAULT_LIB_METADATA=stablestd CARGO_INCREMENTAL=0 \
    CARGO_TARGET_DIR="$cache/build" RUSTFLAGS=-Zforce-unstable-if-unmarked \
        cargo build --quiet --release --locked --target $target \
            --manifest-path "$sources/sysroot/Cargo.toml" --features panic-unwind,backtrace
    mkdir -p "$library"
    cp "$cache/build/$target/release/deps/"*.rlib "$library"
    rm -rf "$cache/build" "$usr/src"
}

(
    flock 9
    [ -e "$cache/ready" ] && exit
    echo "freebsd.sh: fetching a compiler, about 150 MB" >&2
    rm -f "$cache/packages"
    sh "$here/debian.sh" "$cache" rustc-web rust-web-clippy rust-web-src
    cat >"$RUSTC" <<WRAPPER
#!/bin/bash
LD_LIBRARY_PATH=$libraries exec "$usr/bin/rustc" --sysroot "$usr" "\$@"
WRAPPER
    chmod +x "$RUSTC"
    echo "freebsd.sh: building the standard library for $target" >&2
    build_library
    touch "$cache/ready"
) 9>"$cache/lock"

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/freebsd"
case $mode in
    setup) ;;
    check) cargo check --target $target "$@" ;;
    clippy) SYSROOT=$usr LD_LIBRARY_PATH=$libraries "$usr/bin/cargo-clippy" clippy --target $target "$@" ;;
esac
