#!/bin/sh
# Measures the cost of Petrel's main paths, as ratios to the parts that they consist of, beside the target of each.
#
#   sh contrib/bench.sh [--debug] [--contention] [COUNT]
#
# COUNT is the number of runs of each measurement (500); deployments run a fifth as often. Cargo and a C compiler on
# Linux x86_64 are required; root only for taps, Solo5 not at all. Daemons and files are in temporary directories of at
# most 4 GB, in /dev/shm where it has the space, so that no disk is measured. A thousand small unikernels take 2 GB of
# address space and little memory. --debug uses a debug build: it tests this script, its numbers mean nothing.
#
# --contention measures only how long one tenant waits for another. The database is on the disk of /tmp, as its latency
# is part of that wait; a petreld without a limit for images fills up to 9 GB of it.
#
# The numbers are to be read, not tested. Compared things are measured in turns, and only ratios of one run mean
# something. On a busy machine each switch between processes waits, so longer chains look worse than they are: after the
# build, root can give this script priority with `chrt -r 5 sh contrib/bench.sh`.
set -eu
cd "$(dirname "$0")/.."

profile=release build=--release only=
while :; do
    case ${1:-} in
        --debug) profile=debug build= ;;
        --contention) only=contention ;;
        *) break ;;
    esac
    shift
done
count=${1:-500}
deployments=$(((count + 4) / 5))
size_limit=2621440          # bytes, each release binary

fail() { printf 'bench: %s\n' "$*" >&2; exit 1; }
# shellcheck source=contrib/lib.sh disable=SC1091
. contrib/lib.sh
need_rust

echo "building"
cargo build ${build:+"$build"} --locked --bins --examples
programs=$(cd "${CARGO_TARGET_DIR:-target}/$profile" && pwd)
PATH=$programs:$programs/examples:$PATH

# The path of a socket is short; that of the default temporary directory may be too long.
work=$(mktemp -d /tmp/petrel.XXXXXX)
# The runtime directory is in memory on every host, as /run is.
memory=/dev/shm
[ -d $memory ] || memory=/tmp
runtime=$(mktemp -d $memory/petrel.XXXXXX)
# For block devices, their content and dumps of it.
free=$(df -kP /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
[ "${free:-0}" -ge 6000000 ] && large=$(mktemp -d /dev/shm/petrel.XXXXXX) || large=$work/large
started=
# Ends the daemons, the last one first.
end() {
    for process in $started; do
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    started=
}
leave() {
    code=$?
    trap - EXIT
    end
    if [ $code != 0 ]; then
        for log in "$work"/*.log; do
            sed "s|^|$(basename "$log" .log): |" "$log" | tail -n 20 >&2
        done
    fi
    rm -rf "$work" "$runtime" "$large"
    exit $code
}
trap leave EXIT
trap 'exit 1' HUP INT TERM

# Starts a daemon and waits until it prints its address.
start() {
    log=$work/$1.log
    : >"$log"
    "$@" >"$log" 2>&1 &
    started="$! $started"
    tries=0
    until grep -q 'listening on' "$log"; do
        tries=$((tries + 1))
        if [ $tries = 200 ]; then
            echo "bench: $1 does not start" >&2
            exit 1
        fi
        sleep 0.05
    done
}
address() { sed -n 's/.*listening on //p' "$work/$1.log" | head -n 1; }

# request STEM COMMAND...: makes STEM.pem, a certificate for that command with the tenant's above it, and STEM.key.
request() {
    (
        stem=$1 name=$2
        shift 2
        mkdir "$work/$stem"
        cd "$work/$stem"
        petrel "$@" --csr
        petrel sign "$work/tenant/tenant.pem" issued "$work/tenant/tenant.key" "$name.req"
        cat "$name.pem" "$work/tenant/tenant.pem" >"$work/$stem.pem"
        mv "$name.key" "$work/$stem.key"
    ) >"$work/petrel.log" 2>&1
}

# padded IMAGE SIZE FILE: copies the image and adds zeros at its end, which tenders ignore.
padded() {
    cp "$1" "$3"
    echo "$3" >>"$3"
    truncate -s "$2" "$3"
}

sh tests/guests/build.sh "$work/guests"
hello=$work/guests/hello.spt
mkdir "$work/host" "$work/tenant" "$runtime/run" "$work/db"
cd "$work/tenant"
petrel add-policy tenant 2 --mem 64 --cpu 0 --block 1024 --csr >"$work/petrel.log" 2>&1
cd "$work/host"
petrel generate --server host ca issued >"$work/petrel.log"
petrel sign cacert.pem issued ca.key "$work/tenant/tenant.req" >"$work/petrel.log"
mv tenant.pem "$work/tenant"
padded "$hello" 200M "$work/large.spt"
request info _path info
request console hello console hello --count 0
request create hello create hello "$hello" --compression-level 0
request large large create large "$work/large.spt" --compression-level 0

# Measures how long a tenant waits while another one keeps petreld busy.
contention() {
    printf '\ncontention:\n'
    mkdir -p "$runtime/contention" "$work/contention"
    start petrel-console --tmpdir "$runtime/contention" -v
    start petreld --tmpdir "$runtime/contention" --dbdir "$work/contention" -v
    start petrel-tls --tmpdir "$runtime/contention" --ip 127.0.0.1 --port 0 cacert.pem host.pem host.key
    bench-contention --tmpdir "$runtime/contention" --address "$(address petrel-tls)" --ca cacert.pem \
        --info "$work/info" --image "$work/guests/forever.spt"
    end
}
if [ -n "$only" ]; then
    "$only"
    exit
fi

start petrel-console --tmpdir "$runtime/run" -v
start petreld --tmpdir "$runtime/run" --dbdir "$work/db" -v
petreld=$!
start petrel-tls --tmpdir "$runtime/run" --ip 127.0.0.1 --port 0 cacert.pem host.pem host.key
listener=$!
start tls-echo cacert.pem host.pem host.key

client() {
    bench-client --address "$(address petrel-tls)" --ca cacert.pem --info "$work/info" "$@"
}

printf '\ninfo over TLS, a process a connection:\n'
client --count "$count" info --echo "$(address tls-echo)"

printf '\ndeployment of a small unikernel over TLS, to its first line at the client:\n'
client --count "$deployments" first-line --create "$work/create" --console "$work/console" \
    --image "$hello" --tender petrel-spt

printf '\nthe shortest command (p50 below 1500 us), and the shortest program:\n'
spawn-time "$count" /bin/true "$programs/petrel --version"

printf '\na tap: created, added to a bridge, removed (p50 below 2000 us):\n'
if [ "$(id -u)" = 0 ] && command -v ip >/dev/null; then
    mkdir "$work/taps"
    # shellcheck disable=SC2016  # expanded by the inner shell
    unshare --net sh -c 'ip link add bench type bridge && ip link set bench up && exec "$@"' sh \
        tap-time "$count" "$work/taps" bench
else
    echo "not measured: needs root, and ip(8)"
fi

printf '\nmemory:\n'
client upload --create "$work/large" --image "$work/large.spt" --listener "$listener"
for number in 1 2 3 4 5 6 7 8 9 10; do
    padded "$work/guests/forever.spt" 20M "$work/image$number.spt"
    petrel create --tmpdir "$runtime/run" "image$number" "$work/image$number.spt" --mem 16 >"$work/petrel.log" 2>&1
done
awk '/^VmRSS:/ { printf "petreld, after ten images of 20 MB  %.1f MB  (below 8 MB)\n", $2 / 1024 }' \
    "/proc/$petreld/status"

end
printf '\nblock devices, 1 GiB over TLS, not compressed, median of 5 in turns:\n'
mkdir -p "$large/db" "$large/down"
head -c 1073741824 /dev/urandom >"$large/data"
start petreld --tmpdir "$runtime/run" --dbdir "$large/db" -v
petreld=$!
start petrel-tls --tmpdir "$runtime/run" --ip 127.0.0.1 --port 0 cacert.pem host.pem host.key
listener=$!
# remote COMMAND...: as the tenant, over TLS.
remote() {
    TMPDIR=$large/down petrel "$@" --destination "$(address petrel-tls)" --ca "$work/tenant/tenant.pem" \
        --ca-key "$work/tenant/tenant.key" --server-ca cacert.pem
}
children() { cat "/proc/$1/task/$1/children" 2>/dev/null || true; }
# Records the peak memory of these processes.
peak() {
    for process in "$@"; do
        awk '/^VmHWM:/ { print $2 }' "/proc/$process/status" 2>/dev/null >>"$large/memory" || true
    done
}
# watched COMMAND...: records the memory of all of its processes. Sampling slows them down.
watched() {
    "$@" >"$work/petrel.log" 2>&1 &
    job=$!
    while kill -0 $job 2>/dev/null; do
        # The children of petreld are its transfer workers.
        # shellcheck disable=SC2046
        peak $petreld $listener $(children $petreld; children $listener; children $job)
        sleep 0.02
    done
    wait $job
}
# timed NAME COMMAND...: records its duration. A virtual machine may get memory from its host only at the first access,
# which takes longer than everything else: enough memory is accessed before.
timed() {
    name=$1
    shift
    head -c 1300000000 /dev/zero >"$large/touched"
    rm "$large/touched"
    begin=$(date +%s%N)
    "$@" >"$work/petrel.log" 2>&1
    echo $((($(date +%s%N) - begin) / 1000)) >>"$large/$name"
}
remote create-block disk 1024 >"$work/petrel.log" 2>&1
watched remote set-block disk "$large/data" --compression-level 0
watched remote dump-block disk --compression-level 0
rm "$large"/down/*
for round in 1 2 3 4 5; do
    echo "round $round" >"$work/petrel.log"
    timed set remote set-block disk "$large/data" --compression-level 0
    timed bare tls-pipe host.pem host.key "$large/data" "$large/copy"
    rm "$large/copy"
    timed dump remote dump-block disk --compression-level 0
    cmp "$large/data" "$large"/down/*
    rm -f "$large"/down/*
done
median() { sort -n "$large/$1" | sed -n 3p; }
for name in bare set dump; do
    echo "$name $(median $name) $(median bare)"
done | awk '{ printf "%-5s %5.0f MB/s  %3.0f %% of a bare pair  (70 %% or more)\n", $1, 1024e6 / $2, 100 * $3 / $2 }'
sort -n "$large/memory" | awk 'END { printf "the largest process  %.1f MB  (below 10 MB)\n", $1 / 1024 }'

end
printf '\nconsoles:\n'
mkdir "$runtime/consoles"
start petrel-console --tmpdir "$runtime/consoles" -v
bench-flood --tmpdir "$runtime/consoles" --console $!

end
contention

printf '\na thousand unikernels:\n'
for directory in single many; do
    mkdir "$work/$directory" "$runtime/$directory" "$work/$directory/db"
    start petrel-console --tmpdir "$runtime/$directory" -v
    start petreld --tmpdir "$runtime/$directory" --dbdir "$work/$directory/db" -v
done
bench-many --tmpdir "$runtime/many" --dbdir "$work/many/db" --petreld $! --other "$runtime/single" \
    --image "$work/guests/forever.spt" --count "$deployments"

printf '\nsize of the programs (at most %s bytes):\n' $size_limit
cd "$programs"
wc -c petrel petrel-console petreld petrel-spt petrel-tls | sed '$d'
