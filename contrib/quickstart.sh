#!/bin/sh
# Shows a deployment on this machine: builds Petrel, makes certificates for a host and for a tenant of it, starts the
# daemons, and deploys a real unikernel over mutually authenticated TLS. Once built, it takes a few seconds.
#
#   sh contrib/quickstart.sh
#
# Rust (see https://rustup.rs) and a C compiler on Linux x86_64 are required; neither root nor Solo5. All files but those
# of the build are in a temporary directory, which is removed at the end.
set -eu
cd "$(dirname "$0")/.."

say() { printf '* %s\n' "$*"; }
fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }

# shellcheck source=contrib/lib.sh disable=SC1091
. contrib/lib.sh
need_rust
command -v cc >/dev/null || fail "cc is not on PATH: install a C compiler, such as gcc"

say "building Petrel: the first time this takes 5 to 10 minutes"
cargo build --release --locked --bins
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
PATH=$target/release:$PATH
# The path of a socket is short; that of the default temporary directory may be too long.
work=$(mktemp -d /tmp/petrel.XXXXXX)
started=
interrupted=
leave() {
    code=$?
    trap '' HUP INT PIPE TERM
    trap - EXIT
    for process in $started; do
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    if [ $code != 0 ]; then
        [ -z "$interrupted" ] || rm -f "$work"/*.log
        for log in "$work"/*.log; do
            [ -f "$log" ] || continue
            sed "s|^|$(basename "$log" .log): |" "$log" >&2
        done
    fi
    rm -rf "$work"
    exit $code
}
trap leave EXIT
trap 'interrupted=yes; say interrupted >&2; exit 1' HUP INT PIPE TERM
sh tests/guests/build.sh "$work/guests"
guest=$work/guests/forever.spt

# wait_for FILE PATTERN: waits for a matching line; the daemons print one when they are ready.
wait_for() {
    tries=0
    until grep -q "$2" "$1" 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || fail "no line '$2' in $1 after 10 seconds"
        sleep 0.05
    done
}

say "making a CA and a certificate for this host"
mkdir "$work/host" "$work/tenant" "$work/run" "$work/db"
cd "$work/host"
petrel generate --server host ca issued >/dev/null

say "making a CA for a tenant, who may run 2 unikernels in 64 MB on CPU 0"
cd "$work/tenant"
petrel add-policy tenant 2 --mem 64 --cpu 0 --csr >/dev/null 2>&1
cd "$work/host"
petrel sign cacert.pem issued ca.key "$work/tenant/tenant.req" >/dev/null
mv tenant.pem "$work/tenant"

say "starting petrel-console, petreld, and petrel-tls on a free port"
petrel-console --tmpdir "$work/run" -v 2>"$work/console.log" &
started="$! $started"
wait_for "$work/console.log" listening
petreld --tmpdir "$work/run" --dbdir "$work/db" -v 2>"$work/petreld.log" &
started="$! $started"
wait_for "$work/petreld.log" listening
petrel-tls --tmpdir "$work/run" --ip 127.0.0.1 --port 0 cacert.pem host.pem host.key \
    >"$work/port" 2>"$work/tls.log" &
started="$! $started"
wait_for "$work/port" listening
address=$(sed 's/listening on //' "$work/port")

# Destination and credentials of the tenant's commands.
tenant="--destination $address --ca $work/tenant/tenant.pem --ca-key $work/tenant/tenant.key
    --server-ca $work/host/cacert.pem"

say "following the console of 'hello', which does not exist yet; its lines are shown as they come"
mkfifo "$work/lines"
while IFS= read -r line; do
    printf '    %s\n' "$line"
    printf '%s\n' "$line" >>"$work/console"
done <"$work/lines" &
# shellcheck disable=SC2086  # several words, none with spaces inside
petrel console $tenant hello >"$work/lines" &
started="$! $started"
wait_for "$work/console" waiting

say "deploying 'hello' over TLS"
# shellcheck disable=SC2086
petrel create $tenant hello "$guest" --arg=--interval-ms=200

wait_for "$work/console" 'tick 3'

say "what runs:"
# shellcheck disable=SC2086
petrel info $tenant | sed 's/^/    /'

say "destroying it"
# shellcheck disable=SC2086
petrel destroy $tenant hello

say "stopping the daemons; to go on: README.md, \"Tour\", and the manual pages in man/"
