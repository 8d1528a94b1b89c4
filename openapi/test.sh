#!/usr/bin/env bash
# Schemathesis against a running server and openapi.json:  openapi/test.sh BINARY VENV
#
# Thousands of requests that the document allows and forbids; no answer may be one that it doesn't describe, and none a 5xx. Which ones
# is decided by the seed in schemathesis.toml. VENV is made once and used again as long as requirements.txt stays the same; that needs
# PyPI. The last line is like that of `cargo test`.
set -uo pipefail
binary=$(realpath -- "${1:?usage: openapi/test.sh BINARY VENV}")
venv=$(realpath -m -- "${2:?usage: openapi/test.sh BINARY VENV}")
cd "$(dirname "${BASH_SOURCE[0]}")"
python=${PYTHON:-python3}
scratch=$(mktemp -d -t lastword-openapi-XXXXXX)
server=
clean() {
    [[ -n $server ]] && kill -KILL "$server" 2>/dev/null && wait "$server" 2>/dev/null
    rm -rf -- "$scratch"
}
trap clean EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
unset LASTWORD_DATA_DIR LASTWORD_LISTEN LASTWORD_CONFIG

finish() {
    if [[ $1 -eq 0 ]]; then
        echo "test result: ok. 1 passed; 0 failed; 0 ignored"
    else
        echo "test result: FAILED. 0 passed; 1 failed; 0 ignored"
    fi
    exit "$1"
}

fail() {
    echo "openapi: $1" >&2
    finish 1
}

if ! cmp -s requirements.txt "$venv/requirements.txt"; then
    rm -rf -- "$venv"
    "$python" -m venv "$venv" && "$venv/bin/pip" install -q -r requirements.txt || fail "schemathesis can't be installed"
    cp requirements.txt "$venv/"
fi

: >"$scratch/log"
"$binary" --data-dir "$scratch/data" serve --listen 127.0.0.1:0 --allow-unenforced 2>"$scratch/log" &
server=$!
for _ in {1..200}; do
    url=$(sed -n 's/.*listening on \(http[^ ]*\).*/\1/p' "$scratch/log")
    [[ -n $url ]] && break
    sleep 0.05
done
[[ -n $url ]] || fail "the server doesn't start: $(cat "$scratch/log")"

cp openapi.json schemathesis.toml "$scratch/"
cd "$scratch" || fail "no $scratch"
# A run that hangs is a failed one.
timeout --kill-after=10 600 "$venv/bin/schemathesis" --config-file schemathesis.toml --no-color run --url "$url" openapi.json
result=$?
kill -0 "$server" 2>/dev/null || fail "the server is gone: $(tail -5 log)"
grep -i "panicked" log && fail "the server panicked"
# What still runs is ended, so that nothing is left behind.
"$binary" --data-dir "$scratch/data" list --status queued --status running --limit 1000 --json |
    sed -n 's/.*"id":"\([0-9a-f-]*\)".*/\1/p' | xargs -r "$binary" --data-dir "$scratch/data" cancel >cancelled 2>&1
finish "$result"
