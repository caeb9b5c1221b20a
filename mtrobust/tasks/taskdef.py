"""Task definitions: YAML files with one mapping per task, MT-DNN's own files included.

Needs no torch. Faults come all at once, as lines `file: task.key: value: what is allowed`.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import ConfigDict, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator, model_validator

from mtrobust.config import PerturbSpec, StrictModel
from mtrobust.config_values import faults_of, show, wrong_kind
from mtrobust.errors import UserError
from mtrobust.registry import suggestion
from mtrobust.tasks import mtdnn
from mtrobust.tasks.values import MOST_CLASSES, NAMED, as_names, known, known_list, perturb_specs
from mtrobust.yaml_file import read_scalar, read_yaml

if TYPE_CHECKING:
    from mtrobust.tasks.base import TaskType

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_RESERVED = ("train", "mean")  # keys of all_results.json and of metric_for_best_model


class EvalSet(StrictModel):
    """Another data set on which a task's model is evaluated as it is."""

    model_config = ConfigDict(frozen=True)

    data: str | None = Field(None, description="folder under the data folder; default: the set's name")
    split: str = Field("dev", description="which of its splits")
    labels: list[str] | None = Field(None, description="label names of the set; default: the task's")
    map: dict[str, str] = Field(default_factory=dict, description="the task's label -> the set's label")
    group_by: list[str] | None = Field(None, min_length=1, description="extra columns: figures for each value too")
    worst_of: str | None = Field(None, description="extra column: of rows alike in it (variants) the worst counts too")
    metric_meta: list[str] | None = Field(None, description="metrics; default: the task's")

    @field_validator("data", "split")
    @classmethod
    def _inside_the_data_folder(cls, value: str | None, info: ValidationInfo) -> str | None:
        return TaskDef._relative_folder(value) if info.field_name == "data" else TaskDef._sound_splits([value or ""])[0]

    @field_validator("labels", mode="before")
    @classmethod
    def _label_names(cls, value: Any) -> Any:
        return as_names(value)

    @field_validator("group_by", mode="before")
    @classmethod
    def _columns(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("metric_meta", mode="before")
    @classmethod
    def _metric_names(cls, value: Any) -> Any:
        return known_list(value, mtdnn.METRICS)


class TaskDef(StrictModel):
    """One task. Values are as written in the file, names brought to this package's spelling, defaults filled in."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="the task's name: folder of its data, key of its head")
    task_type: str = Field(description="what kind of task it is")
    data_format: str = Field(description="which fields a row has")
    n_class: int = Field(ge=1, le=MOST_CLASSES, description="number of outputs of the head")
    labels: list[str] = Field(default_factory=list, description="names of the classes, in the order of their ids")
    metric_meta: list[str] = Field(min_length=1, description="metrics; the first is the main one")
    split_names: list[str] = Field(["train", "dev", "test"], min_length=1, description="splits that the data has")
    dropout_p: float | None = Field(None, ge=0, lt=1, description="before the output layer; default: the encoder's")
    loss: str | None = Field(None, description="MT-DNN's name of the training loss")
    kd_loss: str | None = Field(None, description="loss on soft labels: ce, kl, mse; default: ce, regression mse")
    kd_weight: float = Field(0.5, ge=0, le=1, description="share of the soft label where a row has a label too")
    kd_temperature: float = Field(1.0, gt=0, description="temperature of teacher and student in ce and kl")
    adv_loss: str | None = Field(None, description="MT-DNN's loss of its adversarial term; methods have options for it")
    enable_san: bool = Field(False, description="a stochastic answer network as the head, for pairs")
    san_steps: int = Field(5, ge=1, description="enable_san: predictions that are averaged")
    san_step_dropout: float = Field(0.1, ge=0, lt=1, description="enable_san: share of these left out in training")
    head_input: Literal["family", "pooler", "first", "mean"] = Field(
        "family", description="what the output layer reads; family: the encoder family's own head"
    )
    actf: str | None = Field(None, description="activation of head_input: pooler: tanh, relu, gelu; default: tanh")
    encoder_type: str | None = Field(None, description="without effect: the encoder is what the model folder holds")
    # beyond MT-DNN
    max_len: int | None = Field(None, ge=8, description="tokens per example; default: the run's max_seq_length")
    doc_stride: int = Field(128, ge=1, description="spans: tokens that neighbouring windows of a long passage share")
    max_answer_length: int = Field(30, ge=1, description="spans: longest answer in tokens")
    n_best: int = Field(20, ge=1, description="spans: how many answers are weighed against each other")
    span_positions: Literal["passage", "all"] = Field("passage", description="spans: tokens that can be start or end")
    mlm_probability: float = Field(0.15, gt=0, lt=1, description="masked LM: share of the tokens that are predicted")
    whole_word_masking: bool = Field(False, description="masked LM: all tokens of a word are masked together")
    ranking_loss: Literal["listwise", "pairwise"] = Field(
        "listwise", description="candidates: cross-entropy over a list, or over its pairs of a better and a worse one"
    )
    max_target_len: int = Field(32, ge=2, description="generation: tokens of a target, and most that are written")
    num_beams: int = Field(1, ge=1, description="generation: width of the beam search; 1: the likeliest token wins")
    length_penalty: float = Field(
        1.0, description="generation: beams are compared by log-probability / length^this; 0: by log-probability"
    )
    batch_size: int | None = Field(None, ge=1, description="rows per batch; default: the run's")
    max_train_samples: int | None = Field(None, ge=1, description="training rows drawn by the seed; default: the run's")
    weight: float = Field(1.0, gt=0, description="factor on the task's loss")
    data: str | None = Field(None, description="folder of the task's data; default: the task's name")
    perturb: list[PerturbSpec] | None = Field(None, description="methods for this task; default: the run's")
    eval_sets: dict[str, EvalSet] = Field(default_factory=dict, description="further data sets to evaluate on")

    _type: TaskType | None = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """Defaults that follow from other keys: classes from labels and back, the metric from the task type."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        kind = values.get("task_type")
        kind = mtdnn.TASK_TYPES.get(kind, kind) if isinstance(kind, str) else None
        labels, n_class = values.get("labels"), values.get("n_class")
        named = kind in mtdnn.NAMED_CLASSES
        if n_class is None:
            n_class = mtdnn.N_CLASS.get(str(kind)) or (len(labels) if labels and isinstance(labels, list) else None)
        values["n_class"] = n_class
        if n_class is None:
            del values["n_class"]
        if labels is None and named and isinstance(n_class, int) and 1 <= n_class <= MOST_CLASSES:
            values["labels"] = [str(i) for i in range(n_class)]
        elif labels is None:
            values.pop("labels", None)
        if values.get("metric_meta") is None:
            values.pop("metric_meta", None)
            registered = _registered()
            if kind in registered:
                values["metric_meta"] = [registered[str(kind)].metrics[0]]
        elif isinstance(values["metric_meta"], list):
            same = mtdnn.SAME_METRICS.get(str(kind), {})
            values["metric_meta"] = [
                same.get(name, name) if isinstance(name, str) else name for name in values["metric_meta"]
            ]
        return values

    @field_validator("name")
    @classmethod
    def _sound_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value) or value in _RESERVED:
            raise ValueError("a task's name is made of letters, digits, - and _ (and is not train or mean)")
        return value

    @field_validator("task_type", mode="before")
    @classmethod
    def _known_type(cls, value: Any) -> Any:
        return known(value, mtdnn.TASK_TYPES | {name: name for name in _registered()}, list(_registered()))

    @field_validator("data_format", mode="before")
    @classmethod
    def _known_format(cls, value: Any) -> Any:
        ours = {name: name for kind in _registered().values() for name in kind.data_formats}
        return known(value, mtdnn.DATA_FORMATS | ours, list(ours))

    @field_validator("metric_meta", mode="before")
    @classmethod
    def _known_metrics(cls, value: Any) -> Any:
        ours = {name: name for kind in _registered().values() for name in kind.metrics}
        return known_list(value, mtdnn.METRICS | ours)

    @field_validator("loss", "adv_loss", mode="before")
    @classmethod
    def _known_criterion(cls, value: Any) -> Any:
        return value if value is None else known(value, {name: name for name in mtdnn.CRITERIA})

    @field_validator("kd_loss", mode="before")
    @classmethod
    def _known_soft_loss(cls, value: Any) -> Any:
        names = {name: name for name in mtdnn.CRITERIA} | mtdnn.SOFT_LOSS_NAMES
        return value if value is None else known(value, names, mtdnn.SOFT_LOSS_NAMES)

    @field_validator("encoder_type", mode="before")
    @classmethod
    def _known_encoder(cls, value: Any) -> Any:
        return value if value is None else known(value, {name: name for name in mtdnn.ENCODER_TYPES})

    @field_validator("labels", mode="before")
    @classmethod
    def _label_names(cls, value: Any) -> Any:
        return as_names(value)

    @field_validator("split_names")
    @classmethod
    def _sound_splits(cls, value: list[str]) -> list[str]:
        wrong = [name for name in value if not _NAME.fullmatch(name)]
        if wrong:
            raise ValueError(f"{', '.join(map(repr, wrong))}: a split's name is made of letters, digits, - and _")
        if len(set(value)) < len(value):
            raise ValueError("a split is named twice")
        return value

    @field_validator("data")
    @classmethod
    def _relative_folder(cls, value: str | None) -> str | None:
        if value is not None and (not value or Path(value).is_absolute() or ".." in Path(value).parts):
            raise ValueError("must be a folder inside the data folder")
        return value

    @field_validator("perturb", mode="before")
    @classmethod
    def _methods(cls, value: Any) -> Any:
        return value if value is None else perturb_specs(value)

    @property
    def type(self) -> TaskType:
        """The task type's instance for this task. Raises `UserError` where this version has no such type."""
        if self._type is None or self._type.task is not self:  # a copy of a definition has its own
            from mtrobust.tasks.soundness import no_such_type

            registered = _registered()
            if self.task_type not in registered:
                raise UserError(f"{self.name}.{no_such_type(self.task_type, registered)}")
            self._type = registered[self.task_type](self)
        return self._type

    @property
    def train_splits(self) -> list[str]:
        """Split names that hold training rows: `train` and names ending in `_train`."""
        return self._splits("train")

    @property
    def dev_splits(self) -> list[str]:
        """Split names that models are compared on: `dev` and names ending in `_dev` (matched_dev, mismatched_dev)."""
        return self._splits("dev")

    @property
    def test_splits(self) -> list[str]:
        """Split names of test rows: `test` and names ending in `_test`."""
        return self._splits("test")

    def _splits(self, kind: str) -> list[str]:
        return [name for name in self.split_names if name == kind or name.endswith(f"_{kind}")]

    def faults(self) -> list[str]:
        """What stands against using this task, as `key: message`: keys that contradict, values without code here."""
        from mtrobust.tasks.soundness import faults

        return faults(self, _registered())


def _registered() -> dict[str, type[TaskType]]:
    """The task types this version has, by name."""
    import mtrobust.tasks  # noqa: F401  (imports the files that register them)
    from mtrobust.tasks.base import TASK_TYPES

    return dict(TASK_TYPES.items())


def shipped_task_defs() -> dict[str, Path]:
    """The definition files that come with the package, by the name `--task_def` takes."""
    try:
        folder = Path(str(importlib.resources.files("mtrobust.task_defs")))
    except ModuleNotFoundError:  # a checkout that is not installed
        folder = Path(__file__).resolve().parents[2] / "task_defs"
    return {path.stem: path for path in sorted(folder.glob("*.yml"))}


def find_task_def(name: str | Path) -> Path:
    """The file a path or the bare name of a shipped file (`glue`) stands for. Raises `UserError`."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_task_defs()
    if str(name) in shipped:
        return shipped[str(name)]
    if path.is_dir():
        raise UserError(f"{name}: is a folder; a task definition is a YAML file")
    hint = suggestion(path.stem, shipped)
    raise UserError(f"{name}: no such task-definition file{hint} (shipped: {', '.join(shipped)})")


def load_task_defs(paths: Iterable[str | Path], use: Collection[str] | None = None) -> dict[str, TaskDef]:
    """The tasks of all files, by name, in the order written.

    paths: files, or bare names of shipped ones. use: the tasks that will be trained or evaluated (None = all): only
    these must be of a supported kind, so that a file may define tasks for which there is no code yet. All tasks are
    returned, and malformed definitions are faults in any case.
    Raises `UserError` with all faults of all files, `file: task.key: message`.
    """
    tasks: dict[str, TaskDef] = {}
    origin: dict[str, Path] = {}
    faults: list[str] = []
    for given in [paths] if isinstance(paths, str | Path) else paths:
        try:
            path = find_task_def(given)
            raw = read_yaml(path, "task-definition", NAMED)
        except UserError as error:
            faults += error.faults
            continue
        if not raw:
            faults.append(f"{path}: no tasks: the file must map task names to definitions")
        for name, values in raw.items():
            if name in origin:
                faults.append(f"{path}: {name}: already defined in {origin[name]}")
                continue
            origin[name] = path
            task, found = _parse(name, values)
            if task is not None and (use is None or name in use):
                found += task.faults()
            faults += [f"{path}: {name}{'.' if line[:1] != ':' else ''}{line}" for line in found]
            if task is not None:
                tasks[name] = task
    if faults:
        raise UserError(faults)
    return tasks


def _parse(name: str, values: Any) -> tuple[TaskDef | None, list[str]]:
    """One definition and its faults, as `key: …` or, where no key is to blame, `: …`."""
    if not isinstance(values, dict):
        return None, [f": must be a mapping of keys, not {show(values)}"]
    faults = [f": {show(key)}: a key must be a text" for key in values if not isinstance(key, str)]
    values = {key: value for key, value in values.items() if isinstance(key, str)}
    known = [key for key in TaskDef.model_fields if key != "name"]
    if "name" in values:
        faults.append(f"name: unknown (known: {', '.join(known)})")
        del values["name"]
    wrong = wrong_kind(TaskDef, values)
    faults += [f"{key}: {show(values[key])}: must be {text}" for key, text in wrong.items()]
    values = {key: value for key, value in values.items() if key not in wrong}
    if values.get("eval_sets") is not None:
        values["eval_sets"], found = _parse_eval_sets(values["eval_sets"])
        faults += found
    try:
        task = TaskDef(**values, name=name)
    except ValidationError as error:
        place = lambda key: key if key != "name" else ""  # noqa: E731
        lines = faults_of(error, TaskDef, place, known)
        told = (
            {"n_class"} if values.get("labels") is not None and "n_class" not in values else set()
        )  # follows from labels
        return None, faults + [line for line in lines if line.split(":")[0] not in told.union(wrong)]
    return (None if faults else task), faults


def _parse_eval_sets(value: Any) -> tuple[dict[str, EvalSet], list[str]]:
    """The evaluation sets of a task, each checked on its own so that messages name the inner key."""
    if not isinstance(value, dict):
        return {}, [f"eval_sets: {show(value)}: must be a mapping of set names to their settings"]
    sets, faults = {}, []
    for name, settings in value.items():
        place = lambda key, name=name: f"eval_sets.{name}" + (f".{key}" if key else "")  # noqa: E731
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            faults.append(f"{place('')}: a set's name is made of letters, digits, - and _")
        elif not isinstance(settings if settings is not None else {}, dict):
            faults.append(f"{place('')}: {show(settings)}: must be a mapping")
        else:
            try:
                sets[name] = EvalSet(**{str(k): v for k, v in (settings or {}).items()})
            except ValidationError as error:
                faults += faults_of(error, EvalSet, place)
    return sets, faults


def definition_values(task: TaskDef) -> dict[str, Any]:
    """The keys of a definition that say all there is to say: defaults that stand for themselves are left out."""
    always = {"task_type", "data_format", "n_class", "labels", "metric_meta", "split_names"}
    values = task.model_dump(exclude={"name"}, exclude_none=True)
    default = {key: field.get_default(call_default_factory=True) for key, field in TaskDef.model_fields.items()}
    return {
        key: value for key, value in values.items() if (key in always and value != []) or value != default[key]
    }


def task_defs_yaml(tasks: Iterable[TaskDef]) -> str:
    """The definitions as a YAML text that loads to the same tasks again (a run's `task_def.yml`)."""
    return dump_yaml({task.name: definition_values(task) for task in tasks})


def dump_yaml(values: dict[str, Any]) -> str:
    """A mapping as a YAML text that `read_yaml` reads as it was."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=1000)


class _Dumper(yaml.SafeDumper):
    """Quotes what `read_yaml` would take for something else than text (`1e5`, which YAML 1.1 calls text)."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(read_scalar(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
