"""Running what a guide says: its commands in this process, its Python, on tiny data and a tiny encoder.

A guide's world is a folder in which the names that guides use are there: `raw/`, `data/`, and as folders
`bert-base-uncased`, `MODEL` and `RUN`. Nothing in a command is replaced; flags are added that keep it short.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from tests.docs.shell import ROOT, Command, blocks

# Documents that are run, with the run folders that stand in their world before.
RUN: dict[str, tuple[str, ...]] = {
    "README.md": (),
    "docs/index.md": (),
    "docs/quickstart.md": (),
    "docs/tutorial.md": (),
    "docs/from_run_glue.md": (),
    "docs/python.md": (),
    "docs/tasks.md": ("runs/a", "runs/b", "runs/c", "runs/rapt"),
    "docs/attack.md": ("RUN",),
    "docs/report.md": ("runs/mr/standard-1", "runs/mrpc/standard-2"),
    "docs/data.md": (),
    "docs/monitoring.md": ("runs/rapt",),
    "docs/from_mt_dnn.md": (),
    "docs/adapters.md": (),
}
RUN = {name: runs for name, runs in RUN.items() if (ROOT / name).is_file()}
# Files that a guide says to write: the first YAML block.
WRITTEN = {"docs/tutorial.md": "movies.yml"}
# Commands that are read and not run, by how they begin, and why.
NOT_RUN = {
    "mtrobust prep glue --hub": "needs a hub; the rows are there",
    "mtrobust prep glue_check": "wants the sizes of the official test sets",
}
PIECES_OF_PYTHON = {"README.md": 1, "docs/tutorial.md": 1, "docs/python.md": 3}  # at least
CODE_NOT_RUN = {"docs/attack.md": "for TextAttack's own environment"}
# What keeps a command short; the last value of a flag counts.
SHORT: dict[str, tuple[str, ...]] = {
    "train": (
        *("--max_steps", "2", "--max_train_samples", "8", "--max_eval_samples", "4"),
        *("--use_cpu", "--progress", "off"),
    ),
    "prep sample": ("--train_rows", "20", "--eval_rows", "6"),
    "attack": ("--examples", "2", "--use_cpu", "--progress", "off"),
    "evaluate": ("--use_cpu",),
    "predict": ("--use_cpu",),
    "export": ("--use_cpu",),
    "embed": ("--use_cpu",),
    "doctor": ("--seconds", "0"),
}


@dataclass
class Ran:
    """How much of a document was run."""

    commands: int = 0
    code: int = 0


@cache
def pages() -> ModuleType:
    """The module that makes the generated pages of the site."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs/site/pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(document: str, commands: Iterable[Command]) -> Ran:
    """Runs the commands and the Python of a document in the current folder, in the order of the page."""
    ran, commands = Ran(), list(commands)
    for number, block in enumerate(blocks(document)):
        for command in (one for one in commands if one.block == number):
            ran.commands += _run(command)
        if block.kind == "python" and document not in CODE_NOT_RUN:
            execute(block.text, f"{document}, block {number}")
            ran.code += 1
    return ran


def _run(command: Command) -> bool:
    """Runs a command of ours; whether it was one. Asserts that it ended well."""
    from mtrobust.cli import main

    line = " ".join(command.words)
    if command.words[0] != "mtrobust" or line.startswith(tuple(NOT_RUN)):
        return False
    words = list(command.words[1:])
    short = SHORT.get(" ".join(words[:2])) or SHORT.get(words[0], ())
    if words[0] == "export":  # a second way to the same folder
        shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main([*words, *short])
    assert code == 0, f"{command}\n{out.getvalue()[-3000:]}"
    return True


def execute(code: str, name: str) -> str:
    """Runs a piece of Python; what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, name, "exec"), {"__name__": "__main__"})
    return out.getvalue()


# --- the world --------------------------------------------------------------------------------------------------------


def write_base(folder: Path) -> Path:
    """What all worlds are copies of: raw files, rows, an encoder with a language-model head, a run."""
    from tests.raw_world import write_raw

    write_raw(folder / "raw")
    mrpc = (folder / "raw/MRPC/dev.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    rows = ["index\t#1 ID\t#2 ID\t#1 String\t#2 String"]
    rows += ["\t".join([str(i), *line.split("\t")[1:]]) for i, line in enumerate(mrpc)]
    (folder / "raw/MRPC/test.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for name in ("bert-base-uncased", "MODEL", "mlm/model"):
        write_language_model(folder / name)
    sets = [("glue", "--tasks", "mrpc,cola,stsb"), ("textcls", "--dataset", "mr"), ("textcls", "--dataset", "imdb")]
    inside = {"mr": "/MR", "imdb": "/IMDB"}
    with contextlib.chdir(folder):
        for kind, flag, which in sets:
            raw = f"raw{inside.get(which, '')}"
            _do("prep", kind, flag, which, "--raw", raw, "--out", "data")
        _do("train", "--task_def", "glue,textcls", "--data_dir", "data", "--train_tasks", "mrpc,mr",
            "--model_name_or_path", "MODEL", "--output_dir", "base", *SHORT["train"])  # fmt: skip
        _do("export", "base", "--task", "mr", "--out", "mr-model")
    write_questions(folder)
    with (folder / "data/mr/train.jsonl").open(encoding="utf-8") as file:
        row = json.loads(next(file))
    attacked = row | {"success": True, "field": "text", "adversarial": f"{row['text']} indeed"}
    (folder / "attack.jsonl").write_text(json.dumps(attacked) + "\n", encoding="utf-8")
    return folder


def write_questions(folder: Path) -> None:
    """SQuAD under its official names, its rows, rows of QNLI, and a whole T5."""
    from tests.tiny import write_tiny_model

    (folder / "SQuAD").mkdir()
    for split, name in (("train", "train-subset-v1.1.json"), ("dev", "dev-v1.1.json")):
        content = json.loads((folder / "raw/SQuAD-v1.1" / name).read_text(encoding="utf-8"))
        for paragraph in (p for article in content["data"] for p in article["paragraphs"]):
            paragraph["context"] += " Nobody knows more about it."  # a second sentence
        (folder / f"SQuAD/{split}-v1.1.json").write_text(json.dumps(content), encoding="utf-8")
    with contextlib.chdir(folder):
        _do("prep", "squad", "--raw", "SQuAD", "--out", "data")
    (folder / "data/qnli").mkdir()
    for split in ("train", "dev"):
        rows = [
            {"id": f"{i}{label}", "text": f"Where is {i}?", "text_pair": f"It is {where}", "label": label}
            for i in range(4)
            for where, label in (("here", "entailment"), ("not known", "not_entailment"))
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"data/qnli/{split}.jsonl").write_text(lines, encoding="utf-8")
    write_tiny_model("t5", folder / "google-t5/t5-small", whole=True)


def write_language_model(folder: Path) -> None:
    """A tiny BERT of six layers with its masked-language-model head."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    from tests.tiny import write_tiny_model

    write_tiny_model("bert", folder, num_hidden_layers=6)
    AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)


def write_world(base: Path, document: str, folder: Path) -> None:
    """A copy of the base for a document, with its runs and files."""
    shutil.copytree(base, folder)
    for name in RUN.get(document, ()):
        shutil.copytree(base / "base", folder / name)
        seed = name.rpartition("-")[2]
        config = folder / name / "config.yml"
        if seed.isdigit():
            config.write_text(config.read_text("utf-8").replace("seed: 42", f"seed: {seed}"), encoding="utf-8")
    shutil.rmtree(folder / "base")
    if document in WRITTEN:
        text = next(block.text for block in blocks(document) if block.kind == "yaml")
        (folder / WRITTEN[document]).write_text(text, encoding="utf-8")
    if document == "docs/from_mt_dnn.md":
        write_old_files(folder)


def write_old_files(folder: Path) -> None:
    """A definition and canonical rows as MT-DNN keeps them."""
    import yaml

    from tests.mtdnn.definitions import FILES

    definitions = folder / "experiments/glue/glue_task_def.yml"
    definitions.parent.mkdir(parents=True)
    definitions.write_text(yaml.safe_dump(FILES["glue"]), encoding="utf-8")
    wanted = {name: FILES["glue"][name] for name in ("mnli", "rte")}
    (folder / "OLD.yml").write_text(yaml.safe_dump(wanted), encoding="utf-8")
    rows = folder / "data/canonical_data"
    shutil.rmtree(folder / "data")  # `convert` writes rows there, over none
    rows.mkdir(parents=True)
    for name, task in wanted.items():
        for split in task.get("split_names", ["train", "dev", "test"]):
            lines = [f"{i}\t{task['labels'][i % 2]}\tThe cat sat {i} times.\tIt sat.\n" for i in range(8)]
            (rows / f"{name}_{split}.tsv").write_text("".join(lines), encoding="utf-8")


def _do(*words: str) -> None:
    assert _run(Command("the world", 0, ("mtrobust", *words)))
