#!/usr/bin/env bash
# Walks the API with requests that schemathesis makes up from /openapi.json, against a node of its own: no answer may
# be a server error, or one that the document does not have. `make schemathesis`; arguments go to schemathesis.
#
# Event streams are left out: they have no end. Tests of the gateway follow them.
set -euo pipefail

lattice=${LATTICE:-target/debug/lattice}
folder=$(mktemp -d)
trap 'kill "${node:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$folder"' EXIT

tool=$(command -v schemathesis || true)
if [ -z "$tool" ]; then
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet schemathesis==4.32.5
    tool=$folder/venv/bin/schemathesis
fi

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
umask 077
echo "admin schemathesis" >"$folder/tokens"
"$lattice" node --set node.data_dir="$folder/data" --set gateway.listen="127.0.0.1:$port" \
    --set gateway.token_file="$folder/tokens" --set sensor.p2p_listen=/ip4/127.0.0.1/tcp/0 \
    --set coordinator.http_peers="$url" >"$folder/log" 2>&1 &
node=$!
for _ in $(seq 300); do
    curl -sf "$url/readyz" >/dev/null && break
    sleep 0.1
done

cd "$folder"
outcome=0
"$tool" run "$url/openapi.json" --header "Authorization: Bearer schemathesis" \
    --exclude-path /v1/watch --exclude-path /api/lattice/events \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,unsupported_method,allow_header_conformance,ignored_auth \
    --max-examples "${EXAMPLES:-100}" --seed "${SEED:-1}" --request-timeout 20 --warnings off "$@" || outcome=$?
if ! kill -0 "$node" 2>/dev/null || grep -q ' panic' "$folder/log"; then
    echo "the node did not survive it:" >&2
    tail -20 "$folder/log" >&2
    outcome=1
fi
exit "$outcome"
