"""Evaluation sets: labels carried over, groups and worst variants against a recount, figures in a run, bad input."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from mtrobust.cli import main
from mtrobust.evaluation.run_folder import update_results
from mtrobust.tasks import squad_metrics
from mtrobust.tasks.taskdef import load_task_defs
from tests.evaluation.runs import TASK_DEF, copy_run, span_rows, text_rows

SETS = {
    "mnli": {
        "hans": {
            "labels": ["non-entailment", "entailment"],
            "map": {"contradiction": "non-entailment", "neutral": "non-entailment"},
            "group_by": ["heuristic", "label"],
            "metric_meta": ["ACC", "AUC"],
        }
    },
    "stsb": {"other": {"data": "sts/other", "split": "test"}},
    "squad": {"variants": {"worst_of": "question_group"}, "absent": {}},
    "squad2": {"elsewhere": {"group_by": ["part"]}},
}


@pytest.fixture(scope="module")
def task_def(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tasks = yaml.safe_load(TASK_DEF)
    for name, sets in SETS.items():
        tasks[name]["eval_sets"] = sets
    path = tmp_path_factory.mktemp("sets") / "tasks.yml"
    path.write_text(yaml.safe_dump(tasks, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def sets_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    hans = text_rows(30, ["non-entailment", "entailment"], pair=True)
    for i, row in enumerate(hans):
        row |= {"heuristic": ["overlap", "subsequence"][i % 3 == 0], "label": ["non-entailment", "entailment"][i % 2]}
    spans = span_rows(12)
    for i, row in enumerate(spans):
        row["question_group"] = f"q{i // 3}"
    elsewhere = [row | {"part": "ab"[i % 2]} for i, row in enumerate(span_rows(12))]
    files = {"elsewhere/dev": elsewhere, "hans/dev": hans, "variants/dev": spans}
    files["sts/other/test"] = text_rows(9, [0.5, 2.0, 4.5], pair=True)
    for name, rows in files.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def evaluate(run_dir: Path, *flags: object) -> int:
    return main(["evaluate", str(run_dir), "--use_cpu", *map(str, flags)])


def test_groups_map_and_variants_equal_a_recount(run_dir: Path, task_def: Path, sets_dir: Path, tmp_path: Path, capsys):
    flags = ["--task_def", task_def, "--data_dir", sets_dir, "--out", tmp_path]
    assert evaluate(run_dir, "--eval_sets", "hans,other,variants", *flags) == 0
    assert "hans/overlap/entailment/acc" in capsys.readouterr().out
    results = json.loads((tmp_path / "all_results.json").read_text())
    rows = {row["id"]: row for row in records(sets_dir / "hans" / "dev.jsonl")}
    right, groups = [], defaultdict(list)
    for line in records(tmp_path / "predictions" / "mnli.hans.jsonl"):
        row, shares = rows[line["id"]], line["probabilities"]
        best = max(shares, key=shares.get)
        assert line["predicted_label"] == best and line["label"] == row["label"]
        assert line["prediction"] == ("entailment" if best == "entailment" else "non-entailment")
        right.append(line["prediction"] == row["label"])
        groups[row["heuristic"], row["label"]].append(right[-1])
    assert results["mnli"]["hans/acc"] == pytest.approx(100 * sum(right) / 30)
    assert len(groups) == 4
    for (heuristic, label), found in groups.items():
        expected = 100 * sum(found) / len(found)
        assert results["mnli"][f"hans/{heuristic}/{label}/acc"] == pytest.approx(expected)
    assert "other/pearson" in results["stsb"] and "acc" not in results["mnli"], "the sets alone"
    golds = {row["id"]: row for row in records(sets_dir / "variants" / "dev.jsonl")}
    exact = defaultdict(list)
    for line in records(tmp_path / "predictions" / "squad.variants.jsonl"):
        strip = lambda text: " ".join(word for word in text.lower().replace(".", "").split() if word != "the")  # noqa: E731
        gold = golds[line["id"]]
        exact[gold["question_group"]].append(strip(line["prediction"]) in map(strip, gold["answers"]["text"]))
    assert results["squad"]["variants/worst/em"] == pytest.approx(100 * sum(map(all, exact.values())) / len(exact))
    assert results["squad"]["variants/worst/f1"] <= results["squad"]["variants/f1"]


@pytest.mark.parametrize("threshold", [-1000.0, 0.5, 1000.0])
def test_a_set_is_scored_with_the_threshold_of_the_task(
    run_dir: Path, task_def: Path, sets_dir: Path, tmp_path: Path, threshold: float
):
    copy = copy_run(run_dir, tmp_path / "run")
    update_results(copy, {"squad2": {"best_f1_thresh": threshold}})
    flags = ["--task_def", task_def, "--data_dir", sets_dir, "--out", tmp_path / "out"]
    assert evaluate(copy, "--eval_sets", "elsewhere", *flags) == 0
    figures = json.loads((tmp_path / "out" / "all_results.json").read_text())["squad2"]
    golds = {row["id"]: row for row in records(sets_dir / "elsewhere" / "dev.jsonl")}
    lines = records(tmp_path / "out" / "predictions" / "squad2.elsewhere.jsonl")
    for line in lines:
        assert line["prediction"] == ("" if line["null_score_diff"] > threshold else line["best_answer"])
    every = [squad_metrics.v2_question(line["prediction"], golds[line["id"]]["answers"]["text"])[1] for line in lines]
    assert figures["elsewhere/f1"] == pytest.approx(100 * sum(every) / len(every))
    part = [value for value, line in zip(every, lines, strict=True) if golds[line["id"]]["part"] == "a"]
    assert figures["elsewhere/a/f1"] == pytest.approx(100 * sum(part) / len(part))
    assert figures["elsewhere/best_f1"] >= figures["elsewhere/f1"]
    if threshold == -1000.0:
        assert figures["elsewhere/f1"] == 0.0 and len(lines) == 12, "every question has an answer"


def test_auc_reads_the_probability_of_all_labels_that_stand_for_the_second(task_def: Path):
    from mtrobust.tasks.base import Prediction
    from mtrobust.tasks.eval_sets import task_of_set

    target = task_of_set(load_task_defs([task_def])["mnli"], "hans")
    record = {
        "id": "0",
        "prediction": "neutral",
        "probabilities": {"contradiction": 0.2, "neutral": 0.5, "entailment": 0.3},
    }
    names = {"contradiction": "entailment", "neutral": "non-entailment", "entailment": "entailment"}
    made = target.type.carried(Prediction(record, None), {"label": 1}, names)
    assert made.value == {"class": 0, "score": 0.5} and made.record["label"] == "entailment"


def test_sets_are_told_apart_from_what_is_missing(run_dir: Path, task_def: Path, sets_dir: Path, tmp_path, capsys):
    flags = ["--task_def", task_def, "--data_dir", sets_dir, "--out", tmp_path]
    assert evaluate(run_dir, "--eval_sets", "hans,hanss", *flags) == 2
    assert "eval_sets: hanss: no such set; did you mean 'hans'?" in capsys.readouterr().err
    assert evaluate(run_dir, "--eval_sets", "absent", *flags) == 2
    assert "no folder 'absent'" in capsys.readouterr().err
    assert evaluate(run_dir, "--task_def", task_def) == 2
    assert "--task_def: without effect without --eval_sets" in capsys.readouterr().err
    broken = tmp_path / "broken" / "hans"
    broken.mkdir(parents=True)
    (broken / "dev.jsonl").write_text('{"id": "7", "text": "a", "text_pair": "b", "label": "entailment"}\n')
    assert evaluate(run_dir, "--eval_sets", "hans", "--task_def", task_def, "--data_dir", broken.parent) == 2
    assert "mnli.eval_sets.hans.group_by: row 7 has no column 'heuristic'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dev": {}}, "t.eval_sets.dev.'dev' is a split of the task too"),
        ({"x": {"metric_meta": ["Pearson"]}}, "t.eval_sets.x.metric_meta: Pearson: Classification has ACC"),
        ({"x": {"worst_of": "g", "metric_meta": ["F1"]}}, "t.eval_sets.x.worst_of: F1 has no value for a single row"),
        ({"x": {"labels": ["a", "b", "c"], "metric_meta": ["F1"]}}, "t.eval_sets.x.metric_meta: F1: only for two"),
    ],
)
def test_definitions_that_make_no_sense(settings, message, tmp_path: Path, capsys):
    task = {"task_type": "Classification", "data_format": "PremiseOnly", "labels": ["a", "b"], "eval_sets": settings}
    (tmp_path / "t.yml").write_text(yaml.safe_dump({"t": task}))
    assert main(["check", "--task_def", str(tmp_path / "t.yml")]) == 2
    assert message in capsys.readouterr().err


def test_a_training_run_evaluates_the_sets_that_have_rows(tiny_model_dir, data_dir: Path, task_def, sets_dir, tmp_path):
    rows = tmp_path / "data"
    rows.mkdir()
    for folder in sets_dir.iterdir():
        if not folder.name.startswith("."):
            (rows / folder.name).symlink_to(folder)
    for name, dev in (("mnli", "matched_dev"), ("squad", "dev")):
        shutil.copytree(data_dir / name, rows / name)
        shutil.copyfile(rows / name / f"{dev}.jsonl", rows / name / "train.jsonl")
    flags = [
        "--task_def", task_def, "--data_dir", rows, "--train_tasks", "mnli,squad", "--model_name_or_path",
        tiny_model_dir("bert"), "--max_steps", 4, "--eval_steps", 2, "--use_cpu", "--progress", "off",
        "--metric_for_best_model", "mnli.hans/acc",
    ]  # fmt: skip
    assert main(["train", *map(str, flags), "--output_dir", str(tmp_path / "run")]) == 0
    lines = records(tmp_path / "run" / "metrics.jsonl")
    seen = [line for line in lines if "hans/acc" in str(line)]
    assert len(seen) >= 2, "at every evaluation"
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert "variants/worst/f1" in results["squad"] and "hans/subsequence/entailment/acc" in results["mnli"]
    assert results["train"]["metric_for_best_model"] == "mnli.hans/acc"
    assert main(["train", *map(str, flags), "--output_dir", str(tmp_path / "no"), "--eval_sets", "absent"]) == 2
    assert main(["train", *map(str, flags[:-2]), "--output_dir", str(tmp_path / "none"), "--eval_sets", "skip"]) == 0
    assert not any("/" in key for key in json.loads((tmp_path / "none" / "all_results.json").read_text())["squad"])


def test_a_part_of_the_rows_is_the_same_part_afterwards(tiny_model_dir, data_dir: Path, task_def, sets_dir, tmp_path):
    """Of dev splits and of sets, one of which has rows in a file that is called `test`."""
    rows, run = tmp_path / "data", tmp_path / "run"
    for folder, name, dev in ((data_dir, "mnli", "matched_dev"), (data_dir, "stsb", "dev"), (sets_dir, "sts", "")):
        shutil.copytree(folder / name, rows / name)
        if dev:
            shutil.copyfile(rows / name / f"{dev}.jsonl", rows / name / "train.jsonl")
    flags = [
        "--task_def", task_def, "--data_dir", rows, "--train_tasks", "mnli,stsb", "--model_name_or_path",
        tiny_model_dir("bert"), "--max_steps", 2, "--max_eval_samples", 3, "--use_cpu", "--progress", "off",
    ]  # fmt: skip
    assert main(["train", *map(str, flags), "--output_dir", str(run)]) == 0
    figures, names = json.loads((run / "all_results.json").read_text()), ["mnli.mismatched_dev", "stsb.other"]
    lines = [records(run / "predictions" / f"{name}.jsonl") for name in names]
    assert [len(part) for part in lines] == [3, 3] and "other/pearson" in figures["stsb"]
    assert evaluate(run, "--split", "dev", "--eval_sets", "other") == 0
    assert json.loads((run / "all_results.json").read_text()) == figures
    assert [records(run / "predictions" / f"{name}.jsonl") for name in names] == lines
