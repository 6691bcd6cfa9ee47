#!/bin/sh
# Unpack Debian packages, with those of their dependencies that this machine
# lacks, into a directory. Nothing is installed, nothing is started, and neither
# root nor up-to-date package lists are needed.
#
#   sh contrib/debian.sh DIRECTORY PACKAGE...
#
# DIRECTORY/root   the packages' files
# DIRECTORY/bin    their programs, each finding its libraries in DIRECTORY/root;
#               put it on PATH
#
# A directory that already holds the same packages is left unchanged.
# Exit codes: 0 done, 1 failed, 69 not supported here (not Debian amd64).
set -eu

[ $# -ge 2 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 64; }
directory=$1; shift

if ! command -v apt-get >/dev/null || ! grep -qs '^ID=debian$' /etc/os-release ||
   [ "$(dpkg --print-architecture)" != amd64 ]; then
    echo "debian.sh: this is not a Debian amd64 machine with apt-get" >&2
    exit 69
fi

mkdir -p "$directory"
directory=$(cd "$directory" && pwd)
wanted=$(printf '%s\n' "$@" | sort)
[ "$(cat "$directory/packages" 2>/dev/null)" = "$wanted" ] && exit 0

scratch=$(mktemp -d "$directory/unpack.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial" "$scratch/debs" "$scratch/root" "$scratch/bin"

# Private package lists: those of the machine may be missing or stale, and only root may update them.
apt() {
    apt-get -qq -o Dir::State::lists="$scratch/lists" -o Dir::Cache="$scratch/cache" \
        -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3 "$@"
}
apt update
missing=$(apt -s --no-install-recommends install "$@" | sed -n 's/^Inst \([^ ]*\) .*/\1/p')
# A package that is installed is fetched too: the caller wants its files here.
# shellcheck disable=SC2046,SC2086  # one word a package
(cd "$scratch/debs" && apt download $(printf '%s\n' "$@" $missing | sort -u))
for deb in "$scratch"/debs/*.deb; do
    dpkg-deb -x "$deb" "$scratch/root"
done
rm -rf "${directory:?}/root" "${directory:?}/bin"
mv "$scratch/root" "$scratch/bin" "$directory"

# Started through the loader by name, a program finds its libraries without
# LD_LIBRARY_PATH, which its own children would inherit.
libraries=$directory/root/lib/x86_64-linux-gnu:$directory/root/usr/lib/x86_64-linux-gnu
# Some packages have their libraries in a private directory, which only their run path names.
for own in "$directory"/root/usr/lib/*/lib*.so; do
    case $own in */x86_64-linux-gnu/*) continue ;; esac
    case $libraries in *":${own%/*}"*) ;; *) libraries=$libraries:${own%/*} ;; esac
done
for program in "$directory"/root/bin/* "$directory"/root/sbin/* "$directory"/root/usr/bin/* "$directory"/root/usr/sbin/*; do
    [ -x "$program" ] || continue
    if ldd "$program" 2>/dev/null | grep -q 'not found'; then
        printf '#!/bin/sh\nexec /lib64/ld-linux-x86-64.so.2 --library-path "%s" "%s" "$@"\n' \
            "$libraries" "$program" >"$directory/bin/${program##*/}"
        chmod +x "$directory/bin/${program##*/}"
    else
        # A program may be there twice, as a link.
        ln -sf "$program" "$directory/bin/${program##*/}"
    fi
done
printf '%s\n' "$wanted" >"$directory/packages"
