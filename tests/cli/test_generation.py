"""Generative question answering by the commands: rows of SQuAD to answers and a plain T5 folder, and bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.t5 import question_rows, write_rows, write_t5

FLAGS = ["--max_steps", 4, "--per_device_train_batch_size", 4, "--optim", "adafactor", "--progress", "off", "--use_cpu"]
COMMON = ["--task_def", "generation", "--data_dir", "data", "--train_tasks", "squad_gen", "--output_dir", "run"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SQuAD file of generated questions, a set to evaluate on, a tiny T5; the current folder."""
    paragraphs = [
        {"context": row["context"], "qas": [{
            "id": row["id"], "question": row["question"],
            "answers": [{"text": row["answers"]["text"][0], "answer_start": row["answers"]["answer_start"][0]}],
        }]}
        for row in question_rows(10, 1)
    ]  # fmt: skip
    document = {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}
    for name in ("train", "dev"):
        (tmp_path / f"{name}-v1.1.json").write_text(json.dumps(document), encoding="utf-8")
    rows = [{**row, "question_group": str(i // 2)} for i, row in enumerate(question_rows(6, 3))]
    write_rows(tmp_path / "data" / "addonesent" / "dev.jsonl", rows)
    write_t5(tmp_path / "t5", dropout=0.1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_prep_check_train_evaluate_predict_export(folder: Path, mtrobust: Callable):
    assert mtrobust("prep", "squad", "--raw", ".", "--out", "data").code == 0
    checked = mtrobust("check", "--task_def", "generation", "--data_dir", "data")
    assert checked.code == 0 and "squad_gen  SequenceGeneration  train  10    10" in checked.out, checked.out
    trained = mtrobust("train", *COMMON, "--model_name_or_path", "t5", *FLAGS, "--perturb", "swep,rdrop")
    assert trained.code == 0, trained.err
    results = json.loads((folder / "run" / "all_results.json").read_text(encoding="utf-8"))
    assert {"em", "f1", "exact", "addonesent/f1", "addonesent/worst/exact"} <= results["squad_gen"].keys()
    evaluated = mtrobust("evaluate", "run", "--use_cpu")
    assert evaluated.code == 0 and "exact" in evaluated.out, evaluated.err
    row = json.dumps({"text": "question: who? context: the baker came."})
    (folder / "in.jsonl").write_text(f"{row}\n{row}\n", encoding="utf-8")
    flags = ["--task", "squad_gen", "--input", "in.jsonl", "--output", "out.jsonl", "--use_cpu"]
    assert mtrobust("predict", "run", *flags).code == 0
    first, second = (json.loads(line) for line in (folder / "out.jsonl").read_text("utf-8").strip().split("\n"))
    assert first["prediction"] == second["prediction"] and first["log_probability"] < 0
    exported = mtrobust("export", "run", "--task", "squad_gen", "--out", "hf", "--use_cpu")
    assert exported.code == 0, exported.err

    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained("hf"), AutoModelForSeq2SeqLM.from_pretrained("hf")
    written = model.generate(**tokenizer("question: who? context: the baker came.", return_tensors="pt"))
    assert tokenizer.decode(written[0], skip_special_tokens=True) == first["prediction"]
    assert mtrobust("predict", "run", *flags, "--soft").code == 2, "there are no soft labels of texts"


def test_bad_rows_are_named(folder: Path, mtrobust: Callable):
    rows = [
        {"text": "a", "target": 3},
        {"text": "a", "targets": []},
        {"question": "who?"},
        {"question": "who?", "context": "a cat", "answers": {"text": [], "answer_start": []}},
    ]
    write_rows(folder / "data" / "squad" / "train.jsonl", rows)
    write_rows(folder / "data" / "squad" / "dev.jsonl", [{"text": "a"}])
    ended = mtrobust("check", "--task_def", "generation", "--data_dir", "data")
    place = "data/squad/train.jsonl"
    assert ended.code == 2 and ended.err.strip().split("\n") == [
        f"error: {place}:1: target: is int 3; a text is needed",
        f"error: {place}:2: targets: is empty; a text to write is needed (null where it is not known)",
        f"error: {place}:3: context: is missing; a text is needed",
        f"error: {place}:4: answers: is empty; a text to write is needed (null where it is not known)",
    ]
    write_rows(folder / "data" / "squad" / "train.jsonl", [{"text": "a", "target": "b"}, {"id": "x", "text": "a"}])
    ended = mtrobust("check", "--task_def", "generation", "--data_dir", "data")
    assert ended.code == 2 and "1 of 2 training rows have no label" in ended.err and "(the first: x)" in ended.err


def test_what_has_no_decoder_is_refused_in_one_line(folder: Path, mtrobust: Callable, tiny_model_dir: Callable):
    assert mtrobust("prep", "squad", "--raw", ".", "--out", "data").code == 0
    ended = mtrobust("train", *COMMON, "--model_name_or_path", tiny_model_dir("bert"), *FLAGS)
    wanted = "error: squad_gen.task_type: SequenceGeneration: model type 'bert' has no decoder (supported: t5"
    assert ended.code == 2 and ended.err.strip().split("\n")[-1].startswith(wanted)
    ended = mtrobust("train", *COMMON, "--model_name_or_path", tiny_model_dir("t5"), *FLAGS)
    assert ended.code == 2 and "weights of the decoder are not in it" in ended.err and "Traceback" not in ended.err
    ended = mtrobust("train", *COMMON, "--model_name_or_path", "t5", *FLAGS, "--perturb", "smix")
    assert ended.code == 2 and "smix: task squad_gen: mixes the labels of two examples" in ended.err
    assert not (folder / "run").exists()


@pytest.mark.slow
def test_real_questions_run_to_their_end(folder: Path, mtrobust: Callable, real_data: Path):
    """The tiny T5 is random and learns nothing in a few steps; long contexts, odd characters, many answers do run."""
    raw = real_data / "SQuAD-v1.1"
    files = ["--train_file", raw / "train-subset-v1.1.json", "--dev_file", raw / "dev-v1.1.json"]
    assert mtrobust("prep", "squad", *files, "--out", "data").code == 0
    sizes = ["--max_train_samples", 16, "--max_eval_samples", 8, "--max_seq_length", 96, "--eval_sets", "skip"]
    trained = mtrobust("train", *COMMON, "--model_name_or_path", "t5", *FLAGS, *sizes, "--perturb", "swep", "--bf16")
    assert trained.code == 0, trained.err
    results = json.loads((folder / "run" / "all_results.json").read_text(encoding="utf-8"))
    assert 0 <= results["squad_gen"]["f1"] < 50
