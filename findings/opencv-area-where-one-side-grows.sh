#!/usr/bin/env bash
# opencv-python-headless 5.0.0.93 and 4.13.0.90, numpy 2.4.6: INTER_AREA averages only where both sides shrink. Where one
# side shrinks and the other grows or stays shorter (375x1242, KITTI's size, to 384x384), it reads two pixels a side like
# INTER_LINEAR, so the side that shrinks by 3.2 is sampled and not averaged: lines one pixel wide vanish, and images alias.
# Shrinking that side first, by itself, keeps them all.
#
# Seen, of 69 vertical lines of one pixel (both versions):
#   INTER_AREA in one call:                lost 27
#   each side by itself, AREA then LINEAR: lost 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for version in 4.13.0.90 5.0.0.93; do
    rm -rf env && python3 -m venv env
    env/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9 2> /dev/null
    env/bin/uv pip install --quiet --python env/bin/python "opencv-python-headless==$version" numpy==2.4.6
    env/bin/python - <<'P'
import cv2
import numpy as np

image = np.zeros((375, 1242), np.uint8)
lines = np.arange(5, 1242, 18)
image[:, lines] = 255

def lost(out):
    """Lines without a trace within two columns of where they belong."""
    places = (lines + 0.5) * out.shape[1] / image.shape[1] - 0.5
    return sum(not out[:, max(0, int(x) - 1) : int(x) + 3].any() for x in places)

once = lost(cv2.resize(image, (384, 384), interpolation=cv2.INTER_AREA))
narrow = cv2.resize(image, (384, 375), interpolation=cv2.INTER_AREA)
twice = lost(cv2.resize(narrow, (384, 384), interpolation=cv2.INTER_LINEAR))
print(f"OpenCV {cv2.__version__}, of {len(lines)} vertical lines of one pixel:")
print(f"  INTER_AREA in one call:                lost {once}")
print(f"  each side by itself, AREA then LINEAR: lost {twice}")
assert once > 20 and twice == 0, "the behaviour has changed"
P
done
