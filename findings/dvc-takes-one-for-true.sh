#!/usr/bin/env bash
# dvc 3.67.1, Python 3.11: params are compared by Python's ==, which calls 1 and true (and 0 and false) the same value.
# A param edited from 1 to true reruns nothing, although `option: 1` and `option: true` are different inputs to most
# programs. And .nan, which equals nothing, is "modified" for ever: its stage runs again with every `dvc repro`.
#
# Seen:
#   scale: 1 -> true    up to date
#   scale: true -> 2    modified
#   scale: .nan -> .nan modified
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9 2> /dev/null
env/bin/uv pip install --quiet --python env/bin/python dvc==3.67.1
export PATH="$work/env/bin:$PATH" DVC_NO_ANALYTICS=1 DO_NOT_TRACK=1

mkdir project && cd project
git init --quiet . && dvc init --quiet
printf 'stages:\n  train: {cmd: cp params.yaml out.yaml, params: [scale], outs: [out.yaml]}\n' > dvc.yaml
after() {  # what DVC says once scale is $2, after a run with $1
    echo "scale: $1" > params.yaml; dvc repro --quiet --force
    echo "scale: $2" > params.yaml
    dvc status | grep -q modified && echo modified || echo "up to date"
}
one=$(after 1 true); two=$(after true 2); nan=$(after .nan .nan)
echo "scale: 1 -> true    $one"
echo "scale: true -> 2    $two"
echo "scale: .nan -> .nan $nan"
[ "$one" = "up to date" ] && [ "$two" = modified ] && [ "$nan" = modified ]
