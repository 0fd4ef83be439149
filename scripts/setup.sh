#!/bin/sh
# Build .venv from the locked requirements: `scripts/setup.sh runtime` or `scripts/setup.sh dev`.
# Does nothing where the lock that was installed last is the one in the tree.
set -eu
kind=${1:-runtime}
cd "$(dirname "$0")/.."
lock=requirements/$kind.txt
stamp=.venv/.installed-$kind

supported() {
    "$1" -c 'import sys; raise SystemExit(not ((3, 11) <= sys.version_info[:2] < (3, 14)))' >/dev/null 2>&1
}

if [ ! -x .venv/bin/python ] || ! supported .venv/bin/python; then
    chosen=
    # A name on the PATH may be a shim that cannot run: ask each one for its version.
    for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3 python; do
        if supported "$candidate"; then chosen=$candidate; break; fi
    done
    if [ -z "$chosen" ]; then
        echo "Driftline needs Python 3.11, 3.12 or 3.13; found: $(python3 --version 2>/dev/null || echo none)." >&2
        echo "  → install one of them, or name it: make $kind PYTHON=/path/to/python3.11" >&2
        exit 2
    fi
    rm -rf .venv
    if ! "$chosen" -m venv .venv; then
        rm -rf .venv
        echo "$chosen cannot make a virtual environment." >&2
        echo "  → on Debian or Ubuntu: apt-get install python3-venv" >&2
        exit 2
    fi
fi

scripts/native.sh
want=$(cat "$lock" pyproject.toml | .venv/bin/python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
# The dev lock holds all of the runtime lock.
for have in "$stamp" .venv/.installed-dev; do
    if [ "$have" != "$stamp" ] && [ "$kind" != runtime ]; then continue; fi
    if [ -f "$have" ] && { [ "$have" != "$stamp" ] || [ "$(cat "$have")" = "$want" ]; }; then exit 0; fi
done
echo "Installing the $kind environment into .venv (a minute or two) ..." >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
printf '%s' "$want" > "$stamp"
