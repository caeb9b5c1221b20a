"""What is computed once in place of twice, or for one token in place of all, changes no loss of a training run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from mtrobust.data.collator import Collator
from mtrobust.data.features import load_features
from mtrobust.models.encoder import Encoder
from mtrobust.models.multitask import MultiTaskModel
from mtrobust.perturb import Passes, build_methods
from mtrobust.tasks.taskdef import load_task_defs
from mtrobust.training.step import TrainStep
from tests.perturb.cells import batch_of, spec, step_of

STEPS = 200
METHODS = {
    "standard": [],
    "rapt": [spec("rapt", layers="1-2")],
    "rpt": [spec("rpt", c=0.1, layers=1)],
    "vat": [spec("vat", c=0.1, start=0.1, layers=2)],
    "jacobian": [spec("jacobian", layers=1)],
}


def plainly(monkeypatch) -> None:
    """Every pass is a whole one of the model's own forward with all tokens of its last layer; nothing is shared."""

    def replay(self, tape, site, hidden, copies=1, dropout="independent", track=(), rows="all"):
        assert copies == 1 and rows == "all"
        layer = self.layer_list[site]
        handle = layer.register_forward_pre_hook(lambda module, args: (hidden, *args[1:]))
        try:
            return self.record(tape.inputs, track)
        finally:
            handle.remove()

    def fork(self, site, edit):
        return self, self.at(site, edit(self.h(site)))

    monkeypatch.setattr(Encoder, "replay", replay)
    monkeypatch.setattr(Passes, "fork", fork)
    monkeypatch.setattr(Passes, "_rows", "all")


def losses(step: TrainStep, batches, steps: int, lr: float) -> torch.Tensor:
    """Of each step of a short training run, float64 [steps]."""
    optimizer, found = torch.optim.AdamW(step.parameters(), lr=lr), []
    for number in range(steps):
        batch = batches[number % len(batches)]
        batch.step = number
        loss = step(batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(step.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(loss.detach()))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("method", METHODS)
def test_losses_of_200_float32_steps_are_those_of_whole_passes(method, monkeypatch):
    def run() -> torch.Tensor:
        step = step_of("bert", "Classification", METHODS[method], dropout=0.0)
        return losses(step, [batch_of("bert", "Classification", step=0)], STEPS, 1e-3)

    fast = run()
    plainly(monkeypatch)
    plain = run()
    assert (fast - plain).abs().max() < 1e-5
    assert fast[-20:].mean() < 0.7 * fast[:20].mean(), "the run must move, or nothing was compared"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["standard", "rapt"])
def test_losses_of_a_real_encoder_on_real_pairs_too(method, monkeypatch, real_model: Path, real_data: Path, tmp_path):
    (tmp_path / "mrpc").mkdir()
    with (real_data / "MRPC" / "train.tsv").open(encoding="utf-8-sig", newline="\n") as raw:
        cells = [line.rstrip("\r\n").split("\t") for line in raw][1:41]
    rows = [{"id": str(i), "text": c[3], "text_pair": c[4], "label": int(c[0])} for i, c in enumerate(cells)]
    names = ["not_equivalent", "equivalent"]
    text = "".join(json.dumps({**row, "label": names[row["label"]]}) + "\n" for row in rows)
    (tmp_path / "mrpc" / "train.jsonl").write_text(text, encoding="utf-8")
    task, tokenizer = load_task_defs(["glue"])["mrpc"], AutoTokenizer.from_pretrained(real_model)
    task = task.model_copy(update={"dropout_p": 0.0})
    features = load_features(task, "train", tmp_path, tokenizer, 64, tmp_path / "cache", True)
    collate = Collator(task, tokenizer.pad_token_id)
    numbers = [list(range(start, start + 2)) for start in range(0, 40, 2)]

    def run() -> torch.Tensor:
        torch.manual_seed(1)
        base = AutoModel.from_pretrained(
            real_model, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, dtype=torch.float32
        )
        model = MultiTaskModel(Encoder(base), {"mrpc": task}).train()
        step = TrainStep(model, build_methods(METHODS[method], {"mrpc": task}, model.encoder), seed=3).train()
        batches = [collate([features.row(i) for i in some], some) for some in numbers]
        return losses(step, batches, STEPS, 2e-5)

    fast = run()
    plainly(monkeypatch)
    plain = run()
    assert fast[-20:].mean() < 0.9 * fast[:20].mean()
    assert (fast - plain).abs().max() < 1e-5
