#!/bin/sh
# Functions that scripts of this directory share; sourced from the project's root. The script defines fail.

# need_rust: fails unless cargo and rustc have the release that Cargo.toml requires, or a later one.
need_rust() {
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    for program in cargo rustc; do
        command -v "$program" >/dev/null || fail "$program is not on PATH: install Rust $wanted or later with https://rustup.rs"
        found=$("$program" --version 2>/dev/null | sed -n "s/^$program \([0-9]*\.[0-9]*\).*/\1/p")
        [ -n "$found" ] || fail "$program does not run: install Rust $wanted or later with https://rustup.rs"
        if [ "${found%%.*}" -lt "${wanted%%.*}" ] ||
            { [ "${found%%.*}" -eq "${wanted%%.*}" ] && [ "${found#*.}" -lt "${wanted#*.}" ]; }; then
            fail "$program is $found, Petrel needs $wanted: install a newer Rust with https://rustup.rs"
        fi
    done
}

# can_open FILE: succeeds if FILE exists and can be opened for reading and writing; never creates it.
can_open() {
    # <> creates a missing file.
    [ -e "$1" ] && (: <>"$1") 2>/dev/null
}
