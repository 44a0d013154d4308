"""Errors meant for people: one message that says the value, what is allowed and the remedy.

A stage prints the message alone (no traceback) and exits with code 2. Anything else that is raised is our own
bug and keeps its traceback.
"""

REPAIR = "run `python -m stages.doctor --verify --fix`, which removes it here and from DVC's cache, then `dvc repro`"
"""The remedy for a file whose bytes changed. To delete it is not enough: DVC would link it from its cache again."""


class PipelineError(Exception):
    """Base of every error whose message a person can act on."""


class ParamsError(PipelineError):
    """params.yaml holds something that is unknown, of the wrong type or out of range."""


class DataError(PipelineError):
    """An archive, a raw file or the prepared store is missing, damaged or not what it should be."""


class OtherVersionError(DataError):
    """JSON of another version, or without a checksum: a stage of another version wrote it, or no stage."""


class UnreadableError(DataError):
    """A file that the machine can't read now, for want of rights or a disk's answer: it may be sound."""


class MachineError(PipelineError):
    """The machine lacks memory, space, open files or permission; what was being read may be sound."""


class TrackingError(PipelineError):
    """The MLflow store or server cannot be used."""


class TrainingError(PipelineError):
    """Training cannot continue, for example because a loss is no longer finite."""


class SearchError(PipelineError):
    """A study of hyperparameters, or its storage, can't be used as params ask for it."""


class StageError(PipelineError):
    """A stage that was started beside others failed; what it said itself stands above."""


class ComparisonError(PipelineError):
    """Two results that may not be compared (other split, backbone or schedule)."""
