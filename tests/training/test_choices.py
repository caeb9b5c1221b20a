"""Layers drawn by methods are counted, not averaged: in metrics.jsonl and as TensorBoard histograms."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from mtrobust.config import PerturbSpec
from mtrobust.perturb.passes import Choice
from mtrobust.training.run import train
from tests.training.fake import drawn, trainer
from tests.training.world import settings, write_world


class Killed(Exception):
    """Stands for the end of the process."""


def lines(run):
    text = (run / "metrics.jsonl").read_text(encoding="utf-8").strip()
    return [line for line in map(json.loads, text.split("\n")) if "train" in line]


def histograms(run, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"histograms": 0})
    board.Reload()
    assert tag not in board.Tags()["scalars"]
    return {event.step: event.histogram_value for event in board.Histograms(tag)}


def bars(histogram):
    """{number: count} of bars of width 1 around whole numbers."""
    return {round(limit - 0.5): count for limit, count in zip(histogram.bucket_limit, histogram.bucket, strict=True)}


def test_counts_of_each_window_on_the_board_and_in_the_lines(tmp_path):
    made = trainer(tmp_path, logging_steps=5, num_train_epochs=3)
    made.train()
    written = lines(tmp_path)
    for task in ("a", "b"):
        board = histograms(tmp_path, f"train/{task}/fake/site")
        seen = {line["step"]: line["train"][task]["fake/site"] for line in written if task in line["train"]}
        assert board.keys() == seen.keys() and len(seen) > 4
        for step, counts in seen.items():
            steps = [n for n in range(step - 1 - (step - 1) % 5, step) if made.sampler.at(n).task == task]
            expected = Counter(int(drawn(n)) for n in steps)
            assert counts == {str(value): expected[value] for value in sorted(expected)}
            assert list(counts) == sorted(counts, key=int)
            found = board[step]
            assert {value: count for value, count in bars(found).items() if count} == expected
            values = list(expected.elements())
            assert (found.num, found.sum) == (len(values), sum(values))
            assert found.sum_squares == sum(value**2 for value in values)
            assert (found.min, found.max) == (min(values) - 0.5, max(values) + 0.5)


@pytest.mark.parametrize(("kind", "step"), [("step", 7), ("saving", 6), ("saved", 9)])
def test_an_open_window_survives_an_interruption(tmp_path, kind, step):
    values = {"logging_steps": 10, "save_steps": 3, "num_train_epochs": 2}
    trainer(tmp_path / "whole", **values).train()

    def on_event(happened, at):
        if (happened, at) == (kind, step):
            raise Killed

    with pytest.raises(Killed):
        trainer(tmp_path / "broken", on_event, **values).train()
    trainer(tmp_path / "broken", resume=True, **values).train()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert (whole / "metrics.jsonl").read_bytes() == (broken / "metrics.jsonl").read_bytes()
    one, two = histograms(whole, "train/a/fake/site"), histograms(broken, "train/a/fake/site")
    assert one == two and sum(sum(line["train"]["a"]["fake/site"].values()) for line in lines(broken)) > 10


def test_micro_batches_count_a_step_once(tmp_path):
    made = trainer(tmp_path, logging_steps=1, gradient_accumulation_steps=4, per_device_train_batch_size=2)
    made.train()
    counts = [line["train"][task]["fake/site"] for line in lines(tmp_path) for task in line["train"]]
    assert len(counts) == made.total and all(sum(found.values()) == 1 for found in counts)


def test_rapt_draws_its_layers_evenly(tmp_path, tiny_model_dir):
    world = write_world(tmp_path, tiny_model_dir("bert"))
    rapt = [PerturbSpec(name="rapt", options={"layers": "1-3"})]
    values = {"train_tasks": ["mood"], "eval_steps": 1000, "save_steps": 1000, "logging_steps": 30}
    train(settings(world, perturb=rapt, max_steps=240, per_device_train_batch_size=2, **values))
    total: Counter[int] = Counter()
    for histogram in histograms(world / "run", "train/mood/rapt/site").values():
        assert histogram.num == 30
        total.update(bars(histogram))
    assert total.keys() == {1, 2, 3} and total.total() == 240
    assert sum((count - 80) ** 2 / 80 for count in total.values()) < 13.8  # chi-squared, 2 degrees of freedom, p 0.001
    from_lines: Counter[int] = Counter()
    for line in lines(world / "run"):
        from_lines.update({int(layer): n for layer, n in line["train"]["mood"]["rapt/site"].items()})
    assert from_lines == total


def test_words_stand_at_minus_one_and_each_logs_nothing(tmp_path, tiny_model_dir):
    world = write_world(tmp_path, tiny_model_dir("bert"))
    values = {"train_tasks": ["mood"], "max_steps": 2}
    train(settings(world, "run-words", perturb=[PerturbSpec(name="rpt", options={"layers": "words"})], **values))
    assert [line["train"]["mood"]["rpt/site"] for line in lines(world / "run-words")] == [{"-1": 1}] * 2
    each = PerturbSpec(name="rapt", options={"layers": "1-3", "pick": "each"})
    train(settings(world, "run-each", perturb=[each], **values))
    assert all("rapt/site" not in line["train"]["mood"] for line in lines(world / "run-each"))


def test_a_choice_is_a_number():
    assert Choice(3) == 3 and str(Choice(-1)) == "-1" and json.dumps({"site": Choice(2)}) == '{"site": 2}'
