"""Whole runs of ranking, multiple choice and sequence labelling: bits, accumulation, labels held out, evaluation."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoTokenizer

from mtrobust.data.collator import Collator
from mtrobust.data.features import load_features
from mtrobust.evaluation.embed import embed
from mtrobust.evaluation.evaluator import Evaluator
from mtrobust.evaluation.predict import predict
from mtrobust.evaluation.run_folder import load_run
from mtrobust.tasks.taskdef import load_task_defs
from mtrobust.training.rows import Taken, TrainRows
from mtrobust.training.run import train
from tests.evaluation.runs import WORDS, read_lines, sentence, write_rows
from tests.training.test_distributed import train_command
from tests.training.test_run import state_of
from tests.training.world import losses, settings, write_world

DEFS = """
order:
  task_type: Ranking
  data_format: PremiseAndMultiHypothesis
  metric_meta: [ACC, MRR]
  split_names: [train, dev]
choice:
  task_type: MultipleChoice
  data_format: PremiseAndMultiHypothesis
  split_names: [train, dev]
names:
  task_type: SequenceLabeling
  data_format: Sequence
  labels: [O, B-A, I-A]
  metric_meta: [SeqEval, ACC]
  split_names: [train, dev]
  max_len: 14
"""
TASKS = ["order", "choice", "names"]


def lists(count: int) -> list[dict]:
    """Right is the candidate that begins as the text does; of two to five."""
    rows = []
    for i in range(count):
        candidates = [WORDS[(i + 5 * j) % len(WORDS)] + " " + sentence(i + j, 3) for j in range(2 + i % 4)]
        right = i * 3 % len(candidates)
        text = candidates[right].split(" ")[0]
        rows.append({"id": str(i), "text": text, "candidates": candidates, "label": right})
    return rows


def tagged(count: int) -> list[dict]:
    """Words with an a begin a chunk, the next one may continue it."""
    rows = []
    for i in range(count):
        tokens = sentence(i).rstrip(".").split(" ")
        tags = ["B-A" if "a" in token else "O" for token in tokens]
        tags = ["I-A" if i and (tags[i - 1], tag) == ("B-A", "O") else tag for i, tag in enumerate(tags)]
        rows.append({"id": str(i), "tokens": tokens, "tags": tags})
    return rows


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model_dir):
    folder = write_world(tmp_path_factory.mktemp("world"), tiny_model_dir("bert"))
    (folder / "defs.yml").write_text(DEFS, encoding="utf-8")
    for name, rows in (("order", lists(22)), ("choice", lists(22)), ("names", tagged(22))):
        write_rows(folder / "data" / name / "dev.jsonl", rows[:9])
        for row in rows[::3]:
            row.pop("label", None), row.pop("tags", None)
        write_rows(folder / "data" / name / "train.jsonl", rows)
    return folder


def of(world, run: str, tasks: list[str], method: str | None = None, **values):
    return settings(world, run, method, train_tasks=tasks, **values)


# --- which features make a batch ----------------------------------------------------------------------------------


def rows_of(world, name: str, **taken) -> TrainRows:
    task, tokenizer = load_task_defs([world / "defs.yml"])[name], AutoTokenizer.from_pretrained(world / "model")
    part = load_features(task, "train", world / "data", tokenizer, 64, world / "data" / ".features", training=True)
    return TrainRows([part], Collator(task, tokenizer.pad_token_id), Taken(**taken), together=task.type.together)


def test_a_list_is_one_unit(world):
    rows = rows_of(world, "order")
    assert rows.sizes.tolist() == [2 + i % 4 for i in range(22)] and len(rows.lengths) == 22
    batch = rows(np.array([5, 0, 3]))
    assert batch.targets["place"].tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3, 4]
    assert batch.row_ids.tolist() == [16, 17, 18, 0, 1, *range(9, 14)], "numbers of the candidates in the whole split"
    assert batch.targets["labelled"].tolist() == [True] * 3 + [False] * 7
    lengths = batch.inputs["attention_mask"].sum(1)
    assert rows.lengths[[5, 0, 3]].tolist() == [int(part.max()) for part in lengths.split([3, 2, 5])]


def test_shares_are_of_lists(world):
    rows = rows_of(world, "order", most=7, label_fraction=0.5)
    assert len(rows.lengths) == 7 and (rows.counts.labelled, rows.counts.unlabelled) == (3, 4)
    batch = rows(np.arange(7))
    first = batch.targets["place"] == 0
    assert int(first.sum()) == 7 and int((first & batch.targets["labelled"]).sum()) == 3
    per_list = batch.targets["labelled"].split(rows.sizes.tolist())
    assert all(part.all() or not part.any() for part in per_list), "all candidates of a list or none"


# --- runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [None, "rapt"])
@pytest.mark.parametrize("task", TASKS)
def test_two_times_four_equals_eight(world, task, method):
    common = {"learning_rate": 1e-9, "overwrite_output_dir": True, "num_train_epochs": 2}
    train(of(world, "run-8", [task], method, per_device_train_batch_size=8, **common))
    train(of(world, "run-2x4", [task], method, gradient_accumulation_steps=2, **common))
    large, small = losses(world / "run-8"), losses(world / "run-2x4")
    assert len(large) == len(small) > 3
    for (_, a), (_, b) in zip(large, small, strict=True):
        for name in a.keys() & {"loss", "task", "rapt/reg"}:
            assert b[name] == pytest.approx(a[name], rel=5e-6), name
    norms = [
        [line["grad_norm"] for line in read_lines(world / run / "metrics.jsonl") if "grad_norm" in line]
        for run in ("run-8", "run-2x4")
    ]
    assert norms[1] == pytest.approx(norms[0], rel=2e-5)


@pytest.mark.parametrize("method", ["rapt", "smart"])
def test_interrupted_runs_end_with_the_same_bits(world, method):
    values = {"eval_steps": 5, "save_steps": 4, "logging_steps": 2, "max_tokens_per_batch": 160, "num_train_epochs": 2}
    train(of(world, f"whole-{method}", TASKS, method, **values))

    class Killed(Exception):
        pass

    for point in (("step", 6), ("saving", 12), ("evaluated", 15)):

        def on_event(kind, step, point=point):
            if (kind, step) == point:
                raise Killed

        with pytest.raises(Killed):
            train(of(world, f"broken-{method}", TASKS, method, resume=True, **values), on_event)
    train(of(world, f"broken-{method}", TASKS, method, resume=True, **values))
    whole, broken = state_of(world / f"whole-{method}"), state_of(world / f"broken-{method}")
    assert all(torch.equal(value, broken[0][name]) for name, value in whole[0].items())
    assert whole[1:] == broken[1:]


@pytest.fixture(scope="module")
def finished(world):
    config = of(world, "run-finished", TASKS, num_train_epochs=25, learning_rate=4e-3, logging_steps=20)
    return config, train(config)


def test_it_learns_what_it_is_shown(finished):
    config, results = finished
    assert results["order"].keys() == {"acc", "mrr"} and results["choice"].keys() == {"acc"}
    assert results["names"].keys() == {"f1", "precision", "recall", "acc"}
    assert results["names"]["f1"] > 60, "tags that follow from the words"
    by_task: dict[str, list[float]] = {}
    for task, figures in losses(config.output_dir):
        by_task.setdefault(task, []).append(figures["loss"])
    assert all(found[-1] < 0.6 * found[0] for found in by_task.values())
    assert results["train"]["rows"]["order"] == {"labelled": 14, "unlabelled": 0, "left_out": 8}


def test_evaluation_is_the_same_for_any_batch_size_and_part(finished, tmp_path):
    config, results = finished
    run = load_run(config.output_dir)
    for size in (1, 5, 64):
        made = Evaluator(run.model, run.tasks, config.data_dir, run.tokenizer, max_len=64, batch_size=size).evaluate()
        for task in TASKS:
            assert made[task] == pytest.approx(results[task], rel=1e-4), size
    for task in TASKS:
        records = read_lines(config.output_dir / "predictions" / f"{task}.dev.jsonl")
        given = read_lines(config.data_dir / task / "dev.jsonl")[3:6]
        for row in given:
            row.pop("label", None), row.pop("tags", None)
        part = write_rows(tmp_path / f"{task}.jsonl", given)
        assert predict(run, task, part, tmp_path / "out.jsonl", batch_size=2) == 3
        for found, expected in zip(read_lines(tmp_path / "out.jsonl"), records[3:6], strict=True):
            assert found["prediction"] == expected["prediction"] and "label" not in found
            if "scores" in expected:
                assert found["scores"] == pytest.approx(expected["scores"], rel=1e-3, abs=1e-5)


def test_a_candidate_is_a_window_of_embed(finished, tmp_path):
    run = load_run(finished[0].output_dir)
    part = write_rows(tmp_path / "part.jsonl", lists(3))
    assert embed(run, "order", part, tmp_path / "out.jsonl") == 2 + 3 + 4
    assert [line["window"] for line in read_lines(tmp_path / "out.jsonl")] == [0, 1, 0, 1, 2, 0, 1, 2, 3]


def test_words_that_are_cut_are_said(world, caplog):
    with caplog.at_level(logging.WARNING):
        rows_of(world, "names")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("names.train: ") and "are beyond max_len" in line and "predicted as O" in line


def test_an_evaluation_set_with_its_own_tags(finished, tmp_path):
    from mtrobust.evaluation.eval_sets import SetEvaluator
    from mtrobust.tasks.taskdef import EvalSet

    run = load_run(finished[0].output_dir)
    rows = [row | {"tags": [tag.replace("A", "X") for tag in row["tags"]]} for row in tagged(9)]
    write_rows(tmp_path / "other" / "dev.jsonl", rows)
    write_rows(tmp_path / "names" / "dev.jsonl", tagged(9))
    other = EvalSet(labels=["O", "B-X", "I-X"], map={"B-A": "B-X", "I-A": "I-X"})
    tasks = {"names": run.tasks["names"].model_copy(update={"eval_sets": {"other": other}})}
    made = Evaluator(run.model, tasks, tmp_path, run.tokenizer, max_len=64)
    table = SetEvaluator(made, [("names", "other")]).evaluate_all(["names"])["names"]
    assert table["other/f1"] == table["f1"] > 0


def test_the_results_are_kept(finished):
    found = json.loads((finished[0].output_dir / "all_results.json").read_text(encoding="utf-8"))
    assert {"order", "choice", "names", "train"} == set(found)
    text = (finished[0].output_dir / "task_def.yml").read_text(encoding="utf-8")
    assert set(yaml.safe_load(text)) == set(TASKS) and "ranking_loss" not in text


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(world):
    for run, processes, size in (("alone", 1, 4), ("both", 2, 2)):
        config = of(world, run, TASKS, per_device_train_batch_size=size, num_train_epochs=2)
        (world / f"{run}.yml").write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
        train_command(world / f"{run}.yml", processes)
    alone, both = losses(world / "alone"), losses(world / "both")
    assert [task for task, _ in alone] == [task for task, _ in both] and len(alone) > 20
    for (_, one), (_, two) in zip(alone, both, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-5, rel=1e-5)
