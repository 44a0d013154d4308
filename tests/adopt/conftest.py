"""What tests of adoption share: their narrow HRNets and ViT pass for those of the released codes."""

from __future__ import annotations

import re

import pytest

from pipeline.adopt import codes


@pytest.fixture(autouse=True)
def narrow_backbones(monkeypatch):
    monkeypatch.setattr(codes, "BACKBONES", re.compile(f"{codes.BACKBONES.pattern}|hrnet_narrow|hrnet_sixes"))
    monkeypatch.setattr(codes, "VITS", re.compile(f"{codes.VITS.pattern}|vit_narrow"))
