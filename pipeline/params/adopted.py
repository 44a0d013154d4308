"""The section `runs.<run>.adopted` of params.yaml."""

from __future__ import annotations

from pipeline.params.section import Section
from pipeline.params.types import Sha256, Text


class Adopted(Section):
    """A checkpoint of a released code that is a run's network, with one seed, instead of training it.

    file: from the project's folder. `python -m stages.adopt` writes both.
    """

    file: Text
    sha256: Sha256
