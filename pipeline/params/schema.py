"""params.yaml as a typed, frozen, validated tree.

`pipeline.params.load` reads it; the types of single values are in `pipeline.params.types`, what must hold between
values in `pipeline.params.rules`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, field_validator

from pipeline.core import names
from pipeline.core.errors import ParamsError
from pipeline.params.adopted import Adopted
from pipeline.params.balancing import Balancing as Balancing
from pipeline.params.loss_weights import loss_weights
from pipeline.params.search import Search
from pipeline.params.section import Section as Section
from pipeline.params.tuned import Tuned
from pipeline.params.types import (
    Angle,
    AutoOrBool,
    BatchNormMomentum,
    Count,
    Fraction,
    Momentum,
    Name,
    Natural,
    NonNegative,
    OutputStride,
    Positive,
    Pretrained,
    RunName,
    Seed,
    SeedKey,
    Size,
    StepFactor,
    TaskName,
    TaskNames,
    Text,
    Unique,
    one_of,
)
from pipeline.params.yaml_file import read_yaml

# Values of keys that the file leaves out. DVC depends on that file, not on this one: every default that can decide a
# result stands there (tests/stages/test_graph.py).
DEFAULTS = read_yaml(Path(__file__).with_name("defaults.yaml"))
_data, _training, _evaluation = (DEFAULTS[section] for section in ("data", "training", "evaluation"))
_rooms, _augmentation = _data["rooms"], _training["augmentation"]

# -- the tree ------------------------------------------------------------------------------------------------


class Rooms(Section):
    """The generated indoor world: how many frames and how large, [height, width] in pixels."""

    seed: Seed = _rooms["seed"]
    train: Count = _rooms["train"]
    val: Count = _rooms["val"]
    size: Size = _rooms["size"]


class Data(Section):
    """What `prepare` packs: the dataset, the tasks whose labels are kept, at most `limit` samples a split.

    archive: another archive of the dataset's layout than the published one: a file name in PIPELINE_ARCHIVES, a path
    or an address. folder: where the dataset called `folder` lies. skip_broken: leave out broken samples, not fail.
    """

    dataset: Annotated[str, one_of("dataset", names.DATASETS)]
    tasks: Annotated[TaskNames, Field(min_length=1)]
    limit: Count | None = _data["limit"]
    archive: Text | None = _data["archive"]
    folder: Text = _data["folder"]
    skip_broken: StrictBool = _data["skip_broken"]
    rooms: Rooms = Rooms()


class Augmentation(Section):
    """Random changes of training images: flip probability, zoom factors, rotation in ± degrees, and photometry.

    crop: which part of an enlarged image is kept. brightness, contrast, saturation: each factor is uniform in
    [1 - value, 1 + value]; 0 leaves the image alone.
    """

    flip: Fraction = _augmentation["flip"]
    scale: Annotated[tuple[Positive, ...], Field(min_length=1)] = _augmentation["scale"]
    scale_mode: Literal["choice", "range"] = _augmentation["scale_mode"]
    rotation: Angle = _augmentation["rotation"]
    crop: Literal["center", "random"] = _augmentation["crop"]
    brightness: Fraction = _augmentation["brightness"]
    contrast: Fraction = _augmentation["contrast"]
    saturation: Fraction = _augmentation["saturation"]


class Training(Section):
    """The recipe of one training run; `runs.<run>.training` overrides single values of it.

    batch_size: images of one optimiser step. accumulate: they go through the network in so many equal parts, whose
    gradients are averaged; batch norm and the masked means of the losses then see one part at a time.
    clip_norm: the step's gradient is scaled down to this norm where it is longer.
    hrnet_upsampling, initialization, batch_norm_momentum: see networks.registry.build; "released" is None there.
    cpu_threads: how many torch computes with on a CPU, in training and in scoring; None: as many as it takes by itself.
    Threads share out sums, so another number rounds otherwise. No matter on a GPU.
    """

    backbone: Text
    pretrained: Pretrained = _training["pretrained"]
    output_stride: OutputStride = _training["output_stride"]
    hrnet_upsampling: Literal["bilinear", "nearest"] = _training["hrnet_upsampling"]
    initialization: Literal["released", "he"] = _training["initialization"]
    batch_norm_momentum: BatchNormMomentum = _training["batch_norm_momentum"]
    input_size: Size
    batch_size: Count
    epochs: Count
    optimizer: Literal["adam", "adamw", "sgd"] = _training["optimizer"]
    lr: Positive
    weight_decay: NonNegative = _training["weight_decay"]
    momentum: Momentum = _training["momentum"]
    schedule: Literal["poly", "constant", "step"] = _training["schedule"]
    power: Positive = _training["power"]
    step_epochs: Count = _training["step_epochs"]
    step_factor: StepFactor = _training["step_factor"]
    task_weights: dict[TaskName, Positive] = _training["task_weights"]
    deep_supervision: StrictBool = _training["deep_supervision"]
    augmentation: Augmentation = Augmentation()
    normalization: Literal["imagenet", "half", "none"] = _training["normalization"]
    validate_every: Natural | None = _training["validate_every"]
    channels_last: StrictBool = _training["channels_last"]
    precision: Literal["auto", "float32", "bfloat16"] = _training["precision"]
    cuda_graph: AutoOrBool = _training["cuda_graph"]
    compile: StrictBool = _training["compile"]
    accumulate: Count = _training["accumulate"]
    clip_norm: Positive | None = _training["clip_norm"]
    deterministic: StrictBool = _training["deterministic"]
    cpu_threads: Count | None = _training["cpu_threads"]

    @field_validator("task_weights")
    @classmethod
    def _every_task_has_a_weight(cls, weights: dict[str, float]) -> dict[str, float]:
        return {task: weights.get(task, _training["task_weights"][task]) for task in names.TASKS}

    @field_validator("augmentation")
    @classmethod
    def _range_is_two_ascending(cls, augmentation: Augmentation) -> Augmentation:
        scale = augmentation.scale
        if augmentation.scale_mode == "range" and (len(scale) != 2 or scale[0] > scale[1]):
            raise ValueError(f"scale_mode range needs scale: [lowest, highest], got {list(scale)}")
        return augmentation


# A baseline on another backbone is no baseline, so that one stays out.
RecipeValue = Annotated[str, one_of("training value", sorted(set(Training.model_fields) - {"backbone"}))]


class Evaluation(Section):
    """Scoring and comparison. `allow_different`: recipe values that may differ from the baselines'.

    select_on: which weights are scored: null: the last; train_holdout: those of the epoch that did best on a tenth
    of the training split, kept out of training for that. edge_nms: non-maximum suppression of edge predictions
    before they are thinned. split: which one is scored; training, and what chooses weights, never see test.
    """

    split: Literal["val", "test"] = _evaluation["split"]
    batch_size: Count = _evaluation["batch_size"]
    panels: Annotated[Natural, Field(le=1000)] = _evaluation["panels"]
    select_on: Literal["train_holdout"] | None = _evaluation["select_on"]
    edge_nms: StrictBool = _evaluation["edge_nms"]
    allow_different: Annotated[tuple[RecipeValue, ...], Unique] = _evaluation["allow_different"]


class Run(Section):
    """One entry of `runs` or `runs_from_single_task`, as written.

    adopted: a file for each seed; none where it is trained.
    """

    architecture: Annotated[str, one_of("architecture", names.ARCHITECTURES)]
    tasks: Annotated[TaskNames, Field(min_length=1)]
    auxiliary_tasks: TaskNames = ()
    options: dict[str, Any] = {}
    balancing: Balancing = Balancing()
    adopted: dict[SeedKey, Adopted] = {}
    training: dict[str, Any] = {}  # checked as a Training, once merged over the common values


class ResolvedRun(Section):
    """One run with its overrides merged into the common recipe: all that training needs."""

    name: RunName
    from_single_task: bool  # it starts from the trained networks of single-task runs
    architecture: str
    tasks: tuple[str, ...]
    auxiliary_tasks: tuple[str, ...]
    options: dict[str, bool | int | float | str]
    balancing: Balancing = Balancing()
    adopted: dict[SeedKey, Adopted] = {}
    training: Training

    @property
    def all_tasks(self) -> tuple[str, ...]:
        """Tasks that are trained: the scored ones, then the auxiliary ones."""
        return self.tasks + self.auxiliary_tasks

    @property
    def loss_weights(self) -> dict[str, float]:
        """{task: weight of its loss} of all tasks."""
        return loss_weights(self.all_tasks, self.training.task_weights)

    @property
    def key(self) -> str:
        """Where it stands in params.yaml."""
        return f"runs_from_single_task.{self.name}" if self.from_single_task else f"runs.{self.name}"

    def stage(self, work: str, seed: int) -> str:
        """The DVC stage that does its `work`, train or evaluate."""
        return f"{work}{'_from_single_task' if self.from_single_task else ''}@{self.name}-{seed}"


class Params(Section):
    """The whole of params.yaml."""

    experiment: Name = DEFAULTS["experiment"]  # MLflow's name for this profile
    data: Data
    training: Training
    evaluation: Evaluation = Evaluation()
    checkpoint_minutes: Positive = 10.0  # no stage depends on it: it changes no result
    search: Search = Search()  # no stage depends on it: it is about trials alone
    seeds: Annotated[tuple[Seed, ...], Unique, Field(min_length=1)]
    runs: Annotated[dict[RunName, Run], Field(min_length=1)]
    runs_from_single_task: dict[RunName, Run] = {}
    tuned: dict[RunName, Tuned] = DEFAULTS["tuned"]

    @property
    def all_runs(self) -> dict[str, Run]:
        """`runs`, then `runs_from_single_task`: wherever it doesn't matter how a network starts."""
        return self.runs | self.runs_from_single_task

    def run(self, name: str) -> ResolvedRun:
        """The run `name` with its overrides merged. Raises ParamsError for an unknown name."""
        if name not in self.all_runs:
            raise ParamsError(f"params: {names.unknown('run', name, self.all_runs)}")
        run = self.all_runs[name]
        training = Training.model_validate(merge(self.training.model_dump(), run.training))
        from_single_task = name in self.runs_from_single_task
        values = run.model_dump(exclude={"training"})
        return ResolvedRun(name=name, from_single_task=from_single_task, **values, training=training)

    def flat(self, name: str) -> dict[str, bool | int | float | str]:
        """Every value that matters to the run `name` under dotted keys, lists and null as text."""
        run = self.run(name)
        data = self.data.model_dump(exclude_none=True)
        for section in set(names.DATASETS) - {self.data.dataset}:
            data.pop(section, None)
        training = run.training.model_dump()
        training["task_weights"] = run.loss_weights
        tree = {"data": data, "training": training, "evaluation": self.evaluation.model_dump(exclude_none=True)}
        return _flatten(run.model_dump(exclude={"training", "name"})) | _flatten(tree)

    def shown(self, name: str) -> dict[str, bool | int | float | str]:
        """Of `flat`, what people compare in MLflow: `_COMPARED`, what differs from defaults.yaml, and what the run's
        own entry says."""
        run = self.all_runs[name]
        own = _flatten(run.model_dump(include=run.model_fields_set))
        usual = _flatten({section: DEFAULTS[section] for section in ("data", "training", "evaluation")}) | _USUAL_RUN
        flat = self.flat(name)
        return {
            key: value for key, value in flat.items() if key in own or key in _COMPARED or value != usual.get(key, ...)
        }


def merge(common: dict, override: dict) -> dict:
    """`override` over `common`, mappings merged key by key, lists replaced."""
    merged = copy.deepcopy(common)
    for key, value in override.items():
        both_maps = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both_maps else value
    return merged


def _flatten(tree: dict, prefix: str = "") -> dict[str, bool | int | float | str]:
    flat: dict[str, bool | int | float | str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif value is None:
            flat[prefix + key] = "null"
        else:
            flat[prefix + key] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return flat


_COMPARED = {"architecture", "tasks", "data.dataset"} | {
    f"training.{key}" for key in ("backbone", "input_size", "batch_size", "epochs", "optimizer", "lr", "weight_decay")
}
_USUAL_RUN = _flatten(Run(architecture=names.SINGLE_TASK, tasks=("semseg",)).model_dump() | {"from_single_task": False})
