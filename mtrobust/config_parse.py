"""From a recipe file and flags to a `TrainConfig`: every flag may stand in the recipe, a flag wins, all faults at once.

Flags are the fields of `TrainConfig` (`--learning_rate 2e-5`; lists as `a,b` or by repeating the flag; booleans as
`--bf16`, `--no_bf16` or `--bf16 false`; `none` for a value that may be absent) and, for the perturbation methods,
`--perturb NAME[,NAME]` with `--perturb.OPTION VALUE` (one method) or `--perturb.NAME.OPTION VALUE`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

from pydantic import ValidationError

from mtrobust.config import PerturbSpec, TrainConfig
from mtrobust.config_values import allowed, faults_of, show, strip_optional, wrong_kind
from mtrobust.errors import UserError
from mtrobust.registry import suggestion
from mtrobust.yaml_file import read_scalar, read_yaml

if TYPE_CHECKING:
    from mtrobust.tasks.taskdef import TaskDef

_BOOLEAN = {"true", "false", "yes", "no", "on", "off", "1", "0"}
_FIELDS = TrainConfig.model_fields
_START = ("init_from", "model_name_or_path")


def _is(key: str, kind: type) -> bool:
    """Whether a field of the configuration takes a `bool` or a `list`."""
    annotation = strip_optional(_FIELDS[key].annotation)[0]
    return annotation is kind or get_origin(annotation) is kind


@dataclass
class Given:
    """What the user wrote, before any check. perturb: (option path, value) of `--perturb.…` flags, in order."""

    values: dict[str, Any] = field(default_factory=dict)
    perturb: list[tuple[str, str]] = field(default_factory=list)
    positional: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    said: set[str] = field(default_factory=set)  # fields that a fault is about already: nothing more is said of them
    old: list[str] = field(default_factory=list)  # names of MT-DNN's, each of them a fault


@dataclass
class Parsed:
    """The outcome: `config` is whole when there are no faults; else it holds what was sound, `bad` keys at defaults."""

    config: TrainConfig | None
    faults: list[str]
    bad: set[str]
    sources: dict[str, str]  # field name -> how messages name the place it came from

    def place(self, key: str) -> str:
        """Where a field was set: `--seed` or `recipe.yml: seed`."""
        return self.sources.get(key, f"--{key}")


def split_flags(argv: list[str]) -> Given:
    """Sorts `argv` into flags and positional words. A value may begin with one `-` (negative numbers)."""
    given, words = Given(), list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            given.positional += [word] if word != "--" else []
            if word.startswith("-") and word not in ("-", "--"):
                given.positional.pop()
                given.faults.append(f"{word}: unknown flag (flags begin with two dashes)")
            continue
        if _switch(given, word, words):
            continue
        name, equals, value = word[2:].partition("=")
        if not equals and words and not words[0].startswith("--"):
            equals, value = "=", words.pop(0)
        _take(given, name, value if equals else None)
    return given


def _switch(given: Given, word: str, words: list[str]) -> bool:
    """Files a flag of a boolean field, with its value from `words` where that is the next; False for other flags."""
    name, equals, value = word[2:].partition("=")
    takes = bool(words) and not words[0].startswith("-") and not _may_be_recipe(words[0])
    if name in _FIELDS and _is(name, bool):
        given.values[name] = value if equals else words.pop(0) if takes else "true"
        return True
    opposite = name.removeprefix("no-").removeprefix("no_")
    if opposite == name or opposite not in _FIELDS or not _is(opposite, bool):
        return False
    if equals or takes:
        value = value if equals else words.pop(0)
        given.faults.append(f"--{name}: {show(value)}: takes no value; write --{name} or --{opposite} VALUE")
        given.said.add(opposite)
    given.values[opposite] = "false"
    return True


def _may_be_recipe(word: str) -> bool:
    """Whether a word after a boolean flag is no value of it, but the recipe."""
    named = word.endswith((".yml", ".yaml")) or "/" in word or Path(word).is_file()
    return named and word.lower() not in _BOOLEAN


def _take(given: Given, name: str, value: str | None) -> None:
    """Files one flag that is not a boolean field; `value` is None where none was given."""
    if name.startswith("perturb."):
        # an option without a value is a switch: `--perturb.exact`
        given.perturb.append((name.removeprefix("perturb."), "true" if value is None else value))
    elif name not in _FIELDS and (told := _mtdnn_answer(name)):
        given.faults.append(f"--{name}: {told}")
        given.old.append(name)
    elif name not in _FIELDS:
        names = [*_FIELDS, "perturb.<option>"]
        given.faults.append(f"--{name}: unknown flag{suggestion(name, names)} (mtrobust train --help lists all)")
    elif value is None:
        given.faults.append(f"--{name}: needs a value: {_wanted(name)}")
        given.said.add(name)
    elif _is(name, list) and not _names(value):
        given.faults.append(f"--{name}: {show(value)}: must be {_wanted(name)} (not empty)")
        given.said.add(name)
    elif _is(name, list):
        given.values[name] = [*given.values.get(name, []), *_names(value)]
    else:
        given.values[name] = value


def _mtdnn_answer(name: str) -> str | None:
    """What to write instead of a name of MT-DNN's; None for others."""
    from mtrobust.tasks.mtdnn_flags import answer  # with all task types, so only for a name that is unknown

    return answer(name)


def _wanted(key: str) -> str:
    """What a field takes, in words."""
    return "names of methods (mtrobust methods lists them)" if key == "perturb" else allowed(_FIELDS[key])


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_train(argv: list[str]) -> Parsed:
    """Reads the recipe named in `argv` (at most one) and the flags; checks everything that needs no data or model."""
    given = split_flags(argv)
    faults = list(given.faults)
    for extra in given.positional[1:]:
        faults.append(f"{extra}: unexpected; one recipe file is read, here {given.positional[0]}")
    recipe = given.positional[0] if given.positional else None
    values, sources = _of_recipe(recipe, given, faults) if recipe is not None else ({}, {})
    for key, other in (_START, _START[::-1]):  # where both say what to start from, the flag does
        if given.values.get(key, "none") != "none" and other not in given.values:
            values.pop(other, None)
    for key, value in given.values.items():
        values[key], sources[key] = value, f"--{key}"
    values = {key: value for key, value in values.items() if key not in given.said}
    flags = [] if "perturb" in given.said else given.perturb
    parsed = _read(values, sources, flags, given.said)
    if given.old:
        from mtrobust.tasks.mtdnn_flags import FLAGS

        # what is said of missing or default values would be about settings that the user did give
        meant = {FLAGS[name][0].removeprefix("--") for name in given.old}
        said = [line.partition(": missing")[0].removeprefix("--") for line in parsed.faults]
        parsed.faults = [line for line, key in zip(parsed.faults, said, strict=True) if key not in meant]
        parsed.bad |= {"task_def"}
    return Parsed(parsed.config, faults + parsed.faults, parsed.bad, sources)


def _of_recipe(recipe: str, given: Given, faults: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """(values of a recipe, how messages name their places). Names of MT-DNN's are left out and noted in `given`."""
    values: dict[str, Any] = {}
    try:
        if not recipe:
            raise UserError("'': must be a recipe file (not empty)")
        values = read_yaml(recipe, "recipe")
    except UserError as error:
        faults += error.faults
        given.said |= _FIELDS.keys() - given.values.keys()
    sources = {key: f"{recipe}: {key}" for key in values}
    old = {key: told for key in values if key not in _FIELDS and (told := _mtdnn_answer(key))}
    faults += [f"{recipe}: {key}: {told.replace('--', '')}" for key, told in old.items()]
    given.old += old
    return {key: value for key, value in values.items() if key not in old}, sources


def parse_settings(settings: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a run from settings as a recipe has them. Raises `UserError` with every fault."""
    values = {key: _plain(value) for key, value in settings.items()}
    missing = [key for key, field in _FIELDS.items() if field.is_required() and values.get(key) is None]
    if values.get("init_from") is not None:  # whose encoder is taken
        missing = [key for key in missing if key != "model_name_or_path"]
    parsed = _read(values, {key: key for key in _FIELDS.keys() | values.keys()}, [])
    faults = [fault for fault in parsed.faults if fault.split(":")[0].removeprefix("--") not in missing]
    faults += [f"{key}: missing: {_FIELDS[key].description}" for key in missing]
    if faults or parsed.config is None:
        raise UserError(faults)
    return parsed.config


def _plain(value: Any) -> Any:
    """Paths inside lists, and tuples, as YAML would give them."""
    if isinstance(value, list | tuple):
        return [str(item) if isinstance(item, Path) else item for item in value]
    return str(value) if isinstance(value, Path) else value


def _read(
    values: dict[str, Any], sources: dict[str, str], flags: list[tuple[str, str]], said: Collection[str] = ()
) -> Parsed:
    """Checks merged values; those of `perturb` with its flags. said: fields that may be missing without a fault."""
    empty = {key for key, value in values.items() if _is_empty(key, value)}
    faults = [
        f"{sources.get(key, f'--{key}')}: {show(values[key])}: must be {_wanted(key)} (not empty)"
        for key in values
        if key in empty
    ]
    values = {key: _as_field(key, value) for key, value in values.items() if key not in empty}
    specs, found = read_perturb(values.get("perturb"), flags, sources.get("perturb", "--perturb"))
    values["perturb"] = specs
    parsed = _validate(values, sources, {*said, *empty})
    return Parsed(parsed.config, faults + found + parsed.faults, parsed.bad | empty | set(said), sources)


def _is_empty(key: str, value: Any) -> bool:
    """Whether a text, or one of a list, is empty, which most often is a shell variable that is not set: no folder, no
    name, and not the same as nothing given. An empty list is a list of none where `none` means something else."""
    if key not in _FIELDS or key == "perturb":
        return False
    if value == [] and strip_optional(_FIELDS[key].annotation)[1]:
        return True
    if isinstance(value, str):
        return not (_names(value) if _is(key, list) else value.strip())
    items = value if isinstance(value, list) else []
    return any(isinstance(item, str) and not item.strip() for item in items)


def _as_field(key: str, value: Any) -> Any:
    """Text forms of values that are lists or may be absent."""
    if key not in _FIELDS or key == "perturb":
        return value
    optional = strip_optional(_FIELDS[key].annotation)[1]
    if optional and (value == ["none"] or (isinstance(value, str) and value.lower() == "none")):
        return None
    if _is(key, list):
        if isinstance(value, str):
            return _names(value)
        if value is None and not optional:
            return []
    return value


def _validate(values: dict[str, Any], sources: dict[str, str], said: Collection[str]) -> Parsed:
    """Checks the merged values; on faults the sound part becomes the configuration, as far as that is possible."""
    place = lambda key: sources.get(key, f"--{key}")  # noqa: E731
    wrong = wrong_kind(TrainConfig, values)
    faults = [f"{place(k)}: {show(values[k])}: must be {text}" for k, text in wrong.items()]
    values, bad = {k: v for k, v in values.items() if k not in wrong}, set(wrong)
    for _ in range(2):
        try:
            return Parsed(TrainConfig(**values), faults, bad, sources)
        except ValidationError as error:
            missing = [e["loc"][0] for e in error.errors(include_url=False) if e["type"] == "missing"]
            for key in missing:
                if key not in wrong and key not in said:
                    text = f"missing: {_FIELDS[str(key)].description}; give the flag, or `{key}:` in a recipe"
                    faults.append(f"--{key}: {text}")
            others = [f for f in faults_of(error, TrainConfig, place) if ": missing: " not in f]
            faults += others
            bad |= {str(e["loc"][0]) for e in error.errors(include_url=False)}
            values = {k: v for k, v in values.items() if k not in bad}
            # placeholders, so that the other settings can be looked at in the same go; `bad` says which
            values |= {
                str(k): ["?"] if _is(str(k), list) else "?" for k in _FIELDS if _FIELDS[k].is_required() and k in bad
            }
    return Parsed(None, faults, bad, sources)


# --- perturbation methods ---------------------------------------------------------------------------------------------


def read_perturb(value: Any, flags: list[tuple[str, str]], place: str) -> tuple[list[PerturbSpec], list[str]]:
    """The methods of a run with their options checked, and the faults found.

    value: `rapt`, `rapt,smart`, `{name: rapt, layers: 1-3}` or a list of these (`options: {…}` inside an entry is read
    too, as in a run's config.yml); flags: `--perturb.…` options as (path, text); place: how messages name `value`.
    """
    specs, faults = _specs(value, place)
    sources: dict[tuple[str, str], str] = {}
    if specs or not faults:
        for path, text in flags:
            _put_option(specs, path, text, sources, faults)
    for spec in specs:
        _unset_none(spec)
        faults += check_options(spec, place, {key: flag for (name, key), flag in sources.items() if name == spec.name})
    return specs, faults


def _specs(value: Any, place: str) -> tuple[list[PerturbSpec], list[str]]:
    """The entries of `perturb` as specs, whatever form they were written in."""
    specs: list[PerturbSpec] = []
    faults: list[str] = []
    for entry in value if isinstance(value, list) else [] if value is None else [value]:
        if isinstance(entry, PerturbSpec):
            specs.append(entry.model_copy(deep=True))
        elif isinstance(entry, str) and _names(entry):
            specs += [PerturbSpec(name=name) for name in _names(entry)]
        elif isinstance(entry, dict) and isinstance(entry.get("name"), str):
            options = {str(k): v for k, v in entry.items() if k not in ("name", "options")}
            inner = entry.get("options") or {}
            if isinstance(inner, dict):
                twice = [key for key in map(str, inner) if key in options]
                faults += [f"{place}: {entry['name']}.{key}: written twice, also in options" for key in twice]
                specs.append(PerturbSpec(name=entry["name"], options=options | {str(k): v for k, v in inner.items()}))
            else:
                faults.append(f"{place}: {entry['name']}.options: {show(inner)}: must be a mapping of options")
        else:
            faults.append(f"{place}: {show(entry)}: must be a method's name or {{name: METHOD, OPTION: VALUE, …}}")
    names = [spec.name for spec in specs]
    faults += [
        f"{place}: {name}: named twice; a method takes part once"
        for name in sorted({n for n in names if names.count(n) > 1})
    ]
    return specs, faults


def _put_option(
    specs: list[PerturbSpec], path: str, text: str, sources: dict[tuple[str, str], str], faults: list[str]
) -> None:
    """Puts the option of one `--perturb.…` flag into its method, or says why it has no place."""
    flag, names = f"--perturb.{path}", [spec.name for spec in specs]
    method, dot, option = path.rpartition(".")
    if not names:
        faults.append(
            f"{flag}: {text}: no method is selected; add --perturb {method or 'NAME'} (see: mtrobust methods)"
        )
    elif dot and method not in names:
        hint = suggestion(method, names)
        faults.append(f"{flag}: {text}: '{method}' is not among the methods of this run ({', '.join(names)}){hint}")
    elif not dot and len(names) > 1:
        choices = " or ".join(f"--perturb.{name}.{option}" for name in names)
        faults.append(f"{flag}: {text}: the run has several methods; write {choices}")
    else:
        spec = specs[names.index(method) if dot else 0]
        spec.options[option] = read_scalar(text)
        sources[spec.name, option] = flag


def task_perturb_faults(tasks: Mapping[str, TaskDef], files: Iterable[str | Path]) -> list[str]:
    """Faults in the `perturb` that task definitions set for their own task. files: those that the tasks come from."""
    specs = [(name, spec) for name, task in tasks.items() for spec in task.perturb or []]
    found = [(name, fault) for name, spec in specs for fault in check_options(spec, f"{name}.perturb")]
    if not found:
        return []
    from mtrobust.tasks.taskdef import find_task_def

    origin = {name: path for path in map(find_task_def, files) for name in read_yaml(path, "task-definition")}
    return [f"{origin[name]}: {fault}" for name, fault in found]


def _unset_none(spec: PerturbSpec) -> None:
    """Makes the text `none` the absent value where an option may be absent (for others it may be a choice)."""
    from mtrobust.perturb import METHODS

    fields = METHODS[spec.name].Options.model_fields if spec.name in METHODS else {}
    for key, value in spec.options.items():
        if value == "none" and key in fields and strip_optional(fields[key].annotation)[1]:
            spec.options[key] = None


def check_options(spec: PerturbSpec, place: str, sources: Mapping[str, str] | None = None) -> list[str]:
    """Faults of one method's name and options against the method's own Options class, as lines.

    place: what the lines start with (`<place>: <method>.<option>`); sources: option -> the flag that set it.
    """
    from mtrobust.perturb import METHODS  # a room to the right of config, so only when asked

    def where(key: str) -> str:
        return (sources or {}).get(key, f"{place}: {spec.name}.{key}" if key else f"{place}: {spec.name}")

    try:
        options = METHODS[spec.name].Options
    except UserError as error:
        return [f"{place}: {fault}" for fault in error.faults]
    wrong = wrong_kind(options, spec.options)
    faults = [f"{where(k)}: {show(spec.options[k])}: must be {text}" for k, text in wrong.items()]
    try:
        options(**{k: v for k, v in spec.options.items() if k not in wrong})
    except ValidationError as error:
        faults += faults_of(error, options, where)
    return faults
