#!/bin/bash
# What an administrator does on a host with systemd, told by boot.sh: every
# unit is the one that is shipped, with all that it forbids.
set -eEu
trap 'echo "FAILED in line $LINENO"; journalctl --no-pager -n 60; systemctl --no-pager status "petrel*"' ERR

expect() { # text command...
    local text=$1 said
    shift
    said=$("$@" 2>&1) || { echo "$*: exit code $?: $said"; return 1; }
    [[ $said == *"$text"* ]] || { echo "$*: no '$text' in: $said"; return 1; }
}
# Waits for a line of what goes on for ever.
line() { # text command...
    local text=$1
    shift
    timeout 30 grep -qm1 -- "$text" < <("$@")
}
# Says nothing.
none() { # command...
    local said
    said=$("$@" || true)
    [ -z "$said" ] || { echo "$*: $said"; return 1; }
}
soon() { # condition...
    local tries
    for tries in {1..600}; do
        "$@" >/dev/null && return
        sleep 0.05
    done
    echo "never: $* ($tries tries)"
    return 1
}
is() { [ "$("${@:2}")" = "$1" ]; } # text command...
another() { ! is "$2" main "$1" && ! is 0 main "$1"; } # unit process
tender() { pgrep -f -- "petrel-spt .*--name=$1( |\$)"; }
main() { systemctl show --property=MainPID --value "$1"; }
active() { systemctl show --property=ActiveState --value "$1"; }
enabled() { systemctl show --property=UnitFileState --value "$1"; }
status() { sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status"; }

ip link add service type bridge
ip link set service up

if command -v dpkg >/dev/null; then
    dpkg --no-triggers -i /root/petrel_*.deb
else
    systemctl start petreld.service petrel-stats.service
fi
# Started means ready: what comes next fails otherwise.
for daemon in petreld petrel-console petrel-stats; do
    is active active $daemon.service
done

# The tour of the README, to the letter: installed it is already.
sources=$(cd "$(dirname "$0")/../.." && pwd)
cd "$sources"
tour=$(sed -n '/^## Tour/,/^## Moving/s/^    //p' README.md)
[[ $tour == *'petrel create hello'* ]]
while IFS= read -r command; do
    case $command in
        *contrib/* | 'cargo build'* | systemd-sysusers* | *'enable --now petreld'*) ;;
        'petrel console'*) eval "line 'tick' $command" ;;
        *) eval "$command" ;;
    esac
done <<<"$tour"
none tender hello
is active active petrel-tls-listener.socket
# One process accepts all.
is active active petrel-tls-listener.service
systemctl disable --now petrel-tls-listener.socket
systemctl stop petrel-tls-listener.service
rm -f /etc/petrel/*

cd /etc/petrel
petrel generate ca issued
# Under inetd petrel-tls reads these by itself: not before it was let, and then for good.
reads() { setpriv --reuid=petrel --regid=petrel --init-groups cat "${@/#//etc/petrel/}" >/dev/null; }
[ "$(stat -c %a:%G /etc/petrel)" = 710:petrel ]
if reads server.key; then exit 1; fi
sed -n 's/^#   \(ch.*\)/\1/p' /usr/share/doc/petrel/xinetd.conf | bash -e
systemd-tmpfiles --create petrel.conf || true
[ "$(stat -c %a:%G /etc/petrel)" = 710:petrel ]
reads cacert.pem server.pem server.key
if reads ca.key; then exit 1; fi
petrel add-policy tenant 4 --mem=256 --cpu=0 --bridge=service --csr
petrel sign cacert.pem issued ca.key tenant.req
tenant=(--destination=localhost --ca=tenant.pem --ca-key=tenant.key --server-ca=cacert.pem)

systemctl start petrel-tls.socket petrel-metrics.socket

expect created petrel create hello /root/forever.spt "${tenant[@]}"
line 'tick 1' petrel console tenant:hello --since=2020-01-01T00:00:00Z
# The CRL counts from the next connection on, as it is written beside the certificate, and while it is there.
petrel revoke cacert.pem ca.key issued tenant
if refused=$(petrel info "${tenant[@]}" 2>&1); then exit 1; fi
[[ $refused == *revoked* ]]
: >cacert.crl
if petrel info "${tenant[@]}"; then exit 1; fi
rm cacert.crl
expect :hello petrel info "${tenant[@]}"
hello=$(tender hello)
# A user of its own, in the group of all tenders, without any right.
[ "$(status "$hello" Uid | cut -f1)" -gt 1900000000 ]
[ "$(status "$hello" Groups)" = '1900000000 ' ]
[ "$(status "$hello" CapBnd)" = 0000000000000000 ]
# No more filters of its unit than this (petrel-spt has one of its own besides), see there.
[ "$(status "$hello" Seccomp_filters)" -le 11 ] || { grep Seccomp "/proc/$hello/status"; exit 1; }
expect created petrel create net /root/net.spt --net=service --mem=16 --arg=--ipv4=10.99.0.2 "${tenant[@]}"
line 'net service: ready' petrel console tenant:net --since=2020-01-01T00:00:00Z
[ "$(ip -o link show master service | wc -l)" = 1 ]
# Content comes and goes by processes that can do nothing else, compressed and as it is.
head -c 1000000 /dev/urandom >/root/content
expect added petrel create-block t:data 1 --data=/root/content
for level in 0 9; do
    expect 'set block device' petrel set-block t:data /root/content --compression-level=$level
    expect stored petrel dump-block t:data -o /root/dumped --compression-level=$level
    cmp -n 1000000 /root/content /root/dumped
    expect stored petrel get tenant:hello -o /root/got --compression-level=$level
    cmp /root/forever.spt /root/got
    rm /root/dumped /root/got
done
expect created petrel create t:block /root/block.spt --block=storage:data --mem=16 --arg=--stay
block=$(tender block)
[ "$(stat -c %u /var/lib/petrel/block/t:data)" = "$(status "$block" Uid | cut -f1)" ]

# Reloaded, petreld is the same process, and ready again.
before=$(main petreld)
systemctl reload petreld
soon is active systemctl is-active petreld
[ "$(main petreld)" = "$before" ]
expect 'tenant:hello' petrel info
[ "$(tender hello)" = "$hello" ]

# Killed, it is started again, and takes over what runs.
kill -KILL "$before"
soon another petreld "$before"
expect 'tenant:hello' petrel info
[ "$(tender hello)" = "$hello" ]
[ "$(tender block)" = "$block" ]

# What happens to the socket of the console is nothing to the supervisor.
before=$(main petreld)
systemctl restart petrel-console.socket
[ "$(main petreld)" = "$before" ]
systemctl stop petrel-console.socket
is inactive active petrel-console.service
[ "$(main petreld)" = "$before" ]
[ "$(tender hello)" = "$hello" ]
systemctl start petrel-console.service

# So is one that hangs, by the watchdog: here of the console, whose guests go on. Meanwhile it keeps files of consoles, with
# the drop-in of its manual.
mkdir -p /run/systemd/system/petrel-console.service.d
printf '[Service]\nWatchdogSec=1s\n' >/run/systemd/system/petrel-console.service.d/soon.conf
sed -n '/^\[Service\]/,/^\.Ed/{/^\.Ed/q; s/\\e$/\\/; p}' "$sources/man/petrel-console.8" \
    >/run/systemd/system/petrel-console.service.d/log.conf
systemctl daemon-reload
systemctl restart petrel-console
before=$(main petrel-console)
kill -STOP "$before"
soon another petrel-console "$before"
[ "$(tender hello)" = "$hello" ]
soon grep -q tick /var/log/petrel/tenant:hello.log
rm -r /run/systemd/system/petrel-console.service.d
systemctl daemon-reload

# Statistics come over TLS, to who the endpoint is under inetd, and to Prometheus.
line '"utime"' petrel stats --json --name=hello "${tenant[@]}"
line '"utime"' setpriv --reuid=petrel --regid=petrel --init-groups petrel stats --json --name=tenant:hello
ask() { exec 3<>/dev/tcp/127.0.0.1/9559; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3; }
expect 'petrel_unikernel_state{unikernel="tenant:hello",state="running"} 1' ask
if [ -e /sys/fs/cgroup/system.slice/petreld.service/tenant:hello/io.stat ]; then
    expect 'petrel_unikernel_disk_read_bytes_total{unikernel="tenant:hello"}' ask
fi

# An upgrade keeps what runs, and petreld's process.
if command -v dpkg >/dev/null; then
    before=$(main petreld)
    dpkg --no-triggers -i /root/petrel_*.deb
    expect 'tenant:hello' petrel info
    [ "$(main petreld)" = "$before" ]
    [ "$(tender hello)" = "$hello" ]

    # It starts nothing that the administrator has stopped.
    systemctl stop petreld.socket petreld.service
    dpkg --no-triggers -i /root/petrel_*.deb
    is inactive active petreld.service
    is active active petrel-stats.service

    # Removed and installed again, what was enabled is enabled, and runs.
    systemctl disable petrel-stats.service
    systemctl enable petrel-tls.socket
    dpkg --no-triggers --remove petrel
    none pgrep -a petrel
    dpkg --no-triggers -i /root/petrel_*.deb
    for unit in petreld.service petrel-console.service petrel-tls.socket; do
        is enabled enabled $unit
        is active active $unit
    done
    is disabled enabled petrel-stats.service
    is inactive active petrel-stats.service
    soon tender hello
    systemctl enable --now petrel-stats.service
    systemctl start petrel-metrics.socket
fi

# Stopped, it stops all, and started again, it starts them again.
systemctl stop petreld.socket petreld.service
none tender hello
none tender net
none tender block
systemctl start petreld.service
soon tender hello
expect destroyed petrel destroy hello "${tenant[@]}"
expect destroyed petrel destroy t:block
[ "$(stat -c %u /var/lib/petrel/block/t:data)" = 0 ]
expect destroyed petrel destroy net "${tenant[@]}"
[ -z "$(ip -o link show master service)" ]

# A host of albatross moves, as contrib/albatross.md says.
useradd --system albatross
install -d -o albatross -m 755 /var/lib/albatross
install -d -o albatross -m 700 /var/lib/albatross/block
truncate -s 1M /var/lib/albatross/block/a:old
chown albatross /var/lib/albatross/block/a:old
install -o albatross -m 644 /root/state /var/lib/albatross/state
expect 'a:good' petreld --check --dbdir /var/lib/albatross
systemctl stop petrel-tls.socket petreld.socket petreld petrel-stats.socket petrel-stats
cp -a --sparse=always /var/lib/albatross/. /var/lib/petrel/
chown -R root:root /var/lib/petrel
systemctl start petreld petrel-stats
expect 'a:good' petrel info
soon tender good
expect '[unikernel: a:]' petrel policy
expect 'a:old' petrel block
[ -e /var/lib/petrel/state.albatross ]
cmp /root/state /var/lib/albatross/state
expect destroyed petrel destroy a:good

# Nobody needed a right that its unit does not give. What this machine's other services say is theirs to know.
journal() { journalctl --no-pager --quiet --unit='petrel*' --case-sensitive=no --grep="$1"; }
expect 'Stopped petreld' journal 'STOPPED PETRELD'
none journal 'permission denied|not permitted|read-only file system|SIGSYS|31/SYS'

# What is purged leaves data and keys, and nothing else.
if command -v dpkg >/dev/null; then
    cd /
    dpkg --no-triggers --remove petrel
    none pgrep -a petrel
    [ ! -e /usr/sbin/petreld ]
    expect 'kept: remove it yourself' dpkg --no-triggers --purge petrel
    [ ! -e /run/petrel ]
    [ -e /var/lib/petrel/state ] && [ -e /etc/petrel/ca.key ]
    none find /usr /etc /run /var -name '*petrel*' -newer /root/forever.spt \
        -not -path '/etc/petrel*' -not -path '/var/lib/petrel*' -not -path '/var/log/*'
fi
