#!/bin/sh
# Fuzzes one decoder, or all in turn, for a number of seconds:
#
#   sh contrib/fuzz.sh [TARGET|all [SECONDS]]
#
# The seeds are the recorded vectors (PETREL_VECTORS, or those of the project)
# and the findings of earlier runs in fuzz/corpus. A C++ compiler is required;
# cargo-fuzz is installed with cargo where it is missing. A stable compiler is
# enough: RUSTC_BOOTSTRAP makes it accept the options of the sanitizer. Inputs
# that violate an invariant are written to fuzz/artifacts.
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
    # No input may make a decoder need more memory than this.
    cargo fuzz run "$target" -- -max_total_time="$seconds" -max_len=65536 \
        -rss_limit_mb=512 -timeout=10 -print_final_stats=1
done
