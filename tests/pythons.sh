#!/bin/sh
# The demo and the core tests on each Python named (default: python3.10 to python3.13, those on the PATH that run), each in an
# environment of its own below .pythons/, and a line for each: passed, or what failed and where its log is.
#
#     make test-pythons PYTHONS='python3.10 python3.13'
cd "$(dirname "$0")/.." || exit 2

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# Prints what became of one Python; the exit code is 0 if all passed.
examine() {
    version=$(version_of "$1") || { echo "cannot be run"; return 1; }
    case $version in
        3.10 | 3.11 | 3.12 | 3.13) ;;
        *) echo "is Python $version; 3.10 to 3.13 are supported"; return 1 ;;
    esac
    home=.pythons/$version
    mkdir -p "$home"
    settings="PYTHON=$1 VENV=$home/venv DEMO_RUN=$home/demo_run"
    for goal in setup demo setup-tests; do
        # shellcheck disable=SC2086
        ${MAKE:-make} --no-print-directory "$goal" $settings >"$home/$goal.log" 2>&1 || {
            echo "make $goal failed: $(grep -v '^make' "$home/$goal.log" | tail -n 1); see $home/$goal.log"
            return 1
        }
    done
    # shellcheck disable=SC2086
    "$home/venv/bin/python" -m pytest -q ${CORE_TESTS:-tests/unit} >"$home/tests.log" 2>&1 || {
        echo "tests failed: $(tail -n 1 "$home/tests.log"); see $home/tests.log"
        return 1
    }
    accuracy=$(sed -n 's/.*Accuracy-Flip: //p' "$home/demo.log" | tail -n 1)
    echo "passed: demo $accuracy, tests $(tail -n 1 "$home/tests.log")"
}

if [ $# -eq 0 ]; then
    for python in python3.10 python3.11 python3.12 python3.13; do
        if version_of "$python" >/dev/null; then set -- "$@" "$python"; fi
    done
fi
[ $# -gt 0 ] || { echo "error: no Python 3.10 to 3.13 on the PATH runs; name one: make test-pythons PYTHONS=..." >&2; exit 2; }

failures=0
summary=
for python in "$@"; do
    echo "$python ..."
    line=$(examine "$python") || failures=$((failures + 1))
    summary="$summary$python: $line
"
done
printf '%s' "$summary"
[ $failures -eq 0 ]
