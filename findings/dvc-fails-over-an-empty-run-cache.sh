#!/usr/bin/env bash
# dvc 3.67.1, Python 3.11: to note in its run cache what a stage made of its inputs, `dvc repro` makes a folder and then
# the file in it. Where a kill comes in between, and before dvc.lock is written, the folder stays empty, and every later
# `dvc repro` of that stage fails with a message that names neither the folder nor a remedy. To remove the folder is all.
#
# Seen:
#   dvc repro after the kill:   join() argument must be str, bytes, or os.PathLike object, not 'NoneType'
#   and without the folder:     runs the stage
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
cat > dvc.yaml <<'Y'
stages:
  make: {cmd: cp source out, deps: [source], outs: [out]}
Y
echo 1 > source
dvc repro --quiet
rm dvc.lock out .dvc/cache/runs/*/*/*  # as the kill leaves it
after=$(dvc repro 2>&1 || true)
rmdir .dvc/cache/runs/*/*
without=$(dvc repro | grep -o "Running stage" > /dev/null && echo "runs the stage" || echo "fails")
echo "dvc repro after the kill:   $(grep -o "join() argument.*" <<< "$after")"
echo "and without the folder:     $without"
grep -q "join() argument must be str" <<< "$after" && [ "$without" = "runs the stage" ]
