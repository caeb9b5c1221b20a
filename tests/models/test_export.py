"""One task of a run as a plain Hugging Face folder: loads there, gives the same logits, overwrites nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

from mtrobust.data.collator import Collator
from mtrobust.errors import RunError, UserError
from mtrobust.evaluation.run_folder import load_run
from mtrobust.models import export as module
from mtrobust.models.export import EXPORTS, export
from tests.evaluation.runs import read_lines, write_data, write_run
from tests.tiny import FAMILIES

TASKS = ["mood", "mnli", "stsb", "squad", "squad2"]
EXPORTABLE = [family for family in FAMILIES if family != "t5"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run_of(tmp_path_factory, tiny_model_dir, data_dir):
    """`run_of(family)`: a finished run, loaded."""
    runs = {}

    def make(family: str):
        if family not in runs:
            folder = tmp_path_factory.mktemp("runs") / family
            runs[family] = load_run(write_run(folder, tiny_model_dir(family), data_dir, TASKS))
        return runs[family]

    return make


def inside(run, name: str, data_dir: Path):
    """Rows of a dev split, their batch and the outputs inside mtrobust."""
    task = run.tasks[name]
    file = "matched_dev" if name == "mnli" else "dev"
    rows = [task.type.parse_row(row) for row in read_lines(data_dir / name / f"{file}.jsonl")]
    features = task.type.featurize(rows, run.tokenizer, task.max_len or 64, training=False)
    batch = Collator(task, run.tokenizer.pad_token_id)(features)
    with torch.no_grad():
        return rows, batch, run.model(batch)


@pytest.mark.parametrize("family", EXPORTABLE)
def test_the_exported_models_give_the_same_logits(run_of, family, data_dir, tmp_path):
    run = run_of(family)
    for name in ("mood", "stsb", "squad"):
        out = export(run, name, tmp_path / name)
        auto = AutoModelForQuestionAnswering if name == "squad" else AutoModelForSequenceClassification
        loaded, report = auto.from_pretrained(out, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert loaded.dtype == torch.float32 and not loaded.training
        rows, batch, expected = inside(run, name, data_dir)
        with torch.no_grad():
            given = loaded(**batch.inputs)
        for key, value in expected.items():
            real = batch.inputs["attention_mask"].bool() if value.shape == batch.inputs["input_ids"].shape else ...
            torch.testing.assert_close(given[key][real], value[real], atol=1e-5, rtol=1e-5)
        spread = next(iter(expected.values()))
        assert spread.std(0).max() > 1e-4  # the rows differ, so equal logits mean something


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "modernbert"])
def test_the_pipeline_gives_names_and_probabilities_from_plain_text(run_of, family, data_dir, tmp_path):
    """From text to label through the exported tokenizer, pairs too."""
    run = run_of(family)
    for name in ("mood", "mnli"):
        out = export(run, name, tmp_path / name)
        classify = pipeline("text-classification", model=str(out), top_k=None, device="cpu")
        rows, batch, expected = inside(run, name, data_dir)
        probabilities = expected["logits"].softmax(-1)
        for row, wanted in zip(rows, probabilities.tolist(), strict=True):
            text = {"text": row["text"]} | ({"text_pair": row["text_pair"]} if "text_pair" in row else {})
            given = {entry["label"]: entry["score"] for entry in classify(text, truncation=True)}
            assert given == pytest.approx(dict(zip(run.tasks[name].labels, wanted, strict=True)), abs=1e-5)


def test_the_regression_pipeline_gives_the_number_itself(run_of, data_dir, tmp_path):
    run = run_of("bert")
    score = pipeline("text-classification", model=str(export(run, "stsb", tmp_path / "out")), device="cpu")
    rows, _, expected = inside(run, "stsb", data_dir)
    given = [score({"text": row["text"], "text_pair": row["text_pair"]}) for row in rows]
    found = [entry[0] if isinstance(entry, list) else entry for entry in given]
    assert [entry["score"] for entry in found] == pytest.approx(expected["logits"][:, 0].tolist(), abs=1e-5)


def test_the_folder(run_of, tmp_path):
    run = run_of("bert")
    out = export(run, "mood", tmp_path / "new" / "out")
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {"0": "sad", "1": "calm", "2": "glad"}
    assert config["label2id"] == {"sad": 0, "calm": 1, "glad": 2}
    assert config["problem_type"] == "single_label_classification"
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert (out / "model.safetensors").is_file()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    for path in out.rglob("*.json"):
        assert "/tmp/" not in path.read_text(), path  # no path of the machine it was made on
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.model_max_length == 64 and tokenizer.backend_tokenizer.truncation is None
    stsb = json.loads((export(run, "stsb", tmp_path / "stsb") / "config.json").read_text())
    assert stsb["problem_type"] == "regression" and stsb["id2label"] == {"0": "score"}
    assert AutoTokenizer.from_pretrained(export(run, "squad2", tmp_path / "qa")).model_max_length == 48


def test_the_model_card(run_of, tmp_path):
    from mtrobust.evaluation.run_folder import update_results

    run = run_of("bert")
    update_results(run.path, {"mood": {"acc": 71.254, "f1": float("nan")}})
    card = (export(run, "mood", tmp_path / "mood") / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-classification\n")
    assert "| acc | 71.25 |" in card and "nan" not in card
    assert "sad, calm, glad" in card and "mnli" in card and "/tmp" not in card
    pair = (export(run, "mnli", tmp_path / "mnli") / "README.md").read_text(encoding="utf-8")
    assert "text_pair" in pair and "text_pair" not in card


@pytest.mark.parametrize("task", ["mood", "mnli", "squad"])
def test_the_example_of_the_card_runs(run_of, tmp_path, task, capsys):
    out = export(run_of("bert"), task, tmp_path / "out")
    code = (out / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    exec(code.replace("this/folder", str(out)), {})  # noqa: S102
    assert capsys.readouterr().out.strip()


def test_the_run_is_left_as_it_was(run_of, data_dir, tmp_path):
    run = run_of("albert")
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    config, max_length = run.model.encoder.config.to_dict(), run.tokenizer.model_max_length
    run.model.train()
    try:
        for name in ("mood", "squad"):
            export(run, name, tmp_path / name)
        assert all(module.training for module in run.model.modules())
    finally:
        run.model.eval()
    assert list(before) == list(run.model.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.model.state_dict().items())
    assert run.model.encoder.config.to_dict() == config and run.tokenizer.model_max_length == max_length


def test_an_empty_folder_is_taken(run_of, tmp_path):
    (tmp_path / "out").mkdir()
    assert (export(run_of("bert"), "mood", tmp_path / "out") / "config.json").is_file()


def test_refusals_write_nothing(run_of, tmp_path):
    run = run_of("bert")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    (tmp_path / "file").write_text("mine")
    cases = [
        ("mood", "full", "not empty"),
        ("mood", "file", "is a file"),
        ("mood", "file/below", "cannot be written"),
        ("mod", "new", "did you mean 'mood'"),
    ]
    for task, target, message in cases:
        with pytest.raises(UserError, match=message):
            export(run, task, tmp_path / target)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "x"]
    assert (tmp_path / "full" / "x").read_text() == "mine"


def test_a_family_without_such_a_class_is_refused_by_name(run_of, tmp_path):
    for task in ("mood", "squad"):
        with pytest.raises(UserError, match="'t5'.*BERT.*ModernBERT"):
            export(run_of("t5"), task, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_kind_of_task_without_an_export_is_refused():
    with pytest.raises(UserError, match="exportable task type.*known: Classification, Regression"):
        EXPORTS["ClozeChoice"]


def test_a_difference_is_found_before_the_folder_appears(run_of, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_logits", lambda out: out["logits"] + 0.01)
    with pytest.raises(RunError, match="differ by 0.01"):
        export(run_of("bert"), "mood", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(run_of, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        export(run_of("bert"), "mood", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
