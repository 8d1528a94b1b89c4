#!/bin/sh
# Usage: fuzz/run.sh SECONDS [TARGET...]
# Builds the fuzz targets with the stable compiler and runs each for SECONDS; fails on the first crash.
set -eu

seconds=${1:?"usage: fuzz/run.sh SECONDS [TARGET...]"}
shift
[ $# -gt 0 ] || set -- binary_decode lines_decode verify roundtrip image_layer image_documents

cd "$(dirname "$0")"
vectors=../crates/frame/tests/vectors
host=$(rustc -vV | sed -n 's/^host: //p')

# What `cargo fuzz` passes, without the address sanitizer, which needs nightly: none of this code is unsafe.
# With --target, build scripts are not instrumented.
RUSTFLAGS="--cfg fuzzing -C passes=sancov-module -C codegen-units=1"
for flag in level=4 inline-8bit-counters pc-table trace-compares; do
    RUSTFLAGS="$RUSTFLAGS -C llvm-args=-sanitizer-coverage-$flag"
done
export RUSTFLAGS
export RUST_BACKTRACE=1
# Not the workspace's directory: other flags would rebuild both in turn.
export CARGO_TARGET_DIR="${LASTWORD_FUZZ_TARGET_DIR:-$PWD/target}"
cargo build --quiet --locked --release --target "$host"
bin=$CARGO_TARGET_DIR/$host/release

# A fuzzer that can't find this finds nothing. It has to look for it, as it starts from nothing.
nowhere=$(mktemp -d)
# Targets that unpack images sync what they write: not to a real disk.
scratch=$(TMPDIR=/dev/shm mktemp -d)
trap 'rm -rf "$nowhere" "$scratch"' EXIT
if "$bin/canary" -seed=1 -max_total_time=60 -artifact_prefix="$nowhere/" \
    >"$nowhere/log" 2>&1; then
    echo "fuzz: the canary was not found within 60 s: the targets are not instrumented" >&2
    exit 1
fi
grep -q 'the canary was found' "$nowhere/log" || {
    cat "$nowhere/log" >&2
    echo "fuzz: the canary failed, and not as it should" >&2
    exit 1
}

for target; do
    mkdir -p "corpus/$target" "artifacts/$target"
    # New inputs go into corpus/, which is not committed; seeds and vectors are only read.
    set -- "corpus/$target"
    case $target in image_*) ;; *) set -- "$@" "$vectors" ;; esac
    [ ! -d "seeds/$target" ] || set -- "$@" "seeds/$target"
    if ! TMPDIR=$scratch "$bin/$target" -max_total_time="$seconds" -max_len=16384 -rss_limit_mb=1024 -timeout=10 \
        -artifact_prefix="artifacts/$target/" -print_final_stats=1 "$@" >"artifacts/$target/log" 2>&1; then
        tail -n 60 "artifacts/$target/log" >&2
        echo "fuzz: $target failed; its input is in fuzz/artifacts/$target/" >&2
        exit 1
    fi
    units=$(sed -n 's/^stat::number_of_executed_units: *//p' "artifacts/$target/log")
    covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "artifacts/$target/log" | tail -n 1)
    echo "fuzz: $target: $units inputs in $seconds s, $covered places covered, no failure"
done
