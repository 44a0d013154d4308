#!/usr/bin/env bash
# safetensors 0.8.0, numpy 2.4.6: safetensors.numpy.save takes an array whose memory is not in C order, such as normals that a
# network gives as (C, H, W) and a file is to have as (H, W, C), and writes its memory as it lies under the shape that it has.
# Nothing is said; what is read back has the right shape and type, and its values in the wrong places. 0.7.0 wrote it right.
#
# Seen:
#   safetensors 0.7.0: transposed True, in Fortran's order True
#   safetensors 0.8.0: transposed False, in Fortran's order False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9 2> /dev/null
for version in 0.7.0 0.8.0; do
    env/bin/uv pip install --quiet --python env/bin/python safetensors==$version numpy==2.4.6
    env/bin/python - <<'P'
import numpy as np
import safetensors
from safetensors.numpy import load, save

normals = np.arange(24, dtype=np.float32).reshape(3, 2, 4).transpose(1, 2, 0)
depth = np.asfortranarray(np.arange(8, dtype=np.float32).reshape(2, 4))
same = [np.array_equal(load(save({"a": array}))["a"], array) for array in (normals, depth)]
print(f"safetensors {safetensors.__version__}: transposed {same[0]}, in Fortran's order {same[1]}")
P
done | tee seen
grep -qx "safetensors 0.7.0: transposed True, in Fortran's order True" seen
grep -qx "safetensors 0.8.0: transposed False, in Fortran's order False" seen
