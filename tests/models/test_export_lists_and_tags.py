"""Exports of ranking, multiple choice and sequence labelling: the family's classes, with the same scores and tags."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

from mtrobust.config import TrainConfig
from mtrobust.data.collator import evaluation_batches
from mtrobust.errors import UserError
from mtrobust.evaluation.evaluator import run_features
from mtrobust.models.export import export
from mtrobust.models.multitask import MultiTaskModel
from mtrobust.tasks.taskdef import TaskDef
from tests.tiny import FAMILIES

LISTS = {"data_format": "PremiseAndMultiHypothesis"}
TASKS = {
    "order": TaskDef(name="order", task_type="Ranking", **LISTS),
    "choice": TaskDef(name="choice", task_type="MultipleChoice", **LISTS),
    "names": TaskDef(name="names", task_type="SequenceLabeling", data_format="Sequence", labels=["O", "B-A", "I-A"]),
}
ROWS = {
    "order": [{"id": "a", "text": "Where was it?", "candidates": ["A cat.", "It was built near the river."]}],
    "names": [
        {"id": "a", "tokens": ["The", "doctor", "met", "the", "lawyers", "in", "Zürich", "."]},
        {"id": "b", "tokens": ["A"]},
    ],
}
ROWS["choice"] = ROWS["order"]
WITHOUT = {"t5": ("order", "choice", "names"), "deberta": ("choice",)}


def run_of(folder) -> SimpleNamespace:
    config = TrainConfig(task_def=["t.yml"], data_dir=".", model_name_or_path=str(folder), output_dir="run")
    model = MultiTaskModel.from_encoder(config, TASKS).eval()
    for parameter in model.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return SimpleNamespace(
        config=config, tasks=TASKS, model=model, tokenizer=AutoTokenizer.from_pretrained(folder), path=None
    )


def inside(run, name: str):
    """Predictions of the rows, their batch, and the outputs inside mtrobust."""
    kind = TASKS[name].type
    rows = [raw | kind.parse_row(raw) for raw in ROWS[name]]
    features = kind.featurize(rows, run.tokenizer, 64, training=False)
    collate = evaluation_batches(TASKS[name], run.tokenizer)
    batch = collate(features)
    with torch.no_grad():
        logits = run.model(batch)["logits"]
    outputs = run_features(run.model, TASKS[name], features, collate, batch_size=8)
    return kind.decode(rows, features, outputs), batch, logits


@pytest.mark.parametrize("family", FAMILIES)
def test_the_exported_models_give_the_same_logits(family, tiny_model_dir, tmp_path):
    run = run_of(tiny_model_dir(family))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    for name in TASKS:
        if name in WITHOUT.get(family, ()):
            with pytest.raises(UserError, match=f"cannot be exported: model type '{family}' has no Hugging Face class"):
                export(run, name, tmp_path / name)
            assert not (tmp_path / name).exists()
            continue
        out = export(run, name, tmp_path / name)
        _, batch, expected = inside(run, name)
        inputs = batch.inputs
        if name == "choice":
            loaded = AutoModelForMultipleChoice.from_pretrained(out)
            inputs, expected = {key: value.unsqueeze(0) for key, value in inputs.items()}, expected.T
        elif name == "names":
            loaded = AutoModelForTokenClassification.from_pretrained(out)
            real = inputs["attention_mask"].bool()
            assert loaded.config.id2label == {0: "O", 1: "B-A", 2: "I-A"}
        else:
            loaded = AutoModelForSequenceClassification.from_pretrained(out)
        with torch.no_grad():
            given = loaded.eval()(**inputs).logits
        if name == "names":
            given, expected = given[real], expected[real]
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)
        assert given.std() > 1e-4  # the rows differ, so equal logits mean something
    after = run.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the model inside stays as it was"


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "modernbert"])
def test_the_pipeline_tags_words(family, tiny_model_dir, tmp_path):
    run = run_of(tiny_model_dir(family))
    out = export(run, "names", tmp_path / "names")
    (whole, _), _, _ = inside(run, "names")
    found = pipeline("token-classification", model=str(out))(" ".join(ROWS["names"][0]["tokens"]))
    at, firsts = 0, []
    for word in ROWS["names"][0]["tokens"]:
        firsts.append(next((f["entity"] for f in found if at - 1 <= f["start"] <= at and f["end"] > at), "O"))
        at += len(word) + 1
    assert firsts == whole.record["prediction"] and set(firsts) != {"O"}


@pytest.mark.parametrize("name", ["order", "choice", "names"])
def test_the_example_on_the_model_card_runs(name, tiny_model_dir, tmp_path, capsys):
    out = export(run_of(tiny_model_dir("bert")), name, tmp_path / "out")
    card = (out / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0]
    exec(code.replace("this/folder", str(out)), {})
    assert capsys.readouterr().out.strip()


def test_a_head_of_its_own_is_refused(tiny_model_dir, tmp_path):
    folder = tiny_model_dir("bert")
    config = TrainConfig(task_def=["t.yml"], data_dir=".", model_name_or_path=str(folder), output_dir="run")
    tasks = {"order": TaskDef(name="order", task_type="Ranking", head_input="mean", **LISTS)}
    model = MultiTaskModel.from_encoder(config, tasks).eval()
    run = SimpleNamespace(config=config, tasks=tasks, model=model, tokenizer=None, path=None)
    with pytest.raises(UserError, match="head_input: mean"):
        export(run, "order", tmp_path / "out")


def test_the_pooler_that_a_shared_encoder_lacks_is_the_head_s(tiny_model_dir):
    heads = {family: run_of(tiny_model_dir(family)).model.heads for family in ("bert", "roberta", "mpnet", "electra")}
    own = {family: head["choice"].net.pooler is not None for family, head in heads.items()}
    assert own == {"bert": False, "roberta": True, "mpnet": True, "electra": False}
    assert all(head["order"].net.pooler is None for head in heads.values())
