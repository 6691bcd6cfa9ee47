#!/bin/sh
# The project's checks, in a fresh clone, as root or as an ordinary user:
#
#   sh contrib/check.sh             every step
#   sh contrib/check.sh quick       format, clippy and unit: while editing
#   sh contrib/check.sh STEP...     these steps, in this order
#   sh contrib/check.sh --list      names of the steps
#
# Rust (see https://rustup.rs) with rustfmt and clippy, and a C compiler are
# required. On Debian amd64 the other programs that the tests use are unpacked
# (not installed) into a cache, ${XDG_CACHE_HOME:-$HOME/.cache}/petrel-check,
# and compiler and linker for FreeBSD into another (see freebsd.sh). Elsewhere,
# what needs a program that is not on PATH is skipped.
#
# A test that cannot run here prints one line that starts with "SKIPPED: " and
# names what was skipped and why, and passes. The summary repeats these lines.
#
# Exit codes: 0 every step passed, 1 a step failed, 64 unknown step.
set -eu
cd "$(dirname "$0")/.."

# Names and titles, in the order of the whole check. "unit" is part of "tests".
list_steps() {
    cat <<'END'
format   formatting
clippy   lints
docs     documentation of the code, without warnings
unit     unit tests of the pure modules (part of "tests")
shell    shell scripts
fuzz     fuzz targets over their seeds
tests    all tests
symbols  no TLS and X.509 code in petreld and petrel-influx, no code that makes keys in petrel-tls
size     size of the release binaries
msrv     the oldest supported Rust
freebsd  types, lints and the linker for FreeBSD 14.0
prose    words that the project avoids
END
}
all='format clippy docs shell fuzz tests symbols size msrv freebsd'
quick='format clippy unit'

# Modules without input, output and clock: "pure" in src/lib.rs.
pure_modules='name policy serial unikernel wire chain elf inflate manifest show supervisor'
# program:Debian package
tools='inetd:openbsd-inetd influxd:influxdb ip:iproute2 mandoc:mandoc nft:nftables nix-instantiate:nix-bin openssl:openssl promtool:prometheus socat:socat shellcheck:shellcheck systemd-analyze:systemd'
# Packages that conflict with one of the above.
rivals='inetutils-inetd:inetutils-inetd xinetd:xinetd'
size_limit=2621440          # bytes, each release binary
target=${CARGO_TARGET_DIR:-target}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/petrel-check
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
unset RUSTFLAGS CARGO_BUILD_TARGET

fail() { printf 'check: %s\n' "$*" >&2; exit 1; }
# shellcheck source=contrib/lib.sh disable=SC1091
. contrib/lib.sh

case ${1:-} in
    --list) list_steps; exit ;;
    --help | -h) sed -n '2,19s/^# \{0,1\}//p' "$0"; exit ;;
    quick) shift; chosen="$quick $*" ;;
    '') chosen=$all ;;
    *) chosen=$* ;;
esac
for name in $chosen; do
    list_steps | grep -q "^$name " && continue
    printf "check: unknown step '%s'; --list shows them\n" "$name" >&2
    exit 64
done

started=$(date +%s)
elapsed() { echo $(($(date +%s) - started)); }
number=0
begin_step() {
    number=$((number + 1))
    current=$1
    printf '\n== %d. %s (after %d s)\n' "$number" "$current" "$(elapsed)"
}
skip() { printf '%s\n' "$*" | tee -a "$scratch/skipped"; }

scratch=$(mktemp -d)
: >"$scratch/skipped"
finish() {
    code=$?
    rm -rf "$scratch"
    [ $code = 0 ] || printf '\ncheck: FAILED in step %d, %s, after %d s\n' "$number" "$current" "$(elapsed)" >&2
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

# fetch DIRECTORY PACKAGE...: puts the programs of Debian packages on PATH.
fetch() {
    code=0
    sh contrib/debian.sh "$@" || code=$?
    case $code in
        0) PATH=$PATH:$1/bin ;;
        69) skip "tests that need $*: not installed, and this is not Debian amd64" ;;
        *) fail "cannot fetch $*" ;;
    esac
}

# Puts the programs that the tests use on PATH, and names what this machine lacks.
find_tools() {
    missing=
    for tool in $tools; do
        command -v "${tool%:*}" || missing="$missing ${tool#*:}"
    done
    # shellcheck disable=SC2086  # one word a package
    [ -z "$missing" ] || fetch "$cache" $missing
    for tool in $rivals; do
        command -v "${tool%:*}" || fetch "$cache/${tool#*:}" "${tool#*:}"
    done
    [ "$(id -u)" = 0 ] || skip "tests that need root: taps, uids, capabilities (this is an ordinary user)"
    for device in /dev/kvm /dev/net/tun; do
        can_open "$device" || skip "tests that need $device (it is missing here or cannot be opened)"
    done
    for tender in solo5-spt solo5-hvt; do
        command -v "$tender" || skip "the guests under $tender (it is not on PATH)"
    done
}

step_format() { cargo fmt --check; }

step_clippy() { cargo clippy --locked --all-targets -- -D warnings; }

step_docs() {
    RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' cargo doc --quiet --locked --no-deps --lib --document-private-items
}

step_unit() {
    # shellcheck disable=SC2046,SC2086  # one word a module
    cargo test --quiet --locked --lib -- $(printf '%s:: ' $pure_modules) --skip supervisor::simulation
}

step_prose() { sh contrib/prose.sh; }

step_shell() {
    grep -rIlE '^#!/bin/(ba)?sh' --exclude-dir=.git --exclude-dir=target . | while IFS= read -r file; do
        case $(head -n 1 "$file") in '#!/bin/sh'* | '#!/bin/bash'*) echo "$file" ;; esac
    done >"$scratch/scripts"
    if command -v shellcheck >/dev/null; then
        cat "$scratch/scripts"
        xargs shellcheck <"$scratch/scripts"
    else
        skip "shellcheck of $(wc -l <"$scratch/scripts") scripts (it is not on PATH)"
    fi
}

step_fuzz() {
    # Without the fuzzer itself, which needs a C++ compiler and a long build: see contrib/fuzz.sh.
    fuzz="--manifest-path fuzz/Cargo.toml --target-dir $target --locked --no-default-features"
    cargo fmt --manifest-path fuzz/Cargo.toml --check
    # shellcheck disable=SC2086  # several words
    cargo clippy $fuzz --all-targets -- -D warnings
    # shellcheck disable=SC2086
    cargo test $fuzz -- --nocapture
}

step_tests() {
    { code=0; cargo test --locked -- --show-output || code=$?; echo $code >"$scratch/code"; } 2>&1 | tee "$scratch/tests"
    sed -n 's/^SKIPPED: //p' "$scratch/tests" | sort -u >>"$scratch/skipped"
    [ "$(cat "$scratch/code")" = 0 ] || fail "tests failed"
}

# holds_no PROGRAM CRATE: fails if the program has symbols of the crate.
holds_no() {
    symbol="[^0-9]${#2}$2"                  # a crate's name inside a mangled symbol
    [ "$2" != ring ] || symbol=ring_core_   # its C and assembly
    inside=$(grep -cE "$symbol" "$scratch/$1" || true)
    control=$(grep -cE "$symbol" "$scratch/petrel" || true)
    printf '%-14s %5d symbols in %s, %5d in petrel\n' "$2" "$inside" "$1" "$control"
    [ "$inside" = 0 ] || fail "$1 contains code of $2"
    [ "$control" != 0 ] || fail "no code of $2 in petrel: update the list of crates of this step"
}

step_symbols() {
    # A development build is not inlined and not stripped, so it shows the most symbols. petrel links every one of
    # these crates; a name without a symbol in it is outdated.
    cargo build --quiet --locked --bins
    for program in petreld petrel-influx petrel-tls petrel; do
        nm "$target/debug/$program" >"$scratch/$program"
    done
    # num_bigint_dig is below rsa, a name that ring has for a part of its own.
    for crate in ring rustls webpki x509_parser rcgen num_bigint_dig; do
        holds_no petreld $crate
        holds_no petrel-influx $crate
    done
    for crate in rcgen num_bigint_dig; do
        holds_no petrel-tls $crate
    done
}

step_size() {
    cargo build --release --locked --bins
    built=0
    for source in src/bin/*; do
        program=$(basename "$source" .rs)
        [ -f "$target/release/$program" ] || { echo "$program: not built by default"; continue; }
        size=$(wc -c <"$target/release/$program")
        printf '%-16s %8d bytes\n' "$program" "$size"
        [ "$size" -le $size_limit ] || fail "$program is larger than $size_limit bytes"
        built=$((built + 1))
    done
    [ $built -gt 0 ] || fail "no release binary was built"
}

step_msrv() {
    oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    toolchain=$(rustup toolchain list 2>/dev/null | sed -n "s/^\(${oldest}[.0-9]*-[^ ]*\).*/\1/p" | head -n 1)
    if [ -z "$toolchain" ]; then
        skip "THE BUILD WITH THE OLDEST SUPPORTED RUST (rustup toolchain install $oldest --profile minimal)"
        return
    fi
    RUSTUP_TOOLCHAIN=$toolchain cargo check --locked --all-targets --target-dir "$target/msrv"
}

step_freebsd() {
    code=0
    sh contrib/freebsd.sh clippy --locked --all-targets -- -D warnings || code=$?
    [ $code != 0 ] || sh contrib/freebsd.sh link --locked || code=$?
    case $code in
        0) ;;
        69) skip "THE WHOLE CHECK FOR FREEBSD (its compiler comes from Debian packages for amd64)" ;;
        *) fail "the crate does not pass for FreeBSD" ;;
    esac
}

current="what the steps need"
need_rust
for program in cc nm; do
    command -v "$program" >/dev/null || fail "$program is not on PATH: install a C compiler, such as gcc"
done
case " $chosen " in
    *' tests '* | *' shell '*)
        begin_step "$current"
        find_tools
        ;;
esac
for name in $chosen; do
    begin_step "$(list_steps | sed -n "s/^$name  *//p")"
    "step_$name"
done

printf '\n== Skipped here\n'
if [ -s "$scratch/skipped" ]; then sed 's/^/- /' "$scratch/skipped"; else echo "nothing"; fi
printf '\ncheck: all %d steps passed, %d optional parts skipped, %d s\n' \
    $number "$(wc -l <"$scratch/skipped")" "$(elapsed)"
