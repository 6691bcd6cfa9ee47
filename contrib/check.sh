#!/bin/sh
# Every check of the project, in a fresh clone, as root or as an ordinary user:
#
#   sh contrib/check.sh
#
# It needs Rust (see https://rustup.rs) with rustfmt and clippy, and a C compiler. On Debian amd64 the
# other programs that the tests use are unpacked (not installed) into a cache,
# ${XDG_CACHE_HOME:-$HOME/.cache}/petrel-check, and compiler and linker for FreeBSD
# into another (see freebsd.sh). Elsewhere, what is not on PATH is skipped.
#
# A test that cannot run here prints one line that starts with "SKIPPED: ", the
# rest of it being what was skipped and why, and passes. cargo test is told to
# show the output of passing tests; those lines are repeated in the summary.
#
# Exit code 0: everything that can be checked here holds.
set -eu
cd "$(dirname "$0")/.."

# program:Debian package
tools='inetd:openbsd-inetd influxd:influxdb ip:iproute2 mandoc:mandoc nft:nftables nix-instantiate:nix-bin openssl:openssl promtool:prometheus socat:socat shellcheck:shellcheck systemd-analyze:systemd'
# The same of those that rule each other out.
rivals='inetutils-inetd:inetutils-inetd xinetd:xinetd'
size_limit=2621440          # bytes, each release binary
target=${CARGO_TARGET_DIR:-target}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/petrel-check
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
unset RUSTFLAGS CARGO_BUILD_TARGET

started=$(date +%s)
elapsed() { echo $(($(date +%s) - started)); }

number=0
step() {
    number=$((number + 1))
    current=$1
    printf '\n== %d. %s (after %d s)\n' "$number" "$current" "$(elapsed)"
}
fail() { printf 'check: %s\n' "$*" >&2; exit 1; }
# shellcheck source=contrib/lib.sh disable=SC1091
. contrib/lib.sh
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

step "what the tests need"
need_rust
for program in cc nm; do
    command -v "$program" || fail "$program is not on PATH: install a C compiler, such as gcc"
done
cargo fmt --version
cargo clippy --version
missing=
for tool in $tools; do
    command -v "${tool%:*}" || missing="$missing ${tool#*:}"
done
if [ -n "$missing" ]; then
    code=0
    # shellcheck disable=SC2086  # one word a package
    sh contrib/debian.sh "$cache" $missing || code=$?
    case $code in
        0) PATH=$PATH:$cache/bin; echo "in $cache:$missing" ;;
        69) skip "tests that need one of:$missing (not installed, and this is no Debian amd64)" ;;
        *) fail "could not fetch$missing" ;;
    esac
fi
for tool in $rivals; do
    command -v "${tool%:*}" && continue
    code=0
    sh contrib/debian.sh "$cache/${tool#*:}" "${tool#*:}" || code=$?
    case $code in
        0) PATH=$PATH:$cache/${tool#*:}/bin ;;
        69) skip "tests that need ${tool#*:} (not installed, and this is no Debian amd64)" ;;
        *) fail "could not fetch ${tool#*:}" ;;
    esac
done
[ "$(id -u)" = 0 ] || skip "tests that need root: taps, uids, capabilities (this is an ordinary user)"
for device in /dev/kvm /dev/net/tun; do
    can_open "$device" || skip "tests that need $device (it is missing here or cannot be opened)"
done
for tender in solo5-spt solo5-hvt; do
    command -v "$tender" || skip "the guests under $tender (it is not on PATH)"
done

step "formatting"
cargo fmt --check

step "lints"
cargo clippy --locked --all-targets -- -D warnings

step "fuzz targets over their seeds"
# Without the fuzzer itself, which needs a C++ compiler and a long build: see contrib/fuzz.sh.
fuzz="--manifest-path fuzz/Cargo.toml --target-dir $target --locked --no-default-features"
cargo fmt --manifest-path fuzz/Cargo.toml --check
# shellcheck disable=SC2086  # several words
cargo clippy $fuzz --all-targets -- -D warnings
# shellcheck disable=SC2086
cargo test $fuzz -- --nocapture

step "shell scripts"
grep -rIlE '^#!/bin/(ba)?sh' --exclude-dir=.git --exclude-dir=target . | while IFS= read -r file; do
    case $(head -n 1 "$file") in '#!/bin/sh'* | '#!/bin/bash'*) echo "$file" ;; esac
done >"$scratch/scripts"
if command -v shellcheck >/dev/null; then
    cat "$scratch/scripts"
    xargs shellcheck <"$scratch/scripts"
else
    skip "shellcheck of $(wc -l <"$scratch/scripts") scripts (it is not on PATH)"
fi

step "tests"
{ code=0; cargo test --locked -- --show-output || code=$?; echo $code >"$scratch/code"; } 2>&1 | tee "$scratch/tests"
sed -n 's/^SKIPPED: //p' "$scratch/tests" | sort -u >>"$scratch/skipped"
[ "$(cat "$scratch/code")" = 0 ] || fail "tests failed"

step "petreld and petrel-influx hold no TLS and no X.509 code, petrel-tls makes no certificates and keys"
# Told by symbols, in the development build: nothing is inlined or stripped
# there, so it shows the most. petrel must show every one of them, or the check
# would be looking for names that no longer exist.
cargo build --quiet --locked --bins
for program in petreld petrel-influx petrel-tls petrel; do
    nm "$target/debug/$program" >"$scratch/$program"
done
holds_no() {    # program crate
    symbol="[^0-9]${#2}$2"                  # a crate's name inside a mangled symbol
    [ "$2" != ring ] || symbol=ring_core_   # its C and assembly
    inside=$(grep -cE "$symbol" "$scratch/$1" || true)
    control=$(grep -cE "$symbol" "$scratch/petrel" || true)
    printf '%-14s %5d symbols in %s, %5d in petrel\n' "$2" "$inside" "$1" "$control"
    [ "$inside" = 0 ] || fail "$1 contains code of $2"
    [ "$control" != 0 ] || fail "found no code of $2 anywhere: this check needs mending"
}
# num_bigint_dig is below rsa, a name that ring has for a part of its own.
for crate in ring rustls webpki x509_parser rcgen num_bigint_dig; do
    holds_no petreld $crate
    holds_no petrel-influx $crate
done
for crate in rcgen num_bigint_dig; do
    holds_no petrel-tls $crate
done

step "size of the release binaries"
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

step "types, lints and the linker for FreeBSD 14.0"
code=0
sh contrib/freebsd.sh clippy --locked --all-targets -- -D warnings || code=$?
[ $code != 0 ] || sh contrib/freebsd.sh link --locked || code=$?
case $code in
    0) ;;
    69) skip "THE WHOLE CHECK FOR FREEBSD (its compiler comes from Debian packages for amd64)" ;;
    *) fail "the crate does not pass for FreeBSD" ;;
esac

printf '\n== Skipped here\n'
if [ -s "$scratch/skipped" ]; then sed 's/^/- /' "$scratch/skipped"; else echo "nothing"; fi
printf '\ncheck: all %d steps hold, %d optional parts skipped, %d s\n' \
    $number "$(wc -l <"$scratch/skipped")" "$(elapsed)"
