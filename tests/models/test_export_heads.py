"""Exports of tasks whose head is not the family's own: the pooler where the family has that form, else refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mtrobust.config import TrainConfig
from mtrobust.errors import UserError
from mtrobust.models.export import export
from mtrobust.models.multitask import MultiTaskModel
from mtrobust.tasks.taskdef import TaskDef

PAIR = {"name": "t", "task_type": "Classification", "data_format": "PremiseAndOneHypothesis", "labels": ["a", "b", "c"]}
OWN = {"bert": "tanh", "roberta": "tanh", "xlm-roberta": "tanh", "mpnet": "tanh", "albert": "tanh",
       "electra": "gelu", "deberta": "gelu", "deberta-v2": "gelu", "distilbert": "relu"}  # fmt: skip


def run_of(folder, **keys):
    config = TrainConfig(task_def=["t.yml"], data_dir=".", model_name_or_path=str(folder), output_dir="run")
    tasks = {"t": TaskDef(**PAIR, **keys)}
    model = MultiTaskModel.from_encoder(config, tasks).eval()
    for parameter in model.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return SimpleNamespace(
        config=config, tasks=tasks, model=model, tokenizer=AutoTokenizer.from_pretrained(folder), path=None
    )


@pytest.mark.parametrize(("family", "actf"), OWN.items())
def test_a_pooler_of_the_family_s_form_is_exported_exactly(family, actf, tiny_model_dir, tmp_path):
    run = run_of(tiny_model_dir(family), head_input="pooler", actf=actf)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    out = export(run, "t", tmp_path / "out")
    after = run.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in run.model.modules())
    tokenizer, loaded = AutoTokenizer.from_pretrained(out), AutoModelForSequenceClassification.from_pretrained(out)
    inputs = dict(
        tokenizer(["A cat.", "A clear film."], ["The dog slept.", "It was."], padding=True, return_tensors="pt")
    )
    tape = run.model.encoder.record(inputs)
    with torch.no_grad():
        expected = run.model.heads["t"].net(tape.last, None, inputs)
        torch.testing.assert_close(loaded.eval()(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
    assert expected.std(0).max() > 1e-3


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("bert", {"head_input": "pooler", "actf": "relu"}),
        ("electra", {"head_input": "pooler"}),
        ("modernbert", {"head_input": "pooler"}),
        ("bert", {"head_input": "first"}),
        ("bert", {"head_input": "mean"}),
        ("bert", {"enable_san": True}),
    ],
)
def test_other_heads_are_refused_by_name(family, keys, tiny_model_dir, tmp_path):
    with pytest.raises(UserError, match="this task cannot be exported: its head") as caught:
        export(run_of(tiny_model_dir(family), **keys), "t", tmp_path / "out")
    assert next(iter(keys)) in str(caught.value) and not (tmp_path / "out").exists()


def test_t5_is_refused_as_without_a_class(tiny_model_dir, tmp_path):
    with pytest.raises(UserError, match="model type 't5' has no Hugging Face class"):
        export(run_of(tiny_model_dir("t5"), head_input="pooler"), "t", tmp_path / "out")
