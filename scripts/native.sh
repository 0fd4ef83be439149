#!/bin/sh
# Build the native core of the join into streams/native/. Without a Rust toolchain nothing is built and nothing is lost:
# the reference implementation does the same work, slower. `--strict` makes its absence an error.
set -eu
cd "$(dirname "$0")/.."
target=streams/native/libdriftline_hot.so
if ! command -v cargo >/dev/null 2>&1; then
    echo "No Rust toolchain (cargo): the join runs without its native core, several times slower." >&2
    [ "${1:-}" != "--strict" ] || exit 2
    exit 0
fi
if [ "${1:-}" = "--check" ]; then
    cargo clippy --quiet --release --locked --offline --manifest-path native/Cargo.toml --all-targets -- -D warnings
    exec cargo test --quiet --release --locked --offline --manifest-path native/Cargo.toml
fi
newest=$(ls -t native/Cargo.toml native/Cargo.lock native/src/*.rs | head -n 1)
if [ -f "$target" ] && [ ! "$newest" -nt "$target" ]; then exit 0; fi
echo "Building the native core ..." >&2
cargo build --quiet --release --locked --offline --manifest-path native/Cargo.toml
# Into place in one step: a worker may have the old one open.
cp native/target/release/libdriftline_hot.so "$target.new"
mv "$target.new" "$target"
