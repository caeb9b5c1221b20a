"""Which rows a run takes: shares that are nested and exact, labels held out, rows without a label."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from mtrobust.config import PerturbSpec
from mtrobust.data.collator import Collator
from mtrobust.data.features import load_features
from mtrobust.errors import UserError
from mtrobust.perturb import METHODS
from mtrobust.tasks.taskdef import load_task_defs
from mtrobust.training.rows import Taken, TrainRows, choose, share
from mtrobust.training.run import train
from tests.evaluation.runs import read_lines, span_rows, write_rows
from tests.perturb.cells import batch_of, step_of
from tests.training.test_run import state_of
from tests.training.world import SIZES, losses, settings, write_world

HALF = {"mood": (9, 17), "stsb": (7, 11), "squad": (4, 3)}  # labelled, unlabelled rows at label_fraction 0.5


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model_dir):
    return write_world(tmp_path_factory.mktemp("world"), tiny_model_dir("bert"))


@pytest.fixture
def copy(world, tmp_path):
    return Path(shutil.copytree(world, tmp_path / "copy", ignore=shutil.ignore_patterns("run*")))


def rows_of(world, name, **taken):
    task, tokenizer = load_task_defs([world / "defs.yml"])[name], AutoTokenizer.from_pretrained(world / "model")
    part = load_features(task, "train", world / "data", tokenizer, 64, world / "data" / ".features", training=True)
    return part, TrainRows([part], Collator(task, tokenizer.pad_token_id), Taken(**taken))


def chosen(rows, seed=1, task="mood", without=(), **taken):
    has_label = np.ones(rows, dtype=bool)
    has_label[list(without)] = False
    stays, learns = choose(task, has_label, Taken(seed, **taken))
    return set(np.flatnonzero(stays)), set(np.flatnonzero(learns))


# --- the choice ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.25, 0.3, 0.5, 0.75, 0.999, 1.0])
@pytest.mark.parametrize("rows", [1, 2, 7, 100, 1001])
def test_shares_are_exact_and_nested(rows, fraction):
    size = max(1, round(rows * fraction + 1e-9))
    stays, _ = chosen(rows, data_fraction=fraction)
    every, learns = chosen(rows, label_fraction=fraction)
    assert len(stays) == len(learns) == share(rows, fraction) == size and len(every) == rows
    for smaller in (fraction / 2, fraction / 3):
        assert chosen(rows, data_fraction=smaller)[0] <= stays
        assert chosen(rows, label_fraction=smaller)[1] <= learns


def test_the_draw_follows_from_seed_and_task():
    for key in ("data_fraction", "label_fraction"):
        first = chosen(200, **{key: 0.5})
        assert chosen(200, **{key: 0.5}) == first
        assert chosen(200, seed=2, **{key: 0.5}) != first
        assert chosen(200, task="stsb", **{key: 0.5}) != first
    assert chosen(200, data_fraction=0.5)[0] != chosen(200, label_fraction=0.5)[1]


def test_labels_are_held_out_among_labelled_rows():
    stays, learns = chosen(100, without=range(0, 100, 4), label_fraction=0.2)
    assert len(stays) == 100 and len(learns) == 15 and not learns & set(range(0, 100, 4))


def test_the_fraction_comes_before_the_limit():
    half, _ = chosen(100, data_fraction=0.5)
    limited, _ = chosen(100, data_fraction=0.5, most=20)
    assert len(limited) == 20 and limited <= half and limited == chosen(100, most=20)[0]
    assert chosen(100, data_fraction=0.1, most=20) == chosen(100, data_fraction=0.1)
    stays, learns = chosen(100, data_fraction=0.5, most=20, label_fraction=0.25)
    assert len(stays) == 20 and len(learns) == 5 and learns <= stays


def test_windows_of_a_row_go_together(world):
    part, rows = rows_of(world, "squad", data_fraction=0.6, label_fraction=0.5)
    windows = np.bincount(part.rows)
    assert windows.max() > 1
    kept = part.rows[rows.row_ids]
    assert all(np.count_nonzero(kept == row) == windows[row] for row in set(kept)) and len(set(kept)) == 4
    learning = set(kept[rows.labelled])
    assert len(learning) == 2 and set(kept[~rows.labelled]).isdisjoint(learning)
    assert dataclasses.astuple(rows.counts) == (2, 2, 0)


def test_batches_carry_what_was_held_out(world):
    part, whole = rows_of(world, "mood")
    _, rows = rows_of(world, "mood", label_fraction=0.5)
    positions = np.array([5, 0, 13, 25])
    batch, expected = rows(positions), whole(positions)
    assert batch.targets["labelled"].tolist() == rows.labelled[positions].tolist()
    assert torch.equal(batch.inputs["input_ids"], expected.inputs["input_ids"])
    assert batch.row_ids.tolist() == expected.row_ids.tolist() == positions.tolist()
    assert rows.labelled.sum() == HALF["mood"][0] < whole.labelled.sum() == 17
    _, without = rows_of(world, "mood", label_fraction=0.5, unlabelled=False)
    assert without.labelled.all() and without.row_ids.tolist() == np.flatnonzero(rows.labelled).tolist()
    assert dataclasses.astuple(without.counts) == (9, 0, 17)
    assert without.lengths.tolist() == part.lengths[without.row_ids].tolist()


def test_several_splits_are_one_pool(world):
    task, tokenizer = load_task_defs([world / "defs.yml"])["mood"], AutoTokenizer.from_pretrained(world / "model")
    load = lambda split: load_features(task, split, world / "data", tokenizer, 64, world / "f", training=True)  # noqa: E731
    parts, collate = [load("train"), load("dev")], Collator(task, tokenizer.pad_token_id)
    whole, some = TrainRows(parts, collate), TrainRows(parts, collate, Taken(most=20))
    assert len(whole.lengths) == 35 and len(some.lengths) == 20 and some.row_ids.max() > 26
    for position, number in enumerate(some.row_ids):
        one, same = some(np.array([position])), whole(np.array([number]))
        assert torch.equal(one.inputs["input_ids"], same.inputs["input_ids"]) and torch.equal(one.row_ids, same.row_ids)


# --- gradients ----------------------------------------------------------------------------------------------------


def gradient(specs, task_type, labelled):
    step = step_of("bert", task_type, specs)
    out = step(batch_of("bert", task_type, labelled=labelled))
    out.loss.backward()
    grads = [p.grad for p in step.parameters() if p.grad is not None]
    return out, sum(float(grad.abs().sum()) for grad in grads)


@pytest.mark.parametrize("task_type", ["Classification", "Regression", "SpanClassification"])
def test_rows_without_label_give_the_regulariser_and_nothing_else(task_type):
    nothing = [False] * 4
    out, size = gradient([], task_type, nothing)
    assert out.loss.item() == 0 and size == 0
    out, size = gradient([PerturbSpec(name="rpt", options={"c": 1.0})], task_type, nothing)
    assert out.terms["task"].item() == 0 and out.loss.item() > 0 and size > 0


# --- whole runs ---------------------------------------------------------------------------------------------------


def test_standard_on_half_the_labels_is_training_on_these_rows_alone(copy):
    config = settings(copy, "run-half", label_fraction=0.5)
    results = train(config)
    for name, (labelled, unlabelled) in HALF.items():
        _, rows = rows_of(copy, name, seed=config.seed, label_fraction=0.5)
        part = rows.parts[0]
        learning = sorted({int(part.rows[i]) for i in rows.row_ids[rows.labelled]})
        assert len(learning) == labelled
        assert results["train"]["rows"][name] == {"labelled": labelled, "unlabelled": 0, "left_out": unlabelled}
        path = copy / "data" / name / "train.jsonl"
        lines = read_lines(path)
        write_rows(path, [lines[i] for i in learning])
    train(settings(copy, "run-alone"))
    half, alone = state_of(copy / "run-half"), state_of(copy / "run-alone")
    assert half[0].keys() == alone[0].keys()
    assert all(torch.equal(value, alone[0][name]) for name, value in half[0].items())
    assert half[1] == alone[1]


def test_labels_that_are_held_out_are_not_seen_but_their_rows_are(copy):
    results = train(settings(copy, "run-one", "rapt", label_fraction=0.5))
    assert results["train"]["rows"] == {
        name: {"labelled": have, "unlabelled": without, "left_out": 0} for name, (have, without) in HALF.items()
    }
    features = sum(len(rows_of(copy, name)[0]) for name in SIZES)
    assert results["train"]["examples"] == features > sum(SIZES.values())
    _, rows = rows_of(copy, "mood", seed=42, label_fraction=0.5)
    path = copy / "data" / "mood" / "train.jsonl"
    lines, held_out = read_lines(path), np.flatnonzero(~rows.labelled)
    for i in held_out:  # other labels, where there were any
        if "label" in lines[i]:
            lines[i]["label"] = "glad" if lines[i]["label"] == "sad" else "sad"
    write_rows(path, lines)
    train(settings(copy, "run-two", "rapt", label_fraction=0.5))
    one, two = state_of(copy / "run-one"), state_of(copy / "run-two")
    assert one[1] == two[1] and all(torch.equal(value, two[0][name]) for name, value in one[0].items())
    lines[held_out[0]]["text"] = "another text altogether"
    write_rows(path, lines)
    train(settings(copy, "run-three", "rapt", label_fraction=0.5))
    assert state_of(copy / "run-three")[1] != one[1]


def test_resuming_with_held_out_labels(copy):
    values = {"eval_steps": 4, "save_steps": 3, "logging_steps": 2, "label_fraction": 0.4, "data_fraction": 0.8}
    train(settings(copy, "whole", "rapt", **values))

    class Killed(Exception):
        pass

    for point in (("step", 5), ("saving", 6), ("evaluated", 8)):

        def on_event(kind, step, point=point):
            if (kind, step) == point:
                raise Killed

        with pytest.raises(Killed):
            train(settings(copy, "broken", "rapt", resume=True, **values), on_event)
    with pytest.raises(UserError, match="label_fraction: 0.5: the run in .* has 0.4"):
        train(settings(copy, "broken", "rapt", resume=True, **(values | {"label_fraction": 0.5})))
    train(settings(copy, "broken", "rapt", resume=True, **values))
    whole, broken = state_of(copy / "whole"), state_of(copy / "broken")
    assert all(torch.equal(value, broken[0][name]) for name, value in whole[0].items())
    assert whole[1:] == broken[1:]


@pytest.mark.parametrize("method", ["rapt", "smart"])
def test_four_times_four_equals_sixteen_with_few_labels(world, method):
    """One labelled row a task: there are steps without any."""
    common = {"learning_rate": 1e-9, "num_train_epochs": 2, "overwrite_output_dir": True, "label_fraction": 0.01}
    train(settings(world, "run-16", method, per_device_train_batch_size=16, **common))
    train(settings(world, "run-4x4", method, gradient_accumulation_steps=4, **common))
    large, small = losses(world / "run-16"), losses(world / "run-4x4")
    assert [task for task, _ in large] == [task for task, _ in small]
    assert any(figures["task"] == 0 and figures["loss"] > 0 for _, figures in large)
    for (_, a), (_, b) in zip(large, small, strict=True):
        for name in ("loss", "task", f"{method}/reg"):
            assert b[name] == pytest.approx(a[name], rel=2e-6, abs=1e-6), name


def test_another_fraction_reads_the_same_features(copy):
    files = lambda: {path: path.stat().st_mtime_ns for path in (copy / "data" / ".features").iterdir()}  # noqa: E731
    train(settings(copy, "run-1", max_steps=1))
    before = files()
    train(settings(copy, "run-2", "rapt", max_steps=1, label_fraction=0.5, data_fraction=0.5, seed=5))
    assert files() == before


@pytest.mark.parametrize(
    ("perturb", "says"),
    [
        ([], "standard learns"),
        ([PerturbSpec(name="rapt", options={"alpha": 0})], "rapt at weight 0 learns"),
    ],
    ids=["standard", "without weight"],
)
def test_the_start_says_what_is_left_out_and_why(world, caplog, perturb, says):
    caplog.set_level(logging.INFO, "mtrobust")
    train(settings(world, "run-log", perturb=perturb, max_steps=1, overwrite_output_dir=True, train_tasks=["mood"]))
    (line,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    users = ", ".join(name for name in METHODS if METHODS[name].uses_unlabelled)
    assert line == f"task mood: 9 rows without label are left out: {says} from labels only; {users} use them"
    assert "rapt" in users and "standard" not in users


def test_a_task_of_its_own_method_decides_for_itself(copy):
    text = (copy / "defs.yml").read_text(encoding="utf-8")
    (copy / "defs.yml").write_text(text.replace("mood:\n", "mood:\n  perturb: rpt\n"), encoding="utf-8")
    found = train(settings(copy, max_steps=1))["train"]["rows"]
    assert found["mood"] == {"labelled": 17, "unlabelled": 9, "left_out": 0}
    assert found["stsb"] == {"labelled": 13, "unlabelled": 0, "left_out": 5}


@pytest.mark.parametrize("method", ["standard", "rapt"])
def test_tasks_without_any_label_are_refused_by_name(copy, method):
    for name in ("mood", "squad"):
        path = copy / "data" / name / "train.jsonl"
        write_rows(path, [{k: v for k, v in row.items() if k not in ("label", "answers")} for row in read_lines(path)])
    with pytest.raises(UserError) as caught:
        train(settings(copy, method=method))
    assert caught.value.faults == [
        f"{name}: none of its {SIZES[name]} training rows has a label; one is needed" for name in ("mood", "squad")
    ]
    assert not (copy / "run").exists()


def test_texts_that_are_their_own_labels_keep_them(copy):
    lm = "\nlm:\n  task_type: MaskLM\n  data_format: MLM\n  metric_meta: [MaskAcc]\n"
    (copy / "defs.yml").write_text((copy / "defs.yml").read_text(encoding="utf-8") + lm, encoding="utf-8")
    texts = [{"text": row["context"]} for row in span_rows(8)]
    for split in ("train", "dev"):
        write_rows(copy / "data" / "lm" / f"{split}.jsonl", texts)
    results = train(settings(copy, max_steps=1, train_tasks=["lm", "mood"], label_fraction=0.25, data_fraction=0.5))
    assert results["train"]["rows"]["lm"] == {"labelled": 4, "unlabelled": 0, "left_out": 0}


def test_fractions_stand_in_the_run_s_configuration(world):
    train(settings(world, "run-config", "rapt", max_steps=1, label_fraction=0.25, overwrite_output_dir=True))
    text = (world / "run-config" / "config.yml").read_text(encoding="utf-8")
    assert "label_fraction: 0.25" in text and "data_fraction: 1.0" in text
    results = json.loads((world / "run-config" / "all_results.json").read_text(encoding="utf-8"))
    assert results["train"]["rows"]["mood"]["labelled"] == 4
