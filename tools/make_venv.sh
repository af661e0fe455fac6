#!/bin/sh
# Makes the virtual environment $1 with the interpreter $2, or else with the first Python >= 3.11 that runs
# and can make one. An environment that works is kept as it is; a broken or outdated one is made anew.
set -eu
venv=$1
shift
[ $# -gt 0 ] || set -- python3 python3.13 python3.12 python3.11 python3.14 python
modern='import sys; sys.exit(sys.version_info < (3, 11))'

works() {
    [ -x "$venv/bin/python" ] && "$venv/bin/python" -c "$modern" && "$venv/bin/python" -m pip --version
}
if works >/dev/null 2>&1; then
    exit 0
fi

# The version is asked of the program itself: a name on PATH may be a shim that starts nothing.
for python in "$@"; do
    if "$python" -c "$modern" && "$python" -c 'import venv, ensurepip'; then
        found=$python
        break
    fi
done >/dev/null 2>&1

if [ -z "${found:-}" ]; then
    echo "mktopt needs Python 3.11 or newer with the modules venv and ensurepip; tried: $*" >&2
    echo "Install one (on Debian: python3 and python3-venv), or name it: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi
echo "making $venv with $("$found" --version) ($(command -v "$found"))"
exec "$found" -m venv --clear "$venv"
