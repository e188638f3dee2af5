#!/usr/bin/env bash
# All that a lent card is for, within eight minutes: bench/on_card.sh [OUT], from a bare checkout, with nothing installed.
# Pure-Python wheels that the machine lacks are found in .wheels/ (ignored by git), if they were carried along:
#     pip download --no-deps --only-binary=:all: -d .wheels NAME...
# PYTHON chooses the interpreter.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
path=$root${PYTHONPATH:+:$PYTHONPATH}
for wheel in "$root"/.wheels/*.whl; do
    if [ -e "$wheel" ]; then path=$path:$wheel; fi
done
export PYTHONPATH=$path PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m bench.on_card "$@"
