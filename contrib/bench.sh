#!/bin/sh
# Figures, each as a ratio to something bare that is measured in turns with it.
#
#   sh contrib/bench.sh [COUNT]      how many runs of each (500)
#
# Needs cargo and openssl. They are figures to look at, not tests: only ratios
# of one run can be compared, and a busy machine widens the p95.
set -eu
cd "$(dirname "$0")/.."

count=${1:-500}
release=$(pwd)/${CARGO_TARGET_DIR:-target}/release
case ${CARGO_TARGET_DIR:-} in /*) release=$CARGO_TARGET_DIR/release ;; esac
echo_program=$release/examples/tls-echo
spawn_program=$release/examples/spawn-time

scratch=$(mktemp -d)
processes=
finish() {
    for process in $processes; do kill "$process" 2>/dev/null || true; done
    rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

# An authority, a server and a client certificate (ed25519) in $scratch.
make_certificates() {
    (
        cd "$scratch"
        openssl req -x509 -newkey ed25519 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
        for name in server client; do
            printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=%sAuth\n' \
                $name >extensions
            openssl req -newkey ed25519 -nodes -subj /CN=$name -keyout $name.key -out $name.csr
            openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                -extfile extensions -out $name.pem
        done
    ) 2>"$scratch/openssl" || { cat "$scratch/openssl" >&2; exit 1; }
}

# serve NAME [OPTION]: starts the bare server; its address is then in $scratch/NAME.
serve() {
    name=$1; shift
    mkfifo "$scratch/$name.fifo"
    "$echo_program" serve "$@" --ca "$scratch/ca.pem" --cert "$scratch/server.pem" --key "$scratch/server.key" \
        >"$scratch/$name.fifo" &
    processes="$processes $!"
    IFS= read -r address <"$scratch/$name.fifo"
    echo "$address" >"$scratch/$name"
}

echo "building"
cargo build --quiet --release --locked --bins --examples
make_certificates

printf '\nA program that only says its version, and /bin/true:\n'
"$spawn_program" "$count" /bin/true "$release/petrel --version"

printf '\nA bare TLS echo, one process a connection, against itself (the ratio should be near 1):\n'
serve echo
serve frame --frame
"$echo_program" compare --count "$count" --echo "$(cat "$scratch/echo")" --frame "$(cat "$scratch/frame")" \
    --ca "$scratch/ca.pem" --cert "$scratch/client.pem" --key "$scratch/client.key"
