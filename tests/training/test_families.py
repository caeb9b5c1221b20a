"""Every encoder family from the files it is released with, through the commands, to a plain Hugging Face folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mtrobust.cli import main
from mtrobust.evaluation.run_folder import load_run
from mtrobust.models.multitask import load_encoder
from tests.tiny import RELEASED, write_released_model

pytestmark = pytest.mark.slow
KINDS = {"vocab.txt", "vocab.json", "spm.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.json"}
TEXTS = ["A warm film with a clear heart.", "Where was the old bridge built?"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """The generated benchmark, small."""
    folder = tmp_path_factory.mktemp("rows")
    sizes = ["--train_rows", "64", "--eval_rows", "16"]
    assert main(["prep", "sample", "--out", str(folder), *sizes]) == 0
    return folder


@pytest.mark.parametrize("family", RELEASED)
def test_from_released_files_to_an_exported_model(family: str, rows: Path, tmp_path: Path, capsys):
    model = write_released_model(family, tmp_path / "model")
    assert len(KINDS & {path.name for path in model.iterdir()}) == 1
    run, out = tmp_path / "run", tmp_path / "hf"
    tasks = ["--task_def", str(rows / "task_def.yml"), "--train_tasks", "sentiment,entailment"]
    flags = "--perturb rapt --max_steps 8 --learning_rate 3e-3 --per_device_train_batch_size 8 --logging_steps 1"
    command = ["train", *tasks, "--data_dir", str(rows), "--cache_dir", str(tmp_path / "cache"), *flags.split()]
    assert main([*command, "--model_name_or_path", str(model), "--output_dir", str(run), "--use_cpu"]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").strip().split("\n")]
    losses = [figures["loss"] for line in lines for figures in line.get("train", {}).values()]
    assert len(losses) == 8 and all(math.isfinite(loss) for loss in losses)
    before, after = load_encoder(str(model)), load_encoder(str(run / "model"))
    moved = [name for name, weight in after.named_parameters() if not torch.equal(weight, before.get_parameter(name))]
    learned = {int(part) for name in moved for part in name.split(".") if part.isdecimal()}
    assert learned >= set(range(len(after.layer_list)))

    results = json.loads((run / "all_results.json").read_text("utf-8"))
    assert main(["evaluate", str(run), "--use_cpu"]) == 0
    again = json.loads((run / "all_results.json").read_text("utf-8"))
    assert {task: again[task] for task in ("sentiment", "entailment")} == {
        task: pytest.approx(results[task]) for task in ("sentiment", "entailment")
    }

    exported = main(["export", str(run), "--task", "sentiment", "--out", str(out), "--use_cpu"])
    if family == "t5":
        assert exported == 2 and "model type 't5' has no Hugging Face class" in capsys.readouterr().err
        return
    assert exported == 0
    opened, tokenizer = load_run(run, "cpu"), AutoTokenizer.from_pretrained(out)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    theirs = opened.tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert inputs.keys() == theirs.keys() and all(torch.equal(inputs[name], theirs[name]) for name in inputs)
    with torch.no_grad():
        tape = opened.model.encoder.record(dict(inputs))
        expected = opened.model.heads["sentiment"].net(tape.last, tape.pooled, dict(inputs))
        given = AutoModelForSequenceClassification.from_pretrained(out).eval()(**inputs).logits
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)
    assert not torch.equal(given[0], given[1])
