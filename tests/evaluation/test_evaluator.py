"""Metrics and predictions of a model on splits, and that evaluation leaves no trace in training."""

from __future__ import annotations

import json
import logging
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from mtrobust.data.collator import Collator
from mtrobust.errors import RunError, UserError
from mtrobust.evaluation import evaluator as module
from mtrobust.evaluation.evaluator import Evaluator, run_features, splits_of
from mtrobust.tasks import squad_metrics
from tests.evaluation.runs import read_lines, text_rows, write_data, write_rows


@pytest.fixture
def evaluator(run, data_dir, tmp_path):
    def make(**options):
        options = {"data_dir": data_dir, "cache_dir": tmp_path / "cache", "max_len": 64, "batch_size": 4} | options
        return Evaluator(run.model, run.tasks, options.pop("data_dir"), run.tokenizer, **options)

    return make


def test_every_task_type_is_scored(evaluator):
    table = evaluator().evaluate(["mood", "stsb", "squad", "squad2"])
    assert list(table) == ["mood", "stsb", "squad", "squad2"]
    assert set(table["mood"]) == {"acc", "f1_macro"} or {"acc"} < set(table["mood"])
    assert {"pearson", "spearman"} <= set(table["stsb"])
    assert {"em", "f1"} <= set(table["squad"]) and {"em", "f1"} <= set(table["squad2"])
    for metrics in table.values():
        assert all(isinstance(value, float) for value in metrics.values())


def test_the_figures_are_those_of_one_row_at_a_time(run, evaluator, data_dir):
    """Batching, sorting and padding change nothing: the accuracy is recomputed from single unpadded rows."""
    made = evaluator()
    table = made.evaluate(["mood"])
    rows = read_lines(data_dir / "mood/dev.jsonl")
    right = 0
    for row, prediction in zip(rows, made.results["mood", "dev"].predictions, strict=True):
        inputs = run.tokenizer(row["text"], return_tensors="pt")
        with torch.no_grad():
            tape = run.model.encoder.record(dict(inputs))
            logits = run.model.heads["mood"].net(tape.last, tape.pooled, dict(inputs))[0]
        name = ["sad", "calm", "glad"][int(logits.argmax())]
        assert prediction.record["id"] == row["id"] and prediction.record["prediction"] == name
        right += name == row["label"]
    assert table["mood"]["acc"] == pytest.approx(100 * right / len(rows))


def numbers(made, task):
    """One number per row that tells its outputs apart."""
    keys = {"stsb": "prediction", "squad2": "null_score_diff", "squad": "probability"}
    return [p.record[keys[task]] for p in made.results[task, "dev"].predictions]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_changes_nothing(evaluator, batch_size):
    small, large = evaluator(batch_size=5), evaluator(batch_size=batch_size)
    for made in (small, large):
        made.evaluate(["stsb", "squad", "squad2"])
    for task in ("stsb", "squad", "squad2"):
        assert numbers(small, task) == pytest.approx(numbers(large, task), abs=1e-4)


def test_each_process_takes_a_share_of_the_same_batches(evaluator, monkeypatch):
    """Both shares together are bit for bit what one process gives."""
    whole = evaluator()
    whole.evaluate(["stsb", "squad2"])
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(module, "_rank", lambda rank=rank: (rank, 2))
        collected = []
        monkeypatch.setattr(module, "_exchange", lambda done, world, to=collected: to.append(done) or done)
        for task in ("stsb", "squad2"):
            with pytest.raises(KeyError):  # the other share is not there
                evaluator().evaluate([task])
        shares.append(collected)
    for at, task in enumerate(("stsb", "squad2")):
        mine, other = shares[0][at], shares[1][at]
        assert mine and other and not set(mine) & set(other)
        made = evaluator()
        monkeypatch.setattr(module, "_exchange", lambda done, world, a=mine, b=other: a | b)
        made.evaluate([task])
        assert numbers(made, task) == numbers(whole, task)
        assert made.write_predictions("nowhere") == []  # the second process writes nothing


def _one_of_two(made, rank: int, folder: Path) -> None:
    """What each process of the test below does."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    table = made.evaluate(["mood", "squad2"])
    made.write_predictions(folder / f"files{rank}")
    (folder / f"table{rank}").write_text(json.dumps(table))
    torch.distributed.destroy_process_group()


def test_two_processes_agree_with_one(evaluator, tmp_path):
    made = evaluator()
    expected = made.evaluate(["mood", "squad2"])
    context = torch.multiprocessing.get_context("fork")  # no second start of the interpreter and its imports
    processes = [context.Process(target=_one_of_two, args=(made, rank, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    tables = [json.loads((tmp_path / f"table{rank}").read_text()) for rank in (0, 1)]
    assert tables[0] == tables[1] == expected
    assert (tmp_path / "files0").is_dir() and not (tmp_path / "files1").exists()


def test_dev_stands_for_every_dev_split(evaluator):
    table = evaluator().evaluate(["mnli"])["mnli"]
    assert set(table) == {"acc", "mismatched_dev/acc"}
    assert table["acc"] == evaluator().evaluate(["mnli"], "matched_dev")["mnli"]["acc"]
    assert table["mismatched_dev/acc"] == evaluator().evaluate(["mnli"], "mismatched_dev")["mnli"]["acc"]


def test_split_names(run):
    mnli, mood = run.tasks["mnli"], run.tasks["mood"]
    assert splits_of(mnli, "test") == ["matched_test", "mismatched_test"]
    assert splits_of(mnli, "train") == ["train"]
    assert splits_of(mood, "dev") == ["dev"]
    assert splits_of(mood, "shifted") == ["shifted"]


def test_a_split_that_the_definition_does_not_list(evaluator, tmp_path):
    data = write_data(tmp_path / "data")
    write_rows(data / "mood/shifted.jsonl", text_rows(6, ["glad", "calm"], pair=False))
    assert "acc" in evaluator(data_dir=data).evaluate(["mood"], "shifted")["mood"]


def test_unlabelled_rows_give_predictions_and_no_metrics(evaluator, data_dir, tmp_path):
    made = evaluator()
    assert made.evaluate(["mood", "stsb"], "test") == {"mood": {}, "stsb": {}}
    made.write_predictions(tmp_path)
    lines = read_lines(tmp_path / "predictions/mood.test.jsonl")
    assert [line["id"] for line in lines] == [row["id"] for row in read_lines(data_dir / "mood/test.jsonl")]


def test_partly_labelled_rows_are_scored_where_labelled(evaluator, tmp_path):
    data = write_data(tmp_path / "data")
    rows = text_rows(8, ["glad", "sad"], pair=False)
    write_rows(data / "mood/dev.jsonl", rows)
    made = evaluator(data_dir=data)
    made.evaluate(["mood"])
    predicted = [p.record["prediction"] for p in made.results["mood", "dev"].predictions]
    for row in rows[::2]:
        del row["label"]
    write_rows(data / "mood/dev.jsonl", rows)
    right = [row["label"] == name for row, name in zip(rows, predicted, strict=True) if "label" in row]
    assert evaluator(data_dir=data).evaluate(["mood"])["mood"]["acc"] == pytest.approx(100 * np.mean(right))


def test_max_samples_takes_rows_evenly_from_the_whole_split(evaluator, tmp_path, data_dir):
    made = evaluator(max_samples=4)
    made.evaluate(["mood", "squad"])
    for task in ("mood", "squad"):
        ids = [p.record["id"] for p in made.results[task, "dev"].predictions]
        every = [row["id"] for row in read_lines(data_dir / f"{task}/dev.jsonl")]
        assert ids == [every[i * len(every) // 4] for i in range(4)]


def test_training_does_not_notice_an_evaluation(run, evaluator):
    model, head = run.model, run.model.heads["mood"]
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    head.eval()  # frozen on purpose: must not come back in training mode
    try:
        modes = {name: module.training for name, module in model.named_modules()}
        evaluator().evaluate(["mood", "squad"])
        assert {name: module.training for name, module in model.named_modules()} == modes
    finally:
        model.eval()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1] and np.array_equal(np.random.get_state()[1], before[2])
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_mode_comes_back_after_an_error(run):
    run.model.train()
    try:
        with pytest.raises(ZeroDivisionError):
            run_features(run.model, run.tasks["mood"], [{"input_ids": [1]}], lambda batch: 1 / 0, batch_size=1)
        assert all(module.training for module in run.model.modules())
    finally:
        run.model.eval()


def test_an_undefined_metric_is_nan_logged_and_null_in_json(evaluator, tmp_path, caplog):
    data = write_data(tmp_path / "data")
    write_rows(data / "stsb/dev.jsonl", text_rows(4, [2.0], pair=True))
    with caplog.at_level(logging.WARNING):
        table = evaluator(data_dir=data).evaluate(["stsb"])
    assert math.isnan(table["stsb"]["pearson"])
    assert any("stsb: pearson" in r.getMessage() and "null" in r.getMessage() for r in caplog.records)


def test_outputs_that_are_not_numbers_stop_with_the_task(run, evaluator):
    parameter = next(run.model.heads["mood"].parameters())
    kept = parameter.detach().clone()
    try:
        with torch.no_grad():
            parameter.fill_(math.nan)
        with pytest.raises(RunError, match=r"mood\.dev: .*logits.*NaN"):
            evaluator().evaluate(["mood"])
    finally:
        with torch.no_grad():
            parameter.copy_(kept)


def test_all_faults_come_at_once_before_any_pass(evaluator, tmp_path):
    data = write_data(tmp_path / "data")
    (data / "stsb/dev.jsonl").unlink()
    with open(data / "mood/dev.jsonl", "a", encoding="utf-8") as file:
        file.write('{"id": "x", "text": "a", "label": "gld"}\n{"id": "y"}\n')
    made = evaluator(data_dir=data)
    with pytest.raises(UserError) as caught:
        made.evaluate(["mood", "stsb", "moood"])
    text = "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 4
    assert "dev.jsonl:14" in text and "dev.jsonl:15" in text and "did you mean 'mood'?" in text
    assert made.results == {}


def test_written_files(evaluator, tmp_path, data_dir):
    made = evaluator()
    table = made.evaluate(["mood", "squad", "squad2"])
    written = made.write_predictions(tmp_path)
    names = {str(path.relative_to(tmp_path / "predictions")) for path in written}
    official = {f"{t}.dev/{f}" for t in ("squad", "squad2") for f in ("predictions.json", "nbest_predictions.json")}
    assert names == {"mood.dev.jsonl", "squad.dev.jsonl", "squad2.dev.jsonl", "squad2.dev/null_odds.json"} | official
    assert all(path.is_file() for path in written)

    rows = read_lines(data_dir / "squad/dev.jsonl")
    answers = json.loads((tmp_path / "predictions/squad.dev/predictions.json").read_text())
    assert list(answers) == [row["id"] for row in rows]
    exact = [squad_metrics.v1_question(answers[row["id"]], row["answers"]["text"])[0] for row in rows]
    assert table["squad"]["em"] == pytest.approx(100 * np.mean(exact))
    lines = read_lines(tmp_path / "predictions/squad2.dev.jsonl")
    final = json.loads((tmp_path / "predictions/squad2.dev/predictions.json").read_text())
    assert {line["id"]: line["prediction"] for line in lines} == final
    nbest = json.loads((tmp_path / "predictions/squad.dev/nbest_predictions.json").read_text())
    assert set(nbest) == set(answers) and nbest["q0"][0]["text"] == answers["q0"]


def test_bf16_gives_float32_outputs_close_to_those_of_float32(run, evaluator):
    exact, coarse = evaluator(), evaluator(bf16=True)
    exact.evaluate(["stsb"])
    coarse.evaluate(["stsb"])
    pairs = zip(exact.results["stsb", "dev"].predictions, coarse.results["stsb", "dev"].predictions, strict=True)
    values = [(a.record["prediction"], b.record["prediction"]) for a, b in pairs]
    assert any(a != b for a, b in values)
    assert all(b == pytest.approx(a, abs=0.2) for a, b in values)


def test_per_token_outputs_are_cut_to_the_real_length(run, data_dir):
    task = run.tasks["squad"]
    rows = [task.type.parse_row(row) for row in read_lines(data_dir / "squad/dev.jsonl")]
    features = task.type.featurize(rows, run.tokenizer, 48, training=False)
    seen = []
    collate = Collator(task, run.tokenizer.pad_token_id)

    def watched(batch):
        seen.append([len(feature["input_ids"]) for feature in batch])
        return collate(batch)

    outputs = run_features(run.model, task, features, watched, batch_size=3)
    assert [out["start_logits"].shape for out in outputs] == [(len(f["input_ids"]),) for f in features]
    assert outputs[0]["start_logits"].dtype == np.float32
    flat = [length for batch in seen for length in batch]
    assert flat == sorted(flat, reverse=True) and len(flat) == len(features)
    assert run_features(run.model, task, [], collate, batch_size=3) == []


def test_progress_is_told(evaluator):
    told = []
    evaluator(progress=lambda *facts: told.append(facts), batch_size=5).evaluate(["mood"])
    assert told == [("mood dev", 1, 3), ("mood dev", 2, 3), ("mood dev", 3, 3)]
