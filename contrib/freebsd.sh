#!/bin/sh
# Type-check, lint or link the crate for FreeBSD on a Debian amd64 machine, as
# root or as an ordinary user.
#
#   sh contrib/freebsd.sh setup|check|clippy|link [more cargo arguments]
#
# link builds and links all programs and all tests (`cargo test --no-run`).
#
# A FreeBSD standard library must come from the very compiler that uses it, and
# cargo alone can get neither. Debian's rustc-web is a recent compiler with the
# sources of its library in a package beside it: those are unpacked into a
# cache, the library is built for FreeBSD once, and cargo is pointed at the two.
# C compiler, linker and C library are those of zig, from its Python package:
# of the libraries of FreeBSD 14.0 it has the headers and the list of symbols,
# so linking anything that FreeBSD 14.0 does not have is an error. The results
# are not meant to be run: on FreeBSD, build there.
#
# PETREL_FREEBSD_CACHE  directory of all of this (1 GB);
#                       ${XDG_CACHE_HOME:-$HOME/.cache}/petrel-freebsd
# Exit codes: 0 done, 1 or cargo's own: failed, 69 not supported here (see debian.sh).
set -eu

target=x86_64-unknown-freebsd
zig=0.15.2                      # the first series that has a C library of FreeBSD
zig_target=x86_64-freebsd.14.0  # the oldest one that it has
here=$(cd "$(dirname "$0")" && pwd)
mode=${1:-}
case $mode in
    setup|check|clippy|link) shift ;;
    *) sed -n '2,24s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
esac

cache=${PETREL_FREEBSD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/petrel-freebsd}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
usr=$cache/root/usr
libraries=$usr/lib/x86_64-linux-gnu
library=$usr/lib/rustlib/$target/lib

# Settings for the caller's own toolchain do not fit this one.
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

# Linker and C compiler, in $cache/zig: cc and ar.
fetch_zig() {
    rm -rf "$cache/zig"
    if ! python3 -m pip --version >/dev/null 2>&1; then
        sh "$here/debian.sh" "$cache/pip" python3 python3-pip
        PATH=$PATH:$cache/pip/bin
        export PYTHONPATH="$cache/pip/root/usr/lib/python3/dist-packages"
    fi
    python3 -m pip install --quiet --root-user-action=ignore --disable-pip-version-check --no-cache-dir --no-deps \
        --target "$cache/zig" "ziglang==$zig"
    # rustc and ring name the target and the machine in words of their own. What
    # zig adds by itself to find undefined behaviour is not in FreeBSD's libraries.
    cat >"$cache/zig/cc" <<WRAPPER
#!/bin/bash
for word; do
    shift
    case \$word in --target=* | -m64) ;; *) set -- "\$@" "\$word" ;; esac
done
exec "$cache/zig/ziglang/zig" cc -target $zig_target -fno-sanitize=all -L"$cache/zig/empty" "\$@"
WRAPPER
    cat >"$cache/zig/ar" <<WRAPPER
#!/bin/sh
exec "$cache/zig/ziglang/zig" ar "\$@"
WRAPPER
    chmod +x "$cache/zig/cc" "$cache/zig/ar"
    # The libc crate names these, and the crate uses nothing of them: they are
    # empty, so it cannot.
    mkdir "$cache/zig/empty"
    for name in devstat kvm memstat procstat; do
        "$cache/zig/cc" -shared -nostdlib -o "$cache/zig/empty/lib$name.so" -x c /dev/null
    done
}

export ZIG_GLOBAL_CACHE_DIR="$cache/zig-cache" ZIG_LOCAL_CACHE_DIR="$cache/zig-cache"
(
    flock 9
    if [ ! -e "$cache/ready" ]; then
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
    fi
    if [ "$(cat "$cache/zig/version" 2>/dev/null)" != "$zig $zig_target" ]; then
        echo "freebsd.sh: fetching a linker, about 100 MB" >&2
        fetch_zig
        echo "$zig $zig_target" >"$cache/zig/version"
    fi
) 9>"$cache/lock"

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/freebsd"
export CC_x86_64_unknown_freebsd="$cache/zig/cc" AR_x86_64_unknown_freebsd="$cache/zig/ar"
export CARGO_TARGET_X86_64_UNKNOWN_FREEBSD_LINKER="$cache/zig/cc"
case $mode in
    setup) ;;
    check) cargo check --target $target "$@" ;;
    clippy) SYSROOT=$usr LD_LIBRARY_PATH=$libraries "$usr/bin/cargo-clippy" clippy --target $target "$@" ;;
    # Without debugging information, which nobody would read, it is half the work.
    link) CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 cargo test --no-run --target $target "$@" ;;
esac
