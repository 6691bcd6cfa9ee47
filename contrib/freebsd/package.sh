#!/bin/sh
# Make a FreeBSD package of what `cargo build --release` has built.
#
#   sh contrib/freebsd/package.sh DIRECTORY
#
# DIRECTORY  where root (the files), +MANIFEST, plist and, where there is pkg(8),
#         the package are put
# BUILT   where the programs are (target/release)
set -eu

[ $# = 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 64; }
mkdir -p "$1"
directory=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
prefix=/usr/local
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml" | head -n 1)
www=$(sed -n 's/^repository = "\(.*\)"/\1/p' "$here/../../Cargo.toml")

rm -rf "$directory/root"
DESTDIR=$directory/root PREFIX=$prefix SERVICES=rc.d sh "$here/../install.sh"
(cd "$directory/root" && find . -type f | sed 's|^\.||' | sort) >"$directory/plist"
sed -e "s|@VERSION@|$version|" -e "s|@WWW@|$www|" -e "s|@PREFIX@|$prefix|g" "$here/MANIFEST.in" >"$directory/+MANIFEST"
if command -v pkg >/dev/null; then
    pkg create -M "$directory/+MANIFEST" -p "$directory/plist" -r "$directory/root" -o "$directory"
fi
