#!/bin/sh
# Fuzzes a decoder, or each in turn, for some time:
#
#   sh contrib/fuzz.sh [TARGET|all [SECONDS]]
#
# It begins with the recorded vectors (PETREL_VECTORS, or those of the project)
# and with what earlier runs found, which is kept in fuzz/corpus. It needs a C++
# compiler; cargo-fuzz is installed with cargo where it is missing. A nightly
# compiler is not needed: RUSTC_BOOTSTRAP lets an ordinary one take the options
# of the sanitizer. An input that breaks a promise is left in fuzz/artifacts.
set -eu
cd "$(dirname "$0")/.."
target=${1:-all}
seconds=${2:-120}
export RUSTC_BOOTSTRAP=1
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
cargo run --quiet --locked --manifest-path fuzz/Cargo.toml --no-default-features \
    --example seed -- fuzz/corpus
if [ "$target" = all ]; then
    targets=$(cargo fuzz list)
else
    targets=$target
fi
for target in $targets; do
    printf '\n== %s, %d s\n' "$target" "$seconds"
    # rss: what a decoder must never need, whatever it is given.
    cargo fuzz run "$target" -- -max_total_time="$seconds" -max_len=65536 \
        -rss_limit_mb=512 -timeout=10 -print_final_stats=1
done
