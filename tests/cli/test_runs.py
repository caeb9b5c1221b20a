"""`evaluate`, `predict` and `export` on a finished run with a tiny encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtrobust.models.multitask import MultiTaskModel
from tests.cli.world import fingerprint
from tests.evaluation.attacks.lm import write_tiny_lm
from tests.evaluation.runs import copy_run, read_lines, text_rows, write_data, write_rows, write_run

TASKS = ["mood", "stsb", "squad"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Callable[[str], Path]) -> Path:
    """A folder with `data/` and a finished `run/`."""
    folder = tmp_path_factory.mktemp("trained")
    write_run(folder / "run", tiny_model_dir("bert"), write_data(folder / "data"), TASKS)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """The run, to be written into."""
    return copy_run(trained / "run", tmp_path / "run")


def test_evaluate_prints_and_writes_metrics_and_predictions(run: Path, mtrobust: Callable):
    ended = mtrobust("evaluate", run, "--use_cpu")
    assert ended.code == 0, ended.err
    results = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
    assert set(results) == set(TASKS) and {"em", "f1"} <= set(results["squad"])
    for task in TASKS:
        assert f"{task} " in ended.out and (run / "predictions" / f"{task}.dev.jsonl").is_file()
    assert f"acc {results['mood']['acc']:.2f}" in ended.out


@pytest.mark.parametrize(
    "command",
    [
        "evaluate RUN --tasks mood",
        "predict RUN --task mood --input IN --output OUT.jsonl",
        "predict RUN --task mood --input IN --output OUT.jsonl --soft",
        "embed RUN --task mood --input IN --output OUT.jsonl",
        "export RUN --task mood --out OUT",
        "attack RUN --task mood --mlm LM --examples 1 --output_dir OUT",
    ],
    ids=lambda command: " ".join(word for word in command.split() if word in {command.split()[0], "--soft"}),
)
def test_a_task_that_was_only_evaluated_is_the_run_s_too(
    command: str, trained: Path, run: Path, tmp_path: Path, mtrobust: Callable, tiny_model_dir: Callable[[str], Path]
):
    only_evaluated(run, "mood")
    write_tiny_lm(tiny_model_dir("bert"), tmp_path / "lm")
    places = {"RUN": run, "IN": trained / "data/mood/dev.jsonl", "LM": tmp_path / "lm", "OUT": tmp_path / "out"}
    words = [places.get(word, word.replace("OUT", str(tmp_path / "out"))) for word in command.split()]
    ended = mtrobust(*words, "--use_cpu")
    assert ended.code == 0, ended.err


def test_tasks_that_the_run_neither_trained_nor_evaluated_are_none_of_it(run: Path, tmp_path: Path, mtrobust: Callable):
    """Nor is one that was only evaluated anything to `analyze`, which looks at what methods did in training."""
    only_evaluated(run, "mood", left_out="squad")
    ended = mtrobust("evaluate", run, "--tasks", "squad")
    assert ended.code == 2 and "--tasks: squad: no such task (defined: mood, stsb)" in ended.err
    ended = mtrobust("analyze", "drift", run, "--task", "mood", "--out", tmp_path / "out")
    assert ended.code == 2 and "--task: mood: no such task (defined: stsb)" in ended.err


def only_evaluated(run: Path, task: str, left_out: str = "") -> None:
    """Makes the run one that was evaluated on all tasks and trained on all others."""
    names = [name for name in TASKS if name != left_out]
    configure(run, train_tasks=[name for name in names if name != task], eval_tasks=names)


def configure(run: Path, **values: Any) -> None:
    config = yaml.safe_load((run / "config.yml").read_text(encoding="utf-8"))
    (run / "config.yml").write_text(yaml.safe_dump(config | values), encoding="utf-8")


def test_evaluate_some_tasks_on_another_split_without_labels(run: Path, mtrobust: Callable):
    ended = mtrobust("evaluate", run, "--tasks", "mood", "--split", "test", "--batch_size", 2, "--no_bf16", "--use_cpu")
    assert ended.code == 0, ended.err
    assert "mood  no labelled rows: predictions only" in ended.out and "stsb" not in ended.out
    assert len(read_lines(run / "predictions" / "mood.test.jsonl")) == 5


def test_other_data_leave_the_run_s_figures_alone(run: Path, tmp_path: Path, mtrobust: Callable):
    write_rows(tmp_path / "other/mood/dev.jsonl", text_rows(3, ["glad", "sad"], pair=False))
    before = fingerprint(run)
    ended = mtrobust("evaluate", run, "--tasks", "mood", "--data_dir", tmp_path / "other", "--use_cpu")
    assert ended.code == 0 and "not written" in ended.out and fingerprint(run) == before
    out = tmp_path / "figures"
    mtrobust("evaluate", run, "--tasks", "mood", "--data_dir", tmp_path / "other", "--out", out, "--use_cpu")
    assert "mood" in json.loads((out / "all_results.json").read_text(encoding="utf-8")) and fingerprint(run) == before


def test_a_run_with_a_part_of_the_dev_rows_is_evaluated_on_these(run: Path, trained: Path, mtrobust: Callable):
    """Its own figures stay those of the rows that it was evaluated on; all rows are shown, or go elsewhere."""
    configure(run, max_eval_samples=4)
    flags = ["--tasks", "mood", "--use_cpu"]
    ended = mtrobust("evaluate", run, *flags)
    assert ended.code == 0 and "mood.dev: 4 of 13 rows are evaluated (max_eval_samples)" in ended.err
    assert [line["id"] for line in read_lines(run / "predictions/mood.dev.jsonl")] == ["0", "3", "6", "9"]
    figures = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
    before = fingerprint(run)
    ended = mtrobust("evaluate", run, *flags, "--data_dir", trained / "data")  # the same folder
    assert "4 of 13 rows" in ended.err and fingerprint(run) == before

    ended = mtrobust("evaluate", run, *flags, "--all_rows")
    assert ended.code == 0 and "not written, since the run evaluated a part of these rows" in ended.out
    assert fingerprint(run) == before and f"acc {figures['mood']['acc']:.2f}" not in ended.out
    out = run.parent / "all"
    assert mtrobust("evaluate", run, *flags, "--all_rows", "--out", out).code == 0
    assert len(read_lines(out / "predictions/mood.dev.jsonl")) == 13 and fingerprint(run) == before


def test_all_rows_are_asked_for_only_where_there_are_more(run: Path, tmp_path: Path, mtrobust: Callable):
    ended = mtrobust("evaluate", run, "--all_rows", "--use_cpu")
    assert ended.code == 2 and ended.err == "error: --all_rows: without effect: the run had no max_eval_samples\n"
    configure(run, max_eval_samples=4)
    ended = mtrobust("evaluate", run, "--all_rows", "--data_dir", tmp_path, "--use_cpu")
    told = "error: --all_rows: without effect: of data that are not the run's all rows are taken\n"
    assert ended.code == 2 and ended.err == told


@pytest.mark.parametrize("split", ["test", "shifted"])
def test_splits_that_a_run_did_not_evaluate_are_evaluated_whole(run: Path, tmp_path: Path, mtrobust: Callable, split):
    write_rows(tmp_path / "data/mood" / f"{split}.jsonl", text_rows(9, ["sad", "glad"], pair=False))
    configure(run, max_eval_samples=4, data_dir=str(tmp_path / "data"))
    ended = mtrobust("evaluate", run, "--tasks", "mood", "--split", split, "--use_cpu")
    assert ended.code == 0, ended.err
    assert len(read_lines(run / "predictions" / f"mood.{split}.jsonl")) == 9


def test_other_data_are_evaluated_whole(run: Path, tmp_path: Path, mtrobust: Callable):
    write_rows(tmp_path / "other/mood/dev.jsonl", text_rows(9, ["sad", "glad"], pair=False))
    configure(run, max_eval_samples=4)
    flags = ["--tasks", "mood", "--data_dir", tmp_path / "other", "--out", tmp_path / "out", "--use_cpu"]
    assert mtrobust("evaluate", run, *flags).code == 0
    assert len(read_lines(tmp_path / "out/predictions/mood.dev.jsonl")) == 9


def test_predict_writes_one_line_per_row_in_order(run: Path, tmp_path: Path, mtrobust: Callable):
    rows = write_rows(tmp_path / "in.jsonl", text_rows(7, None, pair=False))
    ended = mtrobust("predict", run, "--task", "mood", "--input", rows, "--output", tmp_path / "out.jsonl", "--use_cpu")
    assert ended.code == 0 and "7 predictions" in ended.out, ended.err
    assert [line["id"] for line in read_lines(tmp_path / "out.jsonl")] == [str(i) for i in range(7)]


def test_predict_writes_a_glue_submission(run: Path, tmp_path: Path, mtrobust: Callable):
    ended = mtrobust("predict", run, "--glue_submission", tmp_path / "glue", "--use_cpu")
    assert ended.code == 0 and "STS-B.tsv: 5 rows" in ended.out, ended.err
    assert (tmp_path / "glue" / "STS-B.tsv").is_file() and "warning: STS-B.tsv" in ended.err


@pytest.mark.parametrize("out", ["file/x", "/proc/x"])
@pytest.mark.parametrize(
    "command",
    [
        "evaluate RUN --out OUT",
        "predict RUN --task mood --input IN --output OUT/y.jsonl",
        "predict RUN --task mood --input IN --output OUT/y.jsonl --soft",
        "predict RUN --glue_submission OUT",
        "embed RUN --task mood --input IN --output OUT/y.jsonl",
        "export RUN --task mood --out OUT/y",
        "attack RUN --task mood --mlm RUN/model --output_dir OUT",
        "analyze smoothness RUN --task mood --out OUT",
        "report RUN --out OUT",
    ],
    ids=lambda command: command.split(" OUT")[0].replace(" --task mood", "").replace(" --input IN", ""),
)
def test_places_that_cannot_be_written_are_said_before_a_model_is_read(
    command: str, out: str, trained: Path, tmp_path: Path, mtrobust: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(MultiTaskModel, "load", lambda *_: pytest.fail("a model was read"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    before = fingerprint(tmp_path), fingerprint(trained)
    words = {"RUN": trained / "run", "IN": trained / "data/mood/dev.jsonl", "OUT": out}
    line = command
    for word, meant in words.items():
        line = line.replace(word, str(meant))
    ended = mtrobust(*line.split())
    place, reason = {"file/x": ("file", "Not a directory"), "/proc/x": ("/proc", "No such file or directory")}[out]
    assert ended.code == 2, ended.err
    (said,) = ended.err.splitlines()
    assert said.startswith("error: --") and out in said and said.endswith(f": cannot be written: {place}: {reason}")
    assert (fingerprint(tmp_path), fingerprint(trained)) == before


def test_export_writes_a_folder_that_transformers_loads(run: Path, tmp_path: Path, mtrobust: Callable):
    from transformers import AutoModelForSequenceClassification

    ended = mtrobust("export", run, "--task", "mood", "--out", tmp_path / "hf", "--use_cpu")
    assert ended.code == 0 and ended.out == f"exported: {tmp_path / 'hf'}\n", ended.err
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf")
    assert model.config.id2label == {0: "sad", 1: "calm", 2: "glad"}


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["evaluate", "RUN", "--tasks", "moood"], ["--tasks: moood: no such task", "'mood'"]),
        (["evaluate", "RUN", "--data_dir", "gone"], ["--data_dir: gone: no such folder"]),
        (["evaluate", "RUN", "--out", "IN"], ["is a file"]),
        (["evaluate", "RUN", "--split", "validation"], ["validation"]),
        (["predict", "RUN", "--task", "rte", "--input", "IN", "--output", "o"], ["--task: rte: no such task"]),
        (["predict", "RUN", "--task", "mood", "--input", "gone", "--output", "o"], ["--input: gone: no such file"]),
        (["predict", "RUN", "--task", "mood", "--input", "IN", "--output", "IN"], ["--output", "is the input"]),
        (["predict", "RUN", "--task", "mood", "--input", "BAD", "--output", "o"], ["bad.jsonl:2: text"]),
        (["predict", "RUN", "--task", "mood", "--input", "IN", "--output", "RUN"], ["is a folder"]),
        (
            ["predict", "RUN", "--task", "mood", "--input", "IN", "--output", "o", "--data_dir", "d"],
            ["--data_dir: only"],
        ),
        (["export", "RUN", "--task", "rte", "--out", "o"], ["--task: rte: no such task"]),
        (["export", "RUN", "--task", "mood", "--out", "RUN"], ["is not empty"]),
        (["export", "RUN", "--task", "mood", "--out", "IN"], ["is a file"]),
    ],
)
def test_broken_input_ends_well(argv: list[str], says: list[str], run: Path, tmp_path: Path, mtrobust: Callable):
    rows = write_rows(tmp_path / "in.jsonl", text_rows(2, None, pair=False))
    bad = write_rows(tmp_path / "bad.jsonl", [{"text": "fine"}, {"text": 3}])
    places = {"RUN": run, "IN": rows, "BAD": bad}
    before = fingerprint(tmp_path)
    ended = mtrobust(*[places.get(word, word) for word in argv])
    assert ended.code == 2, ended.err
    assert all(text in ended.err for text in says), ended.err
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("model/model.safetensors", "cannot be loaded"),
        ("config.yml", "config.yml"),
        ("task_def.yml", "task_def.yml"),
    ],
)
def test_a_damaged_run_folder_is_named(damage: str, says: str, run: Path, mtrobust: Callable):
    path = next(iter(run.glob(damage)), None) or next(run.glob("model/*.safetensors"))
    path.write_bytes(b"[half")
    ended = mtrobust("evaluate", run, "--use_cpu")
    assert ended.code == 2 and says in ended.err and "Traceback" not in ended.err


def test_embed(run: Path, tmp_path: Path, mtrobust: Callable):
    rows = write_rows(tmp_path / "in.jsonl", text_rows(3, None, pair=False))
    flags = ["--task", "mood", "--input", rows, "--use_cpu"]
    ended = mtrobust("embed", run, *flags, "--output", tmp_path / "out.jsonl", "--layers", "words,1-2")
    assert ended.code == 0 and "3 texts" in ended.out, ended.err
    assert set(read_lines(tmp_path / "out.jsonl")[0]) == {"id", "window", "words", "layer_1", "layer_2"}
    ended = mtrobust("embed", run, *flags, "--output", tmp_path / "out.npz", "--layers", "3-1")
    assert ended.code == 2 and "empty range" in ended.err
    ended = mtrobust("embed", run, "--task", "moods", "--input", tmp_path / "no", "--output", tmp_path / "out.npz")
    assert ended.code == 2 and len(ended.err.strip().split("\n")) == 3, ended.err
