#!/bin/sh
# Make a Debian package of what `cargo build --release` has built.
#
#   sh contrib/debian/package.sh DIRECTORY
#
# DIRECTORY  where petrel_VERSION_ARCHITECTURE.deb is put
# BUILT   where the programs are (target/release)
#
# It needs dpkg-deb, and is reproducible with SOURCE_DATE_EPOCH.
set -eu

[ $# = 1 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 64; }
mkdir -p "$1"
directory=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml" | head -n 1)
homepage=$(sed -n 's/^repository = "\(.*\)"/\1/p' "$here/../../Cargo.toml")
architecture=$(dpkg --print-architecture)

# What was linked with a library needs no older one.
libc=$(dpkg-query --show --showformat='${Version}' "libc6:$architecture" | sed 's/-[^-]*$//')

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$root"
umask 022
DESTDIR=$root PREFIX=/usr SERVICES=systemd sh "$here/../install.sh"
mkdir -p "$root/etc/petrel" "$root/DEBIAN"
chmod 700 "$root/etc/petrel"
gzip -9n "$root"/usr/share/man/man*/*
mv "$root/usr/share/doc/petrel/LICENSE" "$root/usr/share/doc/petrel/copyright"
for script in preinst postinst prerm postrm; do
    install -m 755 "$here/$script" "$root/DEBIAN/$script"
done
cat >"$root/DEBIAN/control" <<CONTROL
Package: petrel
Version: $version
Architecture: $architecture
Maintainer: The authors of Petrel <root@localhost>
Installed-Size: $(du -sk "$root/usr" | cut -f 1)
Depends: libc6 (>= $libc), libgcc-s1, systemd | systemd-standalone-sysusers, systemd | systemd-standalone-tmpfiles
Suggests: prometheus-node-exporter
Section: admin
Priority: optional
Homepage: $homepage
Description: deploy and supervise Solo5 unikernels
 Small programs that run MirageOS and other Solo5 unikernels on this host, with
 policies, consoles and statistics, locally and over mutually authenticated
 TLS. They speak the protocol of albatross.
CONTROL
dpkg-deb --root-owner-group --build "$root" "$directory/petrel_${version}_$architecture.deb"
