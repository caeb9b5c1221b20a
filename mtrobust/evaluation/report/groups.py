"""Which runs are seeds of the same method: names made from what differs between the configurations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from mtrobust.errors import UserError
from mtrobust.evaluation.report.runs import RunData, natural
from mtrobust.perturb import METHODS
from mtrobust.registry import suggestion

REFERENCE = METHODS["standard"].name
# Where things lie, how often something is written or shown, what is run beside: no part of a method.
_NO_SETTING = {
    *("task_def", "data_dir", "train_tasks", "eval_tasks", "cache_dir", "output_dir", "resume", "overwrite_output_dir"),
    *("save_steps", "save_total_limit", "eval_steps", "logging_steps", "profile", "progress", "use_cpu", "seed"),
    *("trust_remote_code", "per_device_eval_batch_size", "gradient_checkpointing", "perturb", "eval_sets"),
    "init_from",  # its encoder is the model_name_or_path
}
# What a run is given rather than what is tuned: never chosen by the best dev figure.
CONDITIONS = {"data_fraction", "label_fraction", "max_train_samples", "max_eval_samples", "model_name_or_path"}


@dataclass
class Group:
    """Runs that differ in seed and tasks only. `varied`: the settings that tell it from others of its method."""

    label: str
    method: str
    varied: dict[str, Any] = field(default_factory=dict)
    runs: list[RunData] = field(default_factory=list)

    @property
    def finished(self) -> list[RunData]:
        """Those with results."""
        return [run for run in self.runs if run.results is not None]


def method_of(run: RunData) -> str:
    """The composition: `vda+smart`; with `; mr: rapt` for a task whose definition has its own."""
    own = "; ".join(f"{task}: {_names(specs)}" for task, specs in _overrides(run).items())
    return "; ".join(filter(None, [_names(run.config.get("perturb")), own]))


def _names(specs: Sequence[Mapping[str, Any]] | None) -> str:
    return "+".join(spec["name"] for spec in specs or []) or REFERENCE


def _overrides(run: RunData) -> dict[str, list[dict[str, Any]]]:
    """Methods that a task definition sets for its own task, as specs."""
    found = {}
    for task in run.trained:
        specs = (run.tasks.get(task) or {}).get("perturb")
        if isinstance(specs, dict | str):
            specs = [specs]
        if specs:
            found[task] = [spec if isinstance(spec, dict) else {"name": str(spec)} for spec in specs]
    return found


def settings_of(run: RunData) -> dict[str, Any]:
    """Every setting that belongs to a method, by the name of its flag; a method's defaults are filled in."""
    found = {key: value for key, value in run.config.items() if key not in _NO_SETTING}
    found.update(_options(run.config.get("perturb"), "perturb"))
    for task, specs in _overrides(run).items():
        found.update(_options(specs, f"{task}.perturb"))
    return found


def _options(specs: Sequence[Mapping[str, Any]] | None, prefix: str) -> dict[str, Any]:
    found = {}
    for spec in specs or []:
        name = spec["name"]
        given = dict(
            spec.get("options") or {key: value for key, value in spec.items() if key not in ("name", "options")}
        )
        if name in METHODS:
            fields = METHODS[name].Options.model_fields
            defaults = {key: info.get_default(call_default_factory=True) for key, info in fields.items()}
            given = {key: defaults[key] for key in defaults if not fields[key].is_required()} | given
        found.update({f"{prefix}.{name}.{key}": value for key, value in given.items()})
    return found


def group_runs(
    runs: Sequence[RunData], group_by: Sequence[str] | None = None, labels: Sequence[tuple[str, str]] = ()
) -> list[Group]:
    """Groups in natural order of their labels.

    Without `group_by` a group is a composition and the settings that take several values among its runs of the same
    tasks. `group_by`: exactly these settings (`perturb` is the composition). labels: (pattern of folder names, label);
    a run that one of them fits has this label alone. Raises `UserError` for keys that no run has, patterns that fit
    none, and two runs that give the same figures for the same seed.
    """
    faults = _faults(runs, group_by, labels)
    if faults:
        raise UserError(faults)
    varying = {} if group_by is not None else _varying(runs)
    groups: dict[str, Group] = {}
    for run in runs:
        label, method, varied = _name(run, group_by, labels, varying)
        groups.setdefault(label, Group(label, method, varied)).runs.append(run)
    found = sorted(groups.values(), key=lambda group: natural(group.label))
    faults = [fault for group in found for fault in _twice(group)]
    if faults:
        raise UserError(faults)
    return found


def _name(
    run: RunData,
    group_by: Sequence[str] | None,
    labels: Sequence[tuple[str, str]],
    varying: Mapping[str, Sequence[str]],
) -> tuple[str, str, dict[str, Any]]:
    """(label, method, the settings that the label states)."""
    for pattern, label in labels:
        if _fits(run, pattern):
            return label, label, {}
    settings, method = settings_of(run), method_of(run)
    if group_by is None:
        keys = list(varying[method])
    else:
        keys = [key for key in group_by if key != "perturb"]
        method = method if "perturb" in group_by else ""
    varied = {key: settings[key] for key in keys if key in settings}
    return " ".join(filter(None, [method, _written(varied, method)])), method, varied


def _fits(run: RunData, pattern: str) -> bool:
    return any(fnmatch(name, pattern) for name in (run.path.name, str(run.path), str(run.path.resolve())))


def _written(varied: Mapping[str, Any], method: str) -> str:
    """`layers=1-3 learning_rate=1e-05`; an option carries its method's name where there are several."""
    alone = f"perturb.{method}."
    return " ".join(f"{key.removeprefix(alone).removeprefix('perturb.')}={plain(x)}" for key, x in varied.items())


def plain(value: Any) -> str:
    """A setting in one word, as short as it is exact."""
    if isinstance(value, list | tuple):
        return ",".join(map(plain, value))
    if isinstance(value, float):
        return f"{value:.10g}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _varying(runs: Iterable[RunData]) -> dict[str, list[str]]:
    """By method: the settings that take several values among its runs of the same tasks."""
    seen: dict[str, dict[tuple[str, tuple[str, ...]], set[str]]] = {}
    for run in runs:
        of_method = seen.setdefault(method_of(run), {})
        for key, value in settings_of(run).items():
            of_method.setdefault((key, run.trained), set()).add(plain(value))
    return {
        method: list(dict.fromkeys(key for (key, _), values in keys.items() if len(values) > 1))
        for method, keys in seen.items()
    }


def unequal_settings(groups: Iterable[Group]) -> list[str]:
    """Notes on settings outside of the methods that differ between groups trained on the same tasks."""
    seen: dict[tuple[str, str], dict[str, list[str]]] = {}
    for group in groups:
        for run in group.runs:
            for key, value in settings_of(run).items():
                if ".perturb." not in f".{key}" and key not in group.varied:
                    labels = seen.setdefault((key, ", ".join(run.trained)), {}).setdefault(plain(value), [])
                    if group.label not in labels:
                        labels.append(group.label)
    notes = []
    for (key, tasks), values in seen.items():
        if len(values) > 1:
            common = max(values, key=lambda value: len(values[value]))
            others = [f"{value} ({', '.join(labels)})" for value, labels in values.items() if value != common]
            notes.append(f"{key} differs between the methods (on {tasks}): {common}, but {'; '.join(others)}")
    return notes


def _faults(runs: Sequence[RunData], group_by: Sequence[str] | None, labels: Sequence[tuple[str, str]]) -> list[str]:
    faults = [
        f"--label: {pattern}: fits no run folder" for pattern, _ in labels if not any(_fits(r, pattern) for r in runs)
    ]
    if group_by is not None:
        known = ["perturb", *dict.fromkeys(key for run in runs for key in settings_of(run))]
        faults += [
            f"--group_by: {key}: no run has this setting{suggestion(key, known)}"
            for key in group_by
            if key not in known
        ]
    return faults


def _twice(group: Group) -> list[str]:
    """Faults of runs with the same seed and the same columns."""
    faults = []
    first: dict[tuple[int, str], RunData] = {}
    clashes: Counter[tuple[str, str, int]] = Counter()
    for run in group.finished:
        for column in run.figures:
            other = first.setdefault((run.seed, column), run)
            if other is not run:
                clashes[str(other.path), str(run.path), run.seed] += 1
    for one, two, seed in clashes:
        faults.append(
            f"{one} and {two}: both are {group.label} with seed {seed} and have the same columns; name one of them, or "
            "tell them apart with --label or --group_by"
        )
    return faults


def baseline_of(group: Group, groups: Sequence[Group], baseline: str) -> Group | None:
    """The group that `group` is compared with.

    That is the group with this label; where `baseline` is a method with several groups, the one of them whose settings
    are also those of `group` (a data fraction, say). None: there is no such group, or several.
    """
    exact = [other for other in groups if other.label == baseline]
    if exact:
        return exact[0]
    same = [other for other in groups if other.method == baseline]
    if len(same) > 1:
        own = settings_of(group.runs[0])
        same = [other for other in same if all(plain(own.get(key)) == plain(x) for key, x in other.varied.items())]
    return same[0] if len(same) == 1 else None
