#!/usr/bin/env bash
# dvc 3.67.1, Python 3.11: where a file of an out that is a folder can't be copied into the cache, as on a full disk,
# `dvc repro` prints "failed to transfer", names the folder in dvc.lock and ends with exit code 0. Nothing can restore
# the folder then, `dvc push` has nothing to push, and the next `dvc repro` runs the stage again. That is so where
# cache.type begins with reflink or copy, as by default. (Of an out that is a file, it ends with exit code 255.) Once
# there is space, `dvc commit` copies it; nothing has to be run.
#
# A limit on the size of files stands for the full disk here.
#
# Seen:
#   exit code:                0
#   dvc status:               not in cache
#   the next dvc repro:       runs the stage again
#   dvc commit, with space:   nothing to do afterwards
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
head -c 3000000 /dev/zero > ../large
cat > dvc.yaml <<'Y'
stages:
  make: {cmd: mkdir out && mv ../large out/large, outs: [out]}
Y
code=0
(ulimit -f 1500; dvc repro --quiet 2> /dev/null) || code=$?
status=$(dvc status | grep -o "not in cache" || echo "nothing")
again=$(dvc repro --dry | grep -o "Running stage" > /dev/null && echo "runs the stage again" || echo "skips it")
dvc commit --quiet make
after=$(dvc status | grep -o "up to date" > /dev/null && echo "nothing to do afterwards" || echo "still lacking")
echo "exit code:                $code"
echo "dvc status:               $status"
echo "the next dvc repro:       $again"
echo "dvc commit, with space:   $after"
[ "$code" = 0 ] && [ "$status" = "not in cache" ] && [ "$again" = "runs the stage again" ]
[ "$after" = "nothing to do afterwards" ]
