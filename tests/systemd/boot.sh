#!/bin/sh
# Boot systemd in namespaces of its own, in a copy of this system that only
# lives in memory, and run host.sh there. On Debian that installs Petrel as a
# package; elsewhere it is there already, by its script.
#
#   sh tests/systemd/boot.sh BUILT GUESTS STATE
#
# BUILT   directory of the programs
# GUESTS  directory of the test guests
# STATE   state file of albatross, with a unikernel a:good
#
# Nothing of this system is changed but for a control group, which is removed:
# every file written is in a tmpfs above /, and what systemd would set in the
# kernel is read-only.
#
# Exit codes: that of host.sh, 69 this machine cannot (not root, no systemd, no
# overlayfs or control groups of version 2).
set -eu

[ $# = 3 ] || { sed -n '2,19s/^# \{0,1\}//p' "$0" >&2; exit 64; }
sources=$(cd "$(dirname "$0")/../.." && pwd)
built=$(cd "$1" && pwd)
guests=$(cd "$2" && pwd)
state=$3
cannot() { echo "$*" >&2; exit 69; }

[ "$(id -u)" = 0 ] || cannot "only root can make namespaces and mounts"
[ -x /lib/systemd/systemd ] || cannot "no systemd is installed"
grep -qw overlay /proc/filesystems || cannot "the kernel has no overlayfs"
groups=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[ -n "$groups" ] || cannot "there are no control groups of version 2"

group=$groups/petrel-test-$$
scratch=$(mktemp -d)
cp "$state" "$scratch/state"
mkdir "$group" || cannot "no control group can be made"
# shellcheck disable=SC2317  # called by the trap
finish() {
    echo 1 >"$group/cgroup.kill" 2>/dev/null || true
    # Those of systemd's units are below it.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
        sleep 0.1
    done
    rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

cat >"$scratch/inside" <<'INSIDE'
set -eu
sources=$1 built=$2 guests=$3 result=$4
mount --make-rprivate /
exec 3<"$result/state"
mount -t tmpfs tmpfs "$result"
cd "$result"
mkdir upper work new
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay new
cd new
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs dev
mkdir dev/net dev/pts dev/shm
for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 net/tun:10:200; do
    number=${device#*:}
    mknod -m 666 "dev/${device%%:*}" c "${number%:*}" "${number#*:}"
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
rm -rf var/lib/petrel etc/petrel
for directory in run tmp var/tmp root home; do
    mkdir -p $directory
    mount -t tmpfs tmpfs $directory
done
# What the sources and programs are in may be one of these.
for directory in "$sources" "$built" "$guests"; do
    mkdir -p ".$directory"
    mount --bind "$directory" ".$directory"
done
mkdir old
pivot_root . old
umount -l /old

if command -v dpkg >/dev/null; then
    # host.sh installs it.
    DPKG_DEB_COMPRESSOR_TYPE=none BUILT=$built sh "$sources/contrib/debian/package.sh" /root
else
    PREFIX=/usr SERVICES=systemd BUILT=$built sh "$sources/contrib/install.sh"
    systemd-sysusers petrel.conf
    systemd-tmpfiles --create petrel.conf
fi
cat <&3 >/root/state
cp "$guests/forever.spt" "$guests/net.spt" "$guests/block.spt" /root
# Only what is told below; nothing of what this machine does at its start.
rm -rf /etc/systemd/system
mkdir -p /etc/systemd/system
: >/etc/fstab
for file in /lib/systemd/system/sysinit.target.wants/* /lib/systemd/system/sockets.target.wants/* \
    /lib/systemd/system/local-fs.target.wants/* /lib/systemd/system/multi-user.target.wants/* \
    /lib/systemd/system/timers.target.wants/* systemd-remount-fs.service systemd-tmpfiles-clean.timer; do
    case ${file##*/} in
        systemd-journald*) ;;
        *.target | '*') ;;
        *) ln -sf /dev/null "/etc/systemd/system/${file##*/}" ;;
    esac
done
ip link set lo up
cat >/etc/systemd/system/test.service <<UNIT
[Service]
Type=oneshot
StandardOutput=file:/run/said
StandardError=inherit
ExecStart=/bin/bash $sources/tests/systemd/host.sh
ExecStopPost=/bin/sh -c 'echo "\$EXIT_STATUS" >/run/code; kill -RTMIN+13 1'
UNIT
env -i container=petrel PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    unshare --cgroup --pid --fork --mount --propagation shared sh -c \
    'mount -t proc proc /proc; mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys
     exec /lib/systemd/systemd --unit=test.service --log-target=journal --show-status=no' || true
cat /run/said
exit "$(cat /run/code)"
INSIDE

code=0
# shellcheck disable=SC2016  # for the inner shell
timeout -k 5 300 sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' sh "$group" \
    unshare --mount --net --ipc --uts sh "$scratch/inside" "$sources" "$built" "$guests" "$scratch" ||
    code=$?
exit $code
