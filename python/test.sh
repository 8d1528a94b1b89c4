#!/usr/bin/env bash
# All tests of the Python package:  python/test.sh BINARY
#
# BINARY is the `lastword` to drive; nothing is built here but wheels in a directory that is removed again. PYTHON chooses the
# interpreter. Needs PyPI for the backend of `pip install .`; mypy is passed over where PyPI has none for this interpreter.
# The last line is like that of `cargo test`, so that one counter reads both.
set -uo pipefail
binary=$(realpath -- "${1:?usage: python/test.sh BINARY}")
cd "$(dirname "${BASH_SOURCE[0]}")"
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
export PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
unset LASTWORD_DATA_DIR LASTWORD_BINARY LASTWORD_SERVER LASTWORD_API_KEY
passed=0 failed=0 ignored=0

step() {
    local name=$1
    shift
    if "$@" >"$scratch/said" 2>&1; then
        passed=$((passed + 1))
        echo "python: $name ... ok"
    else
        failed=$((failed + 1))
        cat "$scratch/said"
        echo "python: $name ... FAILED"
    fi
}

# Counts what unittest says: "Ran 9 tests in 1s", then "OK (skipped=1)" or "FAILED (failures=1, errors=2)".
unit_tests() {
    local said ran end number bad=0
    # A test that hangs is a failed one.
    LASTWORD_BINARY=$binary PYTHONPATH=src timeout --kill-after=10 900 \
        "$python" -W error -m unittest discover -t . -s tests 2>&1 | tee "$scratch/said"
    said=${PIPESTATUS[0]}
    ran=$(sed -n 's/^Ran \([0-9]*\) tests\{0,1\} in .*/\1/p' "$scratch/said" | tail -1)
    end=$(tail -1 "$scratch/said")
    for number in $(grep -oE '(failures|errors|unexpected successes)=[0-9]+' <<<"$end" | cut -d= -f2); do
        bad=$((bad + number))
    done
    number=$(sed -n 's/.*skipped=\([0-9]*\).*/\1/p' <<<"$end")
    ignored=$((ignored + ${number:-0}))
    # A run that broke off has no count, and has failed all the same.
    [[ $said -ne 0 && $bad -eq 0 ]] && bad=1
    [[ ${ran:-0} -eq 0 && $bad -eq 0 ]] && bad=1
    failed=$((failed + bad))
    passed=$((passed + ${ran:-0} - bad - ${number:-0}))
    [[ $passed -lt 0 ]] && passed=0
}

types() {
    "$python" -m venv "$scratch/mypy" || return
    if ! "$scratch/mypy/bin/pip" install -q mypy; then
        echo "python: mypy can't be had here: passed over"
        ignored=$((ignored + 1))
        return
    fi
    step "mypy --strict" "$scratch/mypy/bin/mypy" --strict --cache-dir "$scratch/mypy-cache" src tests build_wheel.py
}

# A venv, what to install into it, and then a run. Outside of this directory, and with no PYTHONPATH.
installed() {
    local venv=$scratch/$1
    shift
    "$python" -m venv "$venv" && "$venv/bin/pip" install -q "$@" || return
    (
        cd "$scratch" && export PATH=$venv/bin:/usr/bin:/bin LASTWORD_DATA_DIR=$scratch/data
        python -c 'import lastword; e = lastword.run("print(1)"); assert (e.ok, e.stdout) == (True, "1\n"), e' &&
            [[ $(lastword --version) == lastword\ * ]] &&
            [[ $(python -m lastword run --runtime python -c 'print(2)') == 2 ]]
    )
}

from_source() {
    # A copy: setuptools writes into the directory that it builds.
    cp -rL . "$scratch/source" && LASTWORD_BINARY=$binary installed source-venv "$scratch/source"
}

# The example in the project's README, as it is written there, in the environment made from source.
readme_example() {
    local readme=$PWD/../README.md venv=$scratch/source-venv
    [[ -f $readme ]] || return
    sed -n '/^```python$/,/^```$/p' "$readme" | sed '/^```/d' >"$scratch/example.py"
    [[ -s $scratch/example.py ]] || return
    (cd "$scratch" && LASTWORD_BINARY=$binary LASTWORD_DATA_DIR=$scratch/data "$venv/bin/python" example.py)
}

from_wheel() {
    # shellcheck disable=SC2144 # one wheel is there, or none
    "$python" build_wheel.py "$binary" "$scratch/wheels" && installed wheel-venv --no-index "$scratch"/wheels/*.whl
}

twice_the_same() {
    "$python" build_wheel.py "$binary" "$scratch/again" && cmp "$scratch"/wheels/*.whl "$scratch"/again/*.whl
}

unit_tests
types
step "pip install . in a fresh venv" from_source
step "the example of the project's README" readme_example
step "the wheel, without network and without a binary on PATH" from_wheel
step "the wheel is the same each time" twice_the_same

[[ $failed -eq 0 ]] && result=ok || result=FAILED
echo "test result: $result. $passed passed; $failed failed; $ignored ignored"
[[ $failed -eq 0 ]]
