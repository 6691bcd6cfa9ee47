#!/bin/sh
# Install the results of `cargo build --release`: programs, manual pages, and
# the files of the service manager. It starts nothing and creates no user.
#
#   sh contrib/install.sh [uninstall]
#
# PREFIX    prefix of all paths (/usr/local)
# DESTDIR   root directory in front of PREFIX, for packages (empty)
# BUILT     directory of the built programs (target/release)
# SERVICES  systemd, rc.d or none (systemd on Linux, rc.d on FreeBSD)
#
# bin/petrel, the daemons in sbin, share/man, share/doc/petrel, and
#   systemd: lib/systemd/system, lib/sysusers.d, lib/tmpfiles.d
#   rc.d:    etc/rc.d
# `uninstall` removes exactly these files.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
prefix=${PREFIX:-/usr/local}
destination=${DESTDIR:-}
built=${BUILT:-${CARGO_TARGET_DIR:-$here/target}/release}
case $(uname -s) in FreeBSD) usual=rc.d ;; *) usual=systemd ;; esac
services=${SERVICES:-$usual}
case ${1:-install}:$# in
    install:0 | uninstall:1) action=${1:-install} ;;
    *) sed -n '2,17s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
esac

# file mode target-below-prefix
each() {
    for program in petreld petrel-tls petrel-console petrel-stats petrel-influx petrel-metrics petrel-spt; do
        "$1" "$built/$program" 755 "sbin/$program"
    done
    "$1" "$built/petrel" 755 bin/petrel
    for page in "$here"/man/*; do
        "$1" "$page" 644 "share/man/man${page##*.}/${page##*/}"
    done
    for text in README.md SPECIFICATION.md CHANGELOG.md SECURITY.md LICENSE contrib/albatross.md 'contrib/inetd/*' 'doc/*'; do
        for file in "$here"/$text; do
            "$1" "$file" 644 "share/doc/petrel/${file##*/}"
        done
    done
    "$1" "$here/contrib/grafana/petrel.json" 644 share/doc/petrel/grafana.json
    case $services in
        systemd)
            for unit in "$here"/systemd/*.socket "$here"/systemd/*.service; do
                "$1" "$unit" 644 "lib/systemd/system/${unit##*/}"
            done
            "$1" "$here/systemd/sysusers.d/petrel.conf" 644 lib/sysusers.d/petrel.conf
            "$1" "$here/systemd/tmpfiles.d/petrel.conf" 644 lib/tmpfiles.d/petrel.conf
            ;;
        rc.d)
            for script in "$here"/rc.d/*; do
                "$1" "$script" 755 "etc/rc.d/${script##*/}"
            done
            ;;
        none) ;;
        *) echo "install.sh: invalid SERVICES '$services': expected systemd, rc.d or none" >&2; exit 64 ;;
    esac
}

install_one() {
    target=$destination$prefix/$3
    mkdir -p "${target%/*}"
    # A running program is replaced, not overwritten.
    case $1 in
        */systemd/*.service) sed "s|/usr/sbin/|$prefix/sbin/|g" "$1" >"$target.new" ;;
        */rc.d/*) sed "s|/usr/local/|$prefix/|g" "$1" >"$target.new" ;;
        *) cp "$1" "$target.new" ;;
    esac
    chmod "$2" "$target.new"
    mv -f "$target.new" "$target"
}

uninstall_one() {
    rm -f "$destination$prefix/$3"
}

each "${action}_one"
