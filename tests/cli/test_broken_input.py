"""The corpus of broken input: each ends with its exit code, and lines that name place and remedy; nothing changes."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cli.world import DEFS, fingerprint

TRAIN = "train --task_def defs.yml --data_dir data --model_name_or_path model --output_dir run --train_tasks pairs"
CHECK = "check --task_def defs.yml --data_dir data"


@dataclass
class Case:
    """files: what is put into the world first, by path; says: what standard error must hold."""

    name: str
    command: str
    says: list[str]
    files: dict[str, str | bytes | None] = field(default_factory=dict)
    code: int = 2


def defs(**changes: str) -> dict[str, str | bytes | None]:
    """`defs.yml` with one line of the first task's definition put in place of another."""
    text = DEFS
    for old, new in changes.items():
        line = next(line for line in text.split("\n") if line.strip().startswith(f"{old}:"))
        text = text.replace(line, f"  {new}" if new else "", 1)
    return {"defs.yml": text}


def rows(task: str, text: str | bytes) -> dict[str, str | bytes | None]:
    return {f"data/{task}/train.jsonl": text}


def recipe(text: str | bytes) -> dict[str, str | bytes | None]:
    return {"recipe.yml": text}


FLAGS = [
    Case("no such command", "trian --seed 1", ["trian: unknown command", "'train'"]),
    Case("flag in place of a command", "--seed 1", ["--seed: unknown flag"]),
    Case("unknown flag", f"{TRAIN} --lerning_rate 1", ["--lerning_rate: unknown flag", "'learning_rate'"]),
    Case("one dash", f"{TRAIN} -lr 1", ["-lr: unknown flag", "two dashes"]),
    Case("nothing given", "train", ["--task_def: missing", "--model_name_or_path: missing", "--output_dir: missing"]),
    Case("no value", f"{TRAIN} --learning_rate --seed 1", ["--learning_rate: needs a value: a number > 0"]),
    Case("negative rate", f"{TRAIN} --learning_rate -1e-5", ["--learning_rate: -1e-5: must be a number > 0"]),
    Case("rate is no number", f"{TRAIN} --learning_rate fast", ["--learning_rate: fast: must be a number > 0"]),
    Case("rate is infinite", f"{TRAIN} --learning_rate inf", ["--learning_rate: inf: must be a number > 0 (finite)"]),
    Case("rate is nan", f"{TRAIN} --learning_rate nan", ["--learning_rate: nan: must be a number"]),
    Case("fraction for a count", f"{TRAIN} --seed 1.5", ["--seed: 1.5: must be an integer >= 0"]),
    Case("zero batch", f"{TRAIN} --per_device_train_batch_size 0", ["batch_size: 0: must be an integer >= 1"]),
    Case("choice", f"{TRAIN} --optim adamx", ["--optim: adamx: must be one of: adamw, adamax", "'adamax'"]),
    Case("boolean", f"{TRAIN} --bf16=maybe", ["--bf16: maybe: must be true or false"]),
    Case("ratio above one", f"{TRAIN} --warmup_ratio 10", ["--warmup_ratio: 10: must be a number >= 0 and <= 1"]),
    Case("not optional", f"{TRAIN} --seed none", ["--seed: none: must be an integer >= 0"]),
    Case("two recipes", f"{TRAIN} recipe.yml two.yml", ["two.yml: unexpected"], recipe("")),
    Case("boolean before a word", f"{TRAIN} --bf16 tru", ["--bf16: tru: must be true or false"]),
    Case("all at once", f"{TRAIN} --seed x --optim y --z 1", ["--seed: x", "--optim: y", "--z: unknown flag"]),
    Case("resume and overwrite", f"{TRAIN} --resume --overwrite_output_dir", ["--resume", "overwrite_output_dir"]),
    Case(
        "main_ratio alone",
        f"{TRAIN} --sampling main_ratio",
        ["--main_task: None: sampling main_ratio needs a training task"],
    ),
    Case("check: unknown flag", f"{CHECK} --task pairs", ["--task: unknown flag", "'--tasks'"]),
    Case("check: no definition", "check", ["--task_def"]),
    Case("methods: unknown", "methods rapd", ["unknown perturbation method 'rapd'", "'rapt'"]),
    Case("tasks: unknown", "tasks Clasification", ["'Clasification'", "'Classification'"]),
    Case("prep: unknown", "prep gleu", ["prep gleu: unknown", "'glue'"]),
]
METHODS = [
    Case("no such method", f"{TRAIN} --perturb smrat", ["--perturb: unknown perturbation method 'smrat'", "'smart'"]),
    Case("method twice", f"{TRAIN} --perturb rapt,rapt", ["--perturb: rapt: named twice"]),
    Case("option without a method", f"{TRAIN} --perturb.eta 2", ["--perturb.eta: 2: no method is selected"]),
    Case(
        "option of another method",
        f"{TRAIN} --perturb rapt --perturb.smart.alpha 2",
        ["--perturb.smart.alpha: 2: 'smart' is not among the methods of this run (rapt)"],
    ),
    Case(
        "ambiguous option",
        f"{TRAIN} --perturb rapt,smart --perturb.alpha 2",
        ["--perturb.alpha: 2: the run has several methods", "--perturb.rapt.alpha or --perturb.smart.alpha"],
    ),
    Case("unknown option", f"{TRAIN} --perturb rapt --perturb.etta 2", ["--perturb.etta: unknown", "'eta'"]),
    Case("negative option", f"{TRAIN} --perturb rapt --perturb.eta -2", ["--perturb.eta: -2: must be a number >= 0"]),
    Case("option is infinite", f"{TRAIN} --perturb rapt --perturb.alpha inf", ["--perturb.alpha: inf: must be"]),
    Case("empty range", f"{TRAIN} --perturb rapt --perturb.layers 3-1", ["--perturb.layers:", "'3-1'", "1-3"]),
    Case("layer name", f"{TRAIN} --perturb rapt --perturb.layers wrods", ["'wrods'", "'words'"]),
    Case("negative layer", f"{TRAIN} --perturb rapt --perturb.layers -1", ["--perturb.layers:", "-1 is not a layer"]),
    Case("divergence", f"{TRAIN} --perturb rpt --perturb.divergence kld", ["divergence", "'kl", "jsd"]),
    Case("open bracket", f"{TRAIN} --perturb rapt --perturb.layers [1,x", ["--perturb.layers:", "'x' is not a layer"]),
    Case("option value missing", f"{TRAIN} --perturb rapt --perturb.eta", ["--perturb.eta: True: must be a number"]),
]
RECIPES = [
    Case("recipe missing", f"{TRAIN} recipe.yml", ["recipe.yml: no such recipe file", "defs.yml"]),
    Case("recipe is a folder", f"{TRAIN} data", ["data: is a folder"]),
    Case(
        "recipe syntax",
        f"{TRAIN} recipe.yml",
        ["recipe.yml:3: not valid YAML", "in line 2"],
        recipe("seed: 1\noptim: [adamw\n"),
    ),
    Case("recipe tab", f"{TRAIN} recipe.yml", ["recipe.yml:2: not valid YAML"], recipe("a:\n\tb: 1\n")),
    Case("recipe list", f"{TRAIN} recipe.yml", ["recipe.yml: must be a mapping"], recipe("- seed: 1\n")),
    Case(
        "recipe latin-1", f"{TRAIN} recipe.yml", ["recipe.yml:2: byte 13 is not UTF-8"], recipe(b"seed: 1\n# caf\xe9\n")
    ),
    Case(
        "recipe key twice",
        f"{TRAIN} recipe.yml",
        ["recipe.yml:2:", "'seed' is written twice"],
        recipe("seed: 1\nseed: 2"),
    ),
    Case("recipe key", f"{TRAIN} recipe.yml", ["recipe.yml: sead: unknown", "'seed'"], recipe("sead: 1")),
    Case("recipe number as key", f"{TRAIN} recipe.yml", ["recipe.yml: 1: a key must be a text"], recipe("1: 2")),
    Case("recipe type", f"{TRAIN} recipe.yml", ["recipe.yml: seed: [1]: must be an integer"], recipe("seed: [1]")),
    Case("recipe boolean", f"{TRAIN} recipe.yml", ["recipe.yml: max_steps: True: must be"], recipe("max_steps: true")),
    Case("recipe null", f"{TRAIN} recipe.yml", ["recipe.yml: seed: None: must be"], recipe("seed:")),
    Case("recipe nan", f"{TRAIN} recipe.yml", ["recipe.yml: learning_rate: nan"], recipe("learning_rate: .nan")),
    Case(
        "recipe number for a name", f"{TRAIN} recipe.yml", ["recipe.yml: eval_tasks[0]: 3"], recipe("eval_tasks: [3]")
    ),
    Case("recipe method", f"{TRAIN} recipe.yml", ["recipe.yml: perturb: 7: must be a method"], recipe("perturb: [7]")),
    Case(
        "recipe option",
        f"{TRAIN} recipe.yml",
        ["recipe.yml: perturb: rapt.eta: big: must be a number >= 0", "recipe.yml: perturb: rapt.x: unknown"],
        recipe("perturb: [{name: rapt, eta: big, x: 1}]"),
    ),
    Case(
        "recipe options",
        f"{TRAIN} recipe.yml",
        ["recipe.yml: perturb: rapt.options: [1]: must be a mapping"],
        recipe("perturb: {name: rapt, options: [1]}"),
    ),
    Case(
        "recipe tag", f"{TRAIN} recipe.yml", ["recipe.yml:1: not valid YAML"], recipe("seed: !!python/object:os.x {}")
    ),
    Case("recipe control character", f"{TRAIN} recipe.yml", ["recipe.yml: not valid YAML"], recipe("seed: \0")),
    Case("recipe below a file", f"{TRAIN} defs.yml/recipe.yml", ["defs.yml/recipe.yml: cannot be read: Not a dir"]),
    Case(
        "recipe below nothing", f"{TRAIN} gone/recipe.yml", ["gone/recipe.yml: no such recipe file", "no folder gone"]
    ),
    Case("recipe alias", f"{TRAIN} recipe.yml", ["recipe.yml:1: not valid YAML"], recipe("seed: *other")),
]
DEFINITIONS = [
    Case("definition missing", "check --task_def def.yml", ["def.yml: no such task-definition file"]),
    Case("shipped name", "check --task_def gleu", ["gleu", "'glue'"]),
    Case(
        "definition syntax", CHECK, ["defs.yml:3: not valid YAML", "in line 2"], {"defs.yml": "a:\n  task_type: [x\n"}
    ),
    Case("definition empty", CHECK, ["defs.yml"], {"defs.yml": ""}),
    Case("definition list", CHECK, ["defs.yml: must be a mapping"], {"defs.yml": "- a"}),
    Case("task is a text", CHECK, ["defs.yml", "pairs"], {"defs.yml": "pairs: Classification"}),
    Case("task name", CHECK, ["defs.yml", "a/b", "letters"], {"defs.yml": DEFS.replace("pairs:", "a/b:", 1)}),
    Case(
        "task type",
        CHECK,
        ["pairs.task_type: Clasification", "'Classification'"],
        defs(task_type="task_type: Clasification"),
    ),
    Case("type of later", CHECK, ["pairs.task_type", "supported"], defs(task_type="task_type: ClozeChoice")),
    Case("format", CHECK, ["pairs.data_format: MRC"], defs(data_format="data_format: MRC")),
    Case("metric", CHECK, ["pairs.metric_meta", "Pearson"], defs(metric_meta="metric_meta: [Pearson]")),
    Case("label twice", CHECK, ["pairs.labels", "same"], defs(labels="labels: [same, same]")),
    Case("label is a boolean", CHECK, ["pairs.labels", "quote"], defs(labels="labels: [true, false]")),
    Case("count of classes", CHECK, ["pairs.n_class: 3", "2 labels"], defs(metric_meta="n_class: 3")),
    Case("unknown key", CHECK, ["pairs.lables", "'labels'"], defs(labels="lables: [a, b]")),
    Case("dropout", CHECK, ["pairs.dropout_p: 1.5"], defs(metric_meta="dropout_p: 1.5")),
    Case("san", CHECK, ["mood.enable_san"], {"defs.yml": DEFS.replace("mood:\n", "mood:\n  enable_san: true\n")}),
    Case("method of a task", CHECK, ["defs.yml: pairs.perturb: ", "'rapt'"], defs(metric_meta="perturb: rapd")),
    Case(
        "option of a task's method",
        CHECK,
        ["defs.yml: pairs.perturb: rapt.eta: -1"],
        defs(metric_meta="perturb: {name: rapt, eta: -1}"),
    ),
    Case("data outside", CHECK, ["pairs.data"], defs(metric_meta="data: ../elsewhere")),
    Case(
        "several faults",
        CHECK,
        ["pairs.labels", "pairs.dropout_p"],
        defs(labels="labels: []", metric_meta="dropout_p: -1"),
    ),
]
PAIR = '{"text": "a", "text_pair": "b", "label": "same"}\n'
ROWS = [
    Case("truncated", CHECK, ["data/pairs/train.jsonl:2:"], rows("pairs", PAIR + '{"text": "a", "te')),
    Case("no object", CHECK, ["train.jsonl:1:"], rows("pairs", '["a"]\n')),
    Case(
        "unknown label", CHECK, ["train.jsonl:1: label", "smae", "'same'"], rows("pairs", PAIR.replace("same", "smae"))
    ),
    Case("label out of range", CHECK, ["train.jsonl:1: label", "7"], rows("pairs", PAIR.replace('"same"', "7"))),
    Case("text is a number", CHECK, ["train.jsonl:1: text"], rows("pairs", PAIR.replace('"a"', "3"))),
    Case("empty text", CHECK, ["train.jsonl:1: text"], rows("pairs", PAIR.replace('"a"', '"  "'))),
    Case("no second text", CHECK, ["train.jsonl:1: text_pair"], rows("pairs", '{"text": "a", "label": "same"}')),
    Case(
        "latin-1",
        CHECK,
        ["train.jsonl:2", "UTF-8"],
        rows("pairs", PAIR.encode() + PAIR.replace("a", "caf\xe9").encode("latin-1")),
    ),
    Case("UTF-16", CHECK, ["train.jsonl:1", "UTF-16"], rows("pairs", PAIR.encode("utf-16"))),
    Case("empty file", CHECK, ["train.jsonl: has no rows"], rows("pairs", "")),
    Case("duplicate id", CHECK, ["train.jsonl:2: id: '1'"], rows("pairs", PAIR.replace("{", '{"id": 1, ') * 2)),
    Case("nan score", CHECK, ["score/train.jsonl:1:", "NaN"], rows("score", PAIR.replace('"same"', "NaN"))),
    Case("score is a name", CHECK, ["score/train.jsonl:1: label"], rows("score", PAIR)),
    Case(
        "span does not match",
        CHECK,
        ["qa/train.jsonl:1: answers"],
        rows("qa", '{"question": "q", "context": "abc", "answers": {"text": ["c"], "answer_start": [1]}}'),
    ),
    Case(
        "answer outside",
        CHECK,
        ["qa/train.jsonl:1: answers"],
        rows("qa", '{"question": "q", "context": "abc", "answers": {"text": ["c"], "answer_start": [9]}}'),
    ),
    Case("no question", CHECK, ["qa/train.jsonl:1: question"], rows("qa", '{"context": "abc"}')),
    Case("bad gzip", CHECK, ["train.jsonl.gz"], rows("pairs", None) | {"data/pairs/train.jsonl.gz": b"no gzip"}),
    Case("no folder of a task", f"{CHECK} --tasks other", ["--tasks: other: no such task"]),
    Case("no such data folder", "check --task_def defs.yml --data_dir dat", ["--data_dir: dat: no such folder"]),
    Case("no data at all", "check --task_def defs.yml --data_dir model", ["--data_dir: model: no data"]),
    Case("several files", CHECK, ["pairs/train.jsonl:1", "mood/train.jsonl:1"], rows("pairs", "1") | rows("mood", "2")),
]
LISTS = "\nlists:\n  task_type: Ranking\n  data_format: PremiseAndMultiHypothesis\n"
NAMES = "\nnames:\n  task_type: SequenceLabeling\n  data_format: Sequence\n  labels: [O, B-A, I-A]\n"


def also(definition: str, row: str) -> dict[str, str | bytes | None]:
    """The world with a further task, and one row of it."""
    return {"defs.yml": DEFS + definition} | rows(definition.split(":")[0].strip(), row)


LIST = '{"text": "a", "candidates": ["b", "c"], "label": 0}'
TAGS = '{"tokens": ["a", "b"], "tags": ["O", "B-A"]}'
MORE_ROWS = [
    Case("no candidates", CHECK, ["lists/train.jsonl:1: candidates: is missing"], also(LISTS, '{"text": "a"}')),
    Case("one candidate", CHECK, ["1: candidates: is ['b']; a list of"], also(LISTS, LIST.replace(', "c"', ""))),
    Case("empty candidate", CHECK, ["1: candidates[1]: is empty"], also(LISTS, LIST.replace('"c"', '" "'))),
    Case("no such candidate", CHECK, ["1: label: 2: allowed: the number of"], also(LISTS, LIST.replace("0", "2"))),
    Case("none is right", CHECK, ["1: label: [0, 0]: no candidate is right"], also(LISTS, LIST.replace("0", "[0, 0]"))),
    Case("nan gain", CHECK, ["lists/train.jsonl:1:", "NaN"], also(LISTS, LIST.replace("0", "[NaN, 1]"))),
    Case(
        "soft label of a list",
        CHECK,
        ["1: soft_label: Ranking does not learn from soft labels"],
        also(LISTS, LIST.replace("{", '{"soft_label": [0.5, 0.5], ')),
    ),
    Case("three labels of a list", CHECK, ["lists.labels: a, b, c: Ranking has none, or two"],
         {"defs.yml": DEFS + LISTS + "  labels: [a, b, c]\n"}),
    Case("metric of a list", CHECK, ["lists.metric_meta: F1: Ranking has"],
         {"defs.yml": DEFS + LISTS + "  metric_meta: [F1]\n"}),
    Case("no tokens", CHECK, ["names/train.jsonl:1: tokens: is missing"], also(NAMES, '{"text": "a"}')),
    Case("blank token", CHECK, ["1: tokens[1]: is empty"], also(NAMES, TAGS.replace('"b"', '" "'))),
    Case("tags missing", CHECK, ["1: tags: 1 tags for 2 tokens"], also(NAMES, TAGS.replace(', "B-A"', ""))),
    Case("unknown tag", CHECK, ["1: tags[1]: 'B-Q': unknown", "O, B-A"], also(NAMES, TAGS.replace("B-A", "B-Q"))),
    Case("chunks without O", CHECK, ["names.metric_meta: SeqEval: is for chunks"],
         {"defs.yml": DEFS + NAMES.replace("O, B-A, I-A", "N, V")}),
    Case("head of tags", CHECK, ["names.head_input: mean: only for"],
         {"defs.yml": DEFS + NAMES + "  head_input: mean\n"}),
    Case("prep: conll", "prep conll --out o", ["nothing to prepare"]),
    Case("prep: lists", "prep ranking --rows gone --out o", ["--rows: gone is not a folder"]),
]  # fmt: skip
RUNS = [
    Case("training task", f"{TRAIN},moood", ["--train_tasks: moood: no such task", "'mood'"]),
    Case("evaluation task", f"{TRAIN} --eval_tasks pear", ["--eval_tasks: pear: no such task"]),
    Case(
        "main task",
        f"{TRAIN} --sampling main_ratio --main_task mood",
        ["--main_task: mood: sampling main_ratio needs a training task"],
    ),
    Case(
        "best metric",
        f"{TRAIN} --metric_for_best_model acc",
        ["--metric_for_best_model: acc: no such metric", "mean, pairs.acc"],
    ),
    Case("data folder", f"{TRAIN} --data_dir dta", ["--data_dir: dta: no such folder"]),
    Case("data folder is a file", f"{TRAIN} --data_dir defs.yml", ["--data_dir: defs.yml: no such folder"]),
    Case("split missing", TRAIN, ["data/pairs", "'train'", "dev.jsonl"], rows("pairs", None)),
    Case("model missing", f"{TRAIN} --model_name_or_path ./modle", ["--model_name_or_path: ./modle: no such folder"]),
    Case("model is a file", f"{TRAIN} --model_name_or_path defs.yml", ["defs.yml: is a file"]),
    Case("model without config", f"{TRAIN} --model_name_or_path data", ["data: no config.json"]),
    Case(
        "output is a file",
        f"{TRAIN} --output_dir defs.yml",
        ["--output_dir: defs.yml: is a file; name a folder"],
    ),
    Case(
        "output below a file",
        f"{TRAIN} --output_dir defs.yml/run",
        ["--output_dir: defs.yml/run: cannot be written: defs.yml"],
    ),
    Case("output is no run", f"{TRAIN} --output_dir data", ["--output_dir: data: not empty and no run folder"]),
    Case(
        "output is taken",
        TRAIN,
        ["--output_dir: run: holds a run; --resume goes on", "--overwrite_output_dir"],
        {"run/config.yml": "", "run/model/x": "x"},
    ),
    Case("output unwritable", f"{TRAIN} --output_dir /proc/run", ["--output_dir: /proc/run: cannot be written: /proc"]),
    Case(
        "features unwritable", f"{TRAIN} --cache_dir defs.yml/c", ["--cache_dir: defs.yml/c: cannot be written: defs"]
    ),
    Case(
        "convert: below a file", "convert defs.yml --out defs.yml/x", ["--out: defs.yml/x: cannot be written: defs.yml"]
    ),
    Case(
        "convert: data below a file",
        "convert --task_def defs.yml --data_dir data --out defs.yml/x",
        ["--out: defs.yml/x: cannot be written: defs.yml"],
    ),
    Case("evaluate: no run", "evaluate run", ["run: no such run folder"]),
    Case("evaluate: no run folder", "evaluate data", ["data: is no run folder"]),
    Case("evaluate: unfinished", "evaluate run", ["run: this run has not finished"], {"run/config.yml": ""}),
    Case("evaluate: no folder given", "evaluate", ["RUN"]),
    Case("surplus word", "evaluate run more", ["more: unexpected argument"]),
    Case("evaluate: no names", "evaluate run --tasks ,", ["--tasks", "names separated by commas"]),
    Case("evaluate: flag", "evaluate run --taks a", ["--taks: unknown flag", "'--tasks'"]),
    Case("evaluate: batch", "evaluate run --batch_size 0", ["--batch_size: 0: must be an integer >= 1"]),
    Case("predict: no rows", "predict run --task a", ["--input: needed", "--output: needed"]),
    Case("predict: both", "predict run --task a --glue_submission d", ["--task: not together with --glue_submission"]),
    Case("export: no task", "export run --out o", ["--task"]),
    Case("export: no run", "export run --task a --out o", ["run: no such run folder"]),
]
PREP = [
    Case("prep: no output", "prep glue --raw data", ["required: --out"]),
    Case("prep: no raw folder", "prep glue --raw gone --out o", ["--raw: gone"]),
    Case("prep: glue task", "prep glue --raw data --out o --tasks mrcp", ["--tasks: unknown task 'mrcp'"]),
    Case("prep: squad", "prep squad --raw gone --out o", ["--raw: gone"]),
    Case("prep: set", "prep textcls --dataset agnew --out o", ["--dataset: invalid choice: 'agnew'", "agnews"]),
    Case("prep: seed", "prep sample --out o --seed x", ["--seed: invalid int value: 'x'"]),
    Case("prep: output is a file", "prep sample --out defs.yml", ["--out: defs.yml: is a file; name a folder"]),
    Case(
        "prep: output below a file", "prep sample --out defs.yml/o", ["--out: defs.yml/o: cannot be written: defs.yml"]
    ),
    Case(
        "prep: task is a file",
        "prep augment --rows data/mood --out o --adversarial defs.yml",
        ["--out: o/mood: is a file; name a folder"],
        {"o/mood": ""},
    ),
    Case("prep: unknown flag", "prep sample --out o --sead 1", ["--sead: unknown flag", "'--seed'"]),
]
CORPUS = [*PREP, *FLAGS, *METHODS, *RECIPES, *DEFINITIONS, *ROWS, *MORE_ROWS, *RUNS]


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_broken_input_ends_well(case: Case, world: Path, mtrobust: Callable):
    for name, content in case.files.items():
        path = world / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = fingerprint(world)
    ended = mtrobust(*shlex.split(case.command))
    assert ended.code == case.code, ended.err
    for text in case.says:
        assert text in ended.err
    assert "Traceback" not in ended.err + ended.out
    assert all(line.startswith("error: ") for line in ended.err.rstrip("\n").split("\n"))
    assert fingerprint(world) == before


def test_the_corpus_is_large_and_its_names_differ():
    names = [case.name for case in CORPUS]
    assert len(names) >= 60 and len(set(names)) == len(names)


def test_a_sound_world_has_no_faults(world: Path, mtrobust: Callable):
    ended = mtrobust(*shlex.split(CHECK))
    assert (ended.code, ended.err) == (0, "")
    assert "pairs  Classification" in ended.out and "no faults" in ended.out
