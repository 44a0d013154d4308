#!/usr/bin/env bash
# dvc 3.67.1, Python 3.11: a folder below a dependency that is a symbolic link is not hashed. A file behind it may change,
# every reader sees the new bytes, and `dvc status` says "Data and pipelines are up to date." A link to a single file, and
# a dependency that is itself a link to a folder, are hashed by what they point to, so the first looks covered too.
# A data set that is assembled out of links (images/ -> /scratch/images) is then never prepared again, and a shared run
# cache hands out the result of another one.
#
# Seen:
#   link to a file changed:           modified
#   link to a folder, file changed:   up to date, although the command would read: new
#   dependency is a link, changed:    modified
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
mkdir data elsewhere real
echo old > elsewhere/a.txt; echo old > elsewhere/b.txt; echo old > real/c.txt
ln -s ../elsewhere/a.txt data/a.txt
mkdir elsewhere/folder; mv elsewhere/b.txt elsewhere/folder/
ln -s ../elsewhere/folder data/folder
ln -s real linked
cat > dvc.yaml <<'Y'
stages:
  below:  {cmd: cat data/a.txt data/folder/b.txt > below.txt, deps: [data], outs: [below.txt]}
  itself: {cmd: cat linked/c.txt > itself.txt, deps: [linked], outs: [itself.txt]}
Y
dvc repro --quiet

changed() { dvc status "$1" | grep -q modified && echo modified || echo "up to date"; }
echo new > elsewhere/a.txt
file=$(changed below); dvc repro --quiet
echo new > elsewhere/folder/b.txt
folder=$(changed below)
echo new > real/c.txt
itself=$(changed itself)
echo "link to a file changed:           $file"
echo "link to a folder, file changed:   $folder, although the command would read: $(cat data/folder/b.txt)"
echo "dependency is a link, changed:    $itself"
[ "$file" = modified ] && [ "$folder" = "up to date" ] && [ "$itself" = modified ]
