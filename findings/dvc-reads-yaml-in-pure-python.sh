#!/usr/bin/env bash
# DVC 3.67.1 with ruamel.yaml 0.19.1, which `pip install dvc` brings: every command parses YAML in pure Python.
#
# Seen 2026-11-28, Python 3.11. DVC asks for ruamel.yaml>=0.17.11 and reads dvc.yaml, dvc.lock and params by
# YAML(typ="safe"), which takes the parser in C where there is one. Up to 0.18 ruamel.yaml brought it along; 0.19 does not,
# and says nothing. A dvc.lock of 25 stages with fifteen dependencies each, which DVC reads at every command, takes about
# four times as long.
# `pip install ruamel.yaml.clib` (or ruamel.yaml[oldlibyaml]) brings it back, with a surprise of its own: the libyaml in
# it refuses text with a colon inside braces or brackets, {archive: https://host/a.tgz}, which pure Python reads.
# Output seen: parser in C: False; read: 183 ms; in braces: https://host/a.tgz; then, with ruamel.yaml.clib, parser in C:
# True; read: 48 ms; in braces: found unexpected ':'; 3.8 times as fast.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check dvc==3.67.1 ruamel.yaml==0.19.1
cat >read.py <<'PY'
import statistics
import sys
import time

import ruamel.yaml.main
from dvc.utils.serialize import parse_yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

dep = "    - path: code/part_{0}\n      hash: md5\n      md5: 0123456789abcdef0123456789abcde{1:x}\n      size: {0}\n"
stage = "  stage_{0}:\n    cmd: python -m stage --number {0}\n    deps:\n{1}"
lock = "schema: '2.0'\nstages:\n" + "".join(
    stage.format(number, "".join(dep.format(part, part) for part in range(15))) for number in range(25)
)
in_c = ruamel.yaml.main.CParser is not None
seconds = []
for _ in range(5):
    began = time.process_time()
    assert len(parse_yaml(lock, "dvc.lock")["stages"]) == 25
    seconds.append(time.process_time() - began)
print("parser in C:", in_c)
print(f"read: {1000 * statistics.median(seconds):.0f} ms")
try:
    print("in braces:", YAML(typ="safe").load("{archive: https://host/a.tgz}")["archive"])
except YAMLError as error:
    print("in braces:", error.problem)
open(sys.argv[1], "w").write(str(statistics.median(seconds)))
PY
env/bin/python read.py before | tee pure.txt
env/bin/pip install --quiet --disable-pip-version-check ruamel.yaml.clib==0.2.15
env/bin/python read.py after | tee c.txt
grep -q "parser in C: False" pure.txt && grep -q "parser in C: True" c.txt
grep -q "in braces: https://host/a.tgz" pure.txt && grep -q "in braces: found unexpected ':'" c.txt
env/bin/python - <<'PY'
before, after = (float(open(name).read()) for name in ("before", "after"))
print(f"{before / after:.1f} times as fast")
assert before / after > 2
PY
