"""The folders in which guides are run. Tiny files and a tiny encoder stand behind the names that guides use: `raw/`,
`DATA/` (raw files and rows), `data/`, `bert-base-uncased`, `MODEL`, `MLM`, `RUN`, `scripts/`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from unittest import mock

from tests.docs.guides import RUN, mtrobust
from tests.docs.shell import ROOT, blocks

# Files that a guide says to write: the first YAML block.
WRITTEN = {"docs/tutorial.md": "movies.yml"}


def write_base(folder: Path) -> Path:
    """What all worlds are copies of: raw files, rows, scripts, an encoder with a language-model head, a run."""
    from tests.raw_world import write_raw
    from tests.tiny import write_tiny_model

    write_raw(folder / "raw")
    write_questions(folder)
    mrpc = (folder / "raw/MRPC/dev.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    rows = ["index\t#1 ID\t#2 ID\t#1 String\t#2 String"]
    rows += ["\t".join([str(i), *line.split("\t")[1:]]) for i, line in enumerate(mrpc)]
    (folder / "raw/MRPC/test.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    write_language_model(folder / "MODEL")
    for name in ("bert-base-uncased", "MLM", "mlm/model", "models/minilm-l6-h384-uncased"):
        shutil.copytree(folder / "MODEL", folder / name)
    write_tiny_model("t5", folder / "google-t5/t5-small", whole=True)
    glue, inside = "mrpc,cola,stsb,sst2", {"mr": "/MR", "imdb": "/IMDB"}
    sets = [("glue", "--tasks", glue), ("textcls", "--dataset", "mr"), ("textcls", "--dataset", "imdb")]
    with contextlib.chdir(folder):
        for kind, flag, which in sets:
            _do("prep", kind, flag, which, "--raw", f"raw{inside.get(which, '')}", "--out", "data")
        _do("prep", "squad", "--raw", "SQuAD", "--out", "data")
        _do("train", "--task_def", "glue,textcls", "--data_dir", "data", "--train_tasks", "mrpc,mr",
            "--model_name_or_path", "MODEL", "--output_dir", "base")  # fmt: skip
        _do("export", "base", "--task", "mr", "--out", "mr-model")
    write_pairs(folder / "data")
    with (folder / "data/mr/train.jsonl").open(encoding="utf-8") as file:
        row = json.loads(next(file))
    attacked = row | {"success": True, "field": "text", "adversarial": f"{row['text']} indeed"}
    (folder / "attack.jsonl").write_text(json.dumps(attacked) + "\n", encoding="utf-8")
    for name in ("scripts", "task_defs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "venv").mkdir()
    (folder / "venv/.mtrobust-plain").touch()
    for kind in ("golden", "models"):
        if f"MTROBUST_{kind.upper()}" in os.environ:
            (folder / kind.upper()).symlink_to(os.environ[f"MTROBUST_{kind.upper()}"])
    for name in ("raw", "data"):  # some guides have files and rows in one folder
        shutil.copytree(folder / name, folder / "DATA", dirs_exist_ok=True)
    return folder


def write_questions(folder: Path) -> None:
    """A second sentence in every passage of SQuAD, its files under their official names too, and a v2.0."""
    (folder / "SQuAD").mkdir()
    for split, name in (("train", "train-subset-v1.1.json"), ("dev", "dev-v1.1.json")):
        path = folder / "raw/SQuAD-v1.1" / name
        content = json.loads(path.read_text(encoding="utf-8"))
        for paragraph in (p for article in content["data"] for p in article["paragraphs"]):
            paragraph["context"] += " Nobody knows more about it."
        content["data"][0]["paragraphs"][0]["qas"][0]["id"] = "56dfb0c8231d4119001abc86"  # a question of analysis.md
        for written in (path, folder / f"SQuAD/{split}-v1.1.json"):
            written.write_text(json.dumps(content), encoding="utf-8")
    paragraphs = content["data"][0]["paragraphs"][:4]
    for number, paragraph in enumerate(paragraphs):
        paragraph["qas"][0]["is_impossible"] = number % 2 == 1
        if number % 2:
            paragraph["qas"][0]["answers"] = []
    titles = re.findall(r'"([\w\s]+)"+\.split\(', (ROOT / "docs/results.md").read_text("utf-8"))
    content = {"version": "v2.0", "data": []}
    for title in " ".join(titles).split():
        own = [one | {"qas": [one["qas"][0] | {"id": f"{title}{i}"}]} for i, one in enumerate(paragraphs)]
        content["data"].append({"title": title, "paragraphs": own})
    (folder / "raw/SQuAD-v2.0").mkdir()
    (folder / "raw/SQuAD-v2.0/dev-v2.0.json").write_text(json.dumps(content), encoding="utf-8")


def write_pairs(data: Path) -> None:
    """Rows of tasks whose raw files are not at hand."""
    labels = {
        **dict.fromkeys(("rte", "qnli"), ["entailment", "not_entailment"]),
        **dict.fromkeys(("mnli", "snli"), ["contradiction", "neutral", "entailment"]),
        "qqp": ["0", "1"],
        "scitail": ["neutral", "entailment"],
    }
    for task, names in labels.items():
        for split in ("train", "dev", *(["matched_dev", "mismatched_dev"] if task == "mnli" else [])):
            rows = [{"id": f"{i}{name}", "text": f"Where is {i}?", "text_pair": f"It is {i} {k}", "label": name}
                    for i in range(4) for k, name in enumerate(names)]  # fmt: skip
            (data / task).mkdir(exist_ok=True)
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (data / task / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def write_language_model(folder: Path) -> None:
    """A tiny BERT of six layers with its masked-language-model head, and a word of a guide in its vocabulary."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    from tests import tiny

    with mock.patch.object(tiny, "TEXT", [*tiny.TEXT, "the company"]):
        tiny.write_tiny_model("bert", folder, num_hidden_layers=6, max_position_embeddings=384)
    AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)


def write_world(base: Path, document: str, folder: Path) -> None:
    """A copy of the base for a document, with its runs and files."""
    shutil.copytree(base, folder, symlinks=True)
    os.utime(folder / "venv/.mtrobust-plain", (2**31 - 1, 2**31 - 1))  # newer than any file it is compared with
    for name in RUN[document]:
        shutil.copytree(base / "base", folder / name)
        seed = name.rpartition("-")[2]
        config = folder / name / "config.yml"
        if seed.isdigit():
            config.write_text(config.read_text("utf-8").replace("seed: 42", f"seed: {seed}"), encoding="utf-8")
    shutil.rmtree(folder / "base")
    if document in WRITTEN:
        text = next(block.text for block in blocks(document) if block.kind == "yaml")
        (folder / WRITTEN[document]).write_text(text, encoding="utf-8")
    if document in FILES:
        FILES[document](folder)


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
    for name, task in wanted.items():
        shutil.rmtree(folder / "data" / name)  # `convert` writes rows there, over none
        rows.mkdir(exist_ok=True)
        for split in task.get("split_names", ["train", "dev", "test"]):
            lines = [f"{i}\t{task['labels'][i % 2]}\tThe cat sat {i} times.\tIt sat.\n" for i in range(8)]
            (rows / f"{name}_{split}.tsv").write_text("".join(lines), encoding="utf-8")


def write_company(folder: Path) -> None:
    """The row and the word that analysis.md looks at."""
    for split in ("train", "dev"):
        path = folder / f"data/mrpc/{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        rows[0] |= {"id": "102", "text": f"the company {rows[0]['text']}"}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_recipe(folder: Path) -> None:
    """A recipe of a run, as scaling.md starts it."""
    (folder / "recipe.yml").write_text(
        "task_def: textcls\ndata_dir: data\ntrain_tasks: mr\nmodel_name_or_path: MODEL\noutput_dir: runs/scaled\n"
        "overwrite_output_dir: true\n", encoding="utf-8",
    )  # fmt: skip


FILES = {
    "docs/from_mt_dnn.md": write_old_files,
    "docs/analysis.md": write_company,
    "docs/scaling.md": write_recipe,
}


def _do(*words: str) -> None:
    status, output = mtrobust(*words)
    assert status == 0, output
