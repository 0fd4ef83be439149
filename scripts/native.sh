#!/bin/sh
# Build the native core of the join into streams/native/. Without a Rust toolchain nothing is built and nothing is lost:
# the reference implementation does the same work, slower. `--strict` makes its absence an error; `--check` runs the
# core's own lints and tests.
set -eu
cd "$(dirname "$0")/.."
target=streams/native/libdriftline_hot.so
least=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' native/Cargo.toml)
mode=${1:-}

without() {
    echo "$1: $2" >&2
    echo "  → install Rust $least or newer: https://rustup.rs (on Debian 13: apt-get install cargo rust-clippy)" >&2
    [ "$mode" != "--strict" ] || exit 2
    exit 0
}

skipped="the join runs without its native core, several times slower"
[ "$mode" != "--check" ] || skipped="the native core is not checked"
# A name on the PATH may be a shim without a toolchain behind it: ask the compiler itself.
found=$(rustc --version 2>/dev/null | sed -n 's/^rustc \([0-9]*\.[0-9]*\).*/\1/p') || found=
if [ -z "$found" ] || ! cargo --version >/dev/null 2>&1; then
    without "No Rust toolchain (rustc, cargo)" "$skipped"
fi
if [ "$(printf '%s\n%s\n' "$least" "$found" | sort -V | head -n 1)" != "$least" ]; then
    without "Rust $found is too old" "$skipped"
fi

if [ "$mode" = "--check" ]; then
    if cargo clippy --version >/dev/null 2>&1; then
        cargo clippy --quiet --release --locked --offline --manifest-path native/Cargo.toml --all-targets -- -D warnings
    else
        echo "No clippy: the native core is tested, but not linted." >&2
        echo "  → rustup component add clippy (on Debian or Ubuntu: apt-get install rust-clippy)" >&2
    fi
    exec cargo test --quiet --release --locked --offline --manifest-path native/Cargo.toml
fi
newest=$(ls -t native/Cargo.toml native/Cargo.lock native/src/*.rs | head -n 1)
if [ -f "$target" ] && [ ! "$newest" -nt "$target" ]; then exit 0; fi
echo "Building the native core ..." >&2
cargo build --quiet --release --locked --offline --manifest-path native/Cargo.toml
built=native/target/release/libdriftline_hot.so
[ -f "$built" ] || built=native/target/release/libdriftline_hot.dylib
# Into place in one step: a worker may have the old one open.
mkdir -p "$(dirname "$target")"
cp "$built" "$target.new"
mv "$target.new" "$target"
