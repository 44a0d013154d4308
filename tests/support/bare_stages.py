"""Stages one after the other, each a fork of a process that has imported packages of others and none of ours.

So each imports itself what it uses of `pipeline` and `stages`, as `python -m stages.NAME` does; what takes seconds is
imported once. `python -m tests.support.bare_stages` reads the stages as JSON, [[NAME, ARGUMENT, ...], ...], and ends
with the code of the first that fails.
"""

from __future__ import annotations

import json
import os
import runpy
import sys

import cv2
import matplotlib.pyplot
import mlflow
import pandas
import pydantic
import scipy
import timm
import torch
import yaml

TAKE_SECONDS = (cv2, matplotlib.pyplot, mlflow, pandas, pydantic, scipy, timm, torch, yaml)


def run(name: str, *arguments: str) -> int:
    """The exit code of a stage."""
    pid = os.fork()
    if not pid:
        sys.argv = [name, *arguments]
        runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)  # ends the process
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    ours = [name for name in sys.modules if name.split(".")[0] in ("pipeline", "stages")]
    assert not ours and torch.get_num_threads() == 1, ours  # threads would not survive the fork
    for stage in json.load(sys.stdin):
        if code := run(*stage):
            print(f"stages.{stage[0]} ended with {code}", file=sys.stderr)
            sys.exit(code)
