#!/bin/sh
# Resolve the requirements anew: names, versions and SHA-256, no registry address. Needs `pip install uv`.
set -eu
cd "$(dirname "$0")/.."
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-emit-find-links --no-header --no-annotate "$@"
}
compile requirements/dev.in -o requirements/dev.txt
compile requirements/runtime.in -c requirements/dev.txt -o requirements/runtime.txt
