"""Methods around a plain Hugging Face classifier: the model itself trains, with the method's terms in its loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrobust import UserError, regularize

TEXTS = ["A clear film with a warm heart.", "The cat slept.", "No dog chased every cat near the river.", "It rose."]
FAMILIES = ("bert", "roberta", "distilbert", "deberta-v2", "albert", "modernbert")


def classifier(folder: Path, outputs: int = 3, dropout: bool = False) -> Any:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=outputs, dtype="float32")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and not dropout:
            module.p = 0.0
    return model


def inputs(folder: Path) -> dict[str, Tensor]:
    from transformers import AutoTokenizer

    return dict(AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt"))


LABELS = torch.tensor([0, 2, 1, 1])


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_method_it_is_the_model(family: str, tiny_model_dir):
    folder = tiny_model_dir(family)
    model, batch = classifier(folder), inputs(folder)
    model.train()
    expected = model(**batch, labels=LABELS).loss
    expected.backward()
    wanted = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    loss = regularize(model, None).train()(**batch, labels=LABELS).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, weight in model.named_parameters():
        if name in wanted:
            assert torch.allclose(weight.grad, wanted[name], atol=1e-6, rtol=1e-4), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_method_adds_its_term_and_reaches_every_weight(family: str, tiny_model_dir):
    folder = tiny_model_dir(family)
    model = classifier(folder)
    wrapped = regularize(model, {"name": "rapt", "layers": "1-2", "alpha": 3}, seed=1).train()
    out = wrapped(**inputs(folder), labels=LABELS)
    assert wrapped.terms["rapt/reg"] > 0
    assert out.loss.item() == pytest.approx(wrapped.terms["task"] + 3 * wrapped.terms["rapt/reg"], rel=1e-5)
    out.loss.backward()
    still = [n for n, weight in model.named_parameters() if weight.grad is None and "pooler" not in n]
    assert still == []


def test_evaluation_is_the_models_own(tiny_model_dir):
    folder = tiny_model_dir("bert")
    model, batch = classifier(folder, dropout=True), inputs(folder)
    wrapped = regularize(model, "rapt").eval()
    own = model(**batch, labels=LABELS)
    found = wrapped(**batch, labels=LABELS)
    assert torch.equal(found.logits, own.logits) and torch.equal(found.loss, own.loss)
    assert torch.equal(wrapped.train().eval()(**batch).logits, own.logits)


def test_weights_are_listed_once_and_methods_may_have_their_own(tiny_model_dir):
    model = classifier(tiny_model_dir("bert"))
    plain, learned = regularize(model, "rapt"), regularize(model, "swep")
    assert set(plain.state_dict()) == {f"model.{name}" for name in model.state_dict()} | {"passes"}
    assert len(list(plain.parameters())) == len(list(model.parameters()))
    extra = set(learned.state_dict()) - set(plain.state_dict())
    assert extra and all(name.startswith("owned.") for name in extra)


def test_noise_is_new_in_every_pass_and_follows_from_the_seed(tiny_model_dir):
    folder = tiny_model_dir("bert")
    model, batch = classifier(folder), inputs(folder)

    def terms(seed: int) -> list[float]:
        wrapped = regularize(model, {"name": "rapt", "layers": "1"}, seed=seed).train()
        found = []
        for _ in range(3):
            wrapped(**batch, labels=LABELS)
            found.append(wrapped.terms["rapt/reg"])
        return found

    first = terms(1)
    assert len(set(first)) == 3 and terms(1) == pytest.approx(first) and terms(2) != pytest.approx(first)


def test_a_row_without_label_takes_part_in_the_regulariser_only(tiny_model_dir):
    folder = tiny_model_dir("bert")
    model, batch = classifier(folder), inputs(folder)
    whole, part = (regularize(model, {"name": "rapt", "layers": "1"}, seed=1).train() for _ in range(2))
    whole(**batch, labels=LABELS)
    part(**batch, labels=torch.tensor([0, -100, 1, -100]))
    assert part.terms["rapt/reg"] == pytest.approx(whole.terms["rapt/reg"])
    kept = {name: value[[0, 2]] for name, value in batch.items()}
    assert part.terms["task"] == pytest.approx(model.eval()(**kept, labels=LABELS[[0, 2]]).loss.item(), rel=1e-5)


def test_one_output_is_a_regression(tiny_model_dir):
    folder = tiny_model_dir("bert")
    model, batch = classifier(folder, outputs=1), inputs(folder)
    wrapped = regularize(model, {"name": "rapt", "layers": "1"}).train()
    numbers = torch.tensor([0.5, float("nan"), 2.0, -1.0])
    wrapped(**batch, labels=numbers)
    logits = model.eval()(**batch).logits[:, 0]
    known = torch.tensor([0, 2, 3])
    assert wrapped.terms["task"] == pytest.approx((logits - numbers)[known].square().mean().item(), rel=1e-4)


AVERAGED = {"name": "smart", "bregman": 0.5}


def test_a_resumed_loop_ends_as_one_that_was_not_stopped(tiny_model_dir):
    folder = tiny_model_dir("bert")
    batch = inputs(folder)

    def run(wrapped: Any, steps: int) -> dict[str, Tensor]:
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            wrapped(**batch, labels=LABELS).loss.backward()
            optimizer.step()
        return {name: value.clone() for name, value in wrapped.state_dict().items()}

    def fresh() -> Any:
        return regularize(classifier(folder), [AVERAGED, {"name": "rapt", "layers": "1"}], seed=1).train()

    whole = fresh()
    half, end, again = run(whole, 3), run(whole, 2), fresh()
    again.load_state_dict(half)
    resumed = run(again, 2)
    assert resumed.keys() == end.keys() and int(end["passes"]) == 5
    assert [name for name, value in end.items() if not torch.equal(resumed[name], value)] == []
    owned = [name for name in end if name.startswith("owned.") and name.endswith("query.weight")]
    assert owned and not any(torch.equal(half[name], end[name]) for name in owned)


def test_a_checkpoint_without_the_number_of_passes_counts_anew(tiny_model_dir):
    folder = tiny_model_dir("bert")
    batch, wrapped = inputs(folder), regularize(classifier(folder), AVERAGED, seed=1).train()
    for _ in range(3):
        wrapped(**batch, labels=LABELS)
    old = {name: value.clone() for name, value in wrapped.state_dict().items() if name != "passes"}
    again = regularize(classifier(folder), AVERAGED, seed=1).train()
    with pytest.raises(RuntimeError, match='Missing key.*"passes"'):
        again.load_state_dict(old)
    assert again.load_state_dict(old, strict=False).missing_keys == ["passes"]
    end = "layer.0.attention.self.query.weight"
    (name,) = (name for name, _ in again.owned.named_parameters() if name.endswith(end))
    average, weight = again.owned.get_parameter(name), again.model.get_parameter(f"bert.encoder.{end}")
    with torch.no_grad():
        weight.add_(1.0)
    again(**batch, labels=LABELS)
    torch.testing.assert_close(average, old["owned." + name] + 0.5)


@pytest.mark.parametrize("outputs", [1, 3])
def test_labels_may_stand_in_a_column(outputs: int, tiny_model_dir):
    folder = tiny_model_dir("bert")
    model, batch = classifier(folder, outputs), inputs(folder)
    labels = torch.tensor([0.5, float("nan"), 2.0, -1.0]) if outputs == 1 else torch.tensor([0, -100, 1, 2])
    losses = []
    for given in (labels, labels.unsqueeze(1)):
        wrapped = regularize(model, {"name": "rapt", "layers": "1"}, seed=1).train()
        losses.append(wrapped(**batch, labels=given).loss.item())
    assert losses[0] == losses[1]
    plain = LABELS.to(torch.float32 if outputs == 1 else torch.int64).unsqueeze(1)
    ours = regularize(model, None).train()(**batch, labels=plain).loss.item()
    assert ours == pytest.approx(model(**batch, labels=plain).loss.item(), rel=1e-5)
    for shape in ([4, 2], [2], [1, 4], [4, 1, 1], []):
        with pytest.raises(UserError, match=r"labels: \[.*\]: must be \[4\] or \[4, 1\], one for each row"):
            wrapped(**batch, labels=torch.zeros(shape, dtype=plain.dtype))


def test_other_models_are_refused(tiny_model_dir):
    from transformers import AutoModel, AutoModelForQuestionAnswering

    folder = tiny_model_dir("bert")
    with pytest.raises(UserError, match="Linear: must be a Hugging Face model"):
        regularize(torch.nn.Linear(2, 2), "rapt")  # type: ignore[arg-type]
    for kind in (AutoModel, AutoModelForQuestionAnswering):
        with pytest.raises(UserError, match="must be an encoder family's …ForSequenceClassification"):
            regularize(kind.from_pretrained(folder), "rapt")
    model = classifier(folder)
    model.config.problem_type = "multi_label_classification"
    with pytest.raises(UserError, match="multi_label_classification with 3 outputs is not supported"):
        regularize(model, "rapt")
    model = classifier(folder)
    with pytest.raises(UserError, match="the encoder has 3 layers"):
        regularize(model, {"name": "rapt", "layers": "4"})
    model.gradient_checkpointing_enable()
    with pytest.raises(UserError, match="gradient checkpointing is on"):
        regularize(model, "rapt")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_refused(dtype: torch.dtype, tiny_model_dir, tmp_path: Path):
    from transformers import AutoModelForSequenceClassification

    classifier(tiny_model_dir("bert")).to(dtype).save_pretrained(tmp_path)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(UserError, match=rf"weights in {name} are not supported .*from_pretrained\(\.\.\., dtype="):
        regularize(AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype="auto"), "rapt")
    wrapped = regularize(classifier(tmp_path), "rapt,smart").train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = wrapped(**inputs(tiny_model_dir("bert")), labels=LABELS).loss
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.dtype == torch.float32 for p in wrapped.parameters())


@pytest.mark.slow
def test_it_trains_under_the_trainer(tiny_model_dir, tmp_path: Path):
    from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

    folder = tiny_model_dir("bert")
    batch = inputs(folder)
    rows = [{**{name: value[i] for name, value in batch.items()}, "labels": LABELS[i]} for i in range(4)]

    def trained(model: Any) -> dict[str, Tensor]:
        arguments = TrainingArguments(
            str(tmp_path / "out"), max_steps=3, per_device_train_batch_size=2, seed=1, learning_rate=1e-3,
            report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
        trainer.train()
        assert trainer.evaluate()["eval_loss"] > 0
        return {name: weight.detach().clone() for name, weight in model.state_dict().items()}

    plain = trained(classifier(folder))
    same = trained(regularize(classifier(folder), None))
    model = classifier(folder)
    other = trained(regularize(model, {"name": "rapt", "layers": "1-2"}, seed=1))
    assert all(torch.allclose(same[f"model.{name}"], value, atol=1e-5) for name, value in plain.items())
    assert any(not torch.allclose(other[f"model.{name}"], value, atol=1e-5) for name, value in plain.items())
    model.save_pretrained(tmp_path / "plain")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
    assert torch.equal(loaded.eval()(**batch).logits, model.eval()(**batch).logits)


@pytest.mark.slow
def test_the_trainer_resumes_it_exactly(tiny_model_dir, tmp_path: Path):
    from transformers import Trainer, TrainingArguments

    folder = tiny_model_dir("bert")
    batch = inputs(folder)
    rows = [{**{name: value[i % 4] for name, value in batch.items()}, "labels": LABELS[i % 4]} for i in range(8)]

    def trained(output: str, resume: str | None = None) -> dict[str, Tensor]:
        wrapped = regularize(classifier(folder, dropout=True), [AVERAGED, {"name": "rapt", "layers": "1-2"}], seed=1)
        arguments = TrainingArguments(
            str(tmp_path / output), max_steps=4, save_steps=2, per_device_train_batch_size=2, seed=1, use_cpu=True,
            gradient_accumulation_steps=2, learning_rate=1e-3, report_to="none", disable_tqdm=True,
        )  # fmt: skip
        Trainer(model=wrapped, args=arguments, train_dataset=rows).train(resume_from_checkpoint=resume)
        return wrapped.state_dict()

    whole = trained("whole")
    resumed = trained("resumed", str(tmp_path / "whole" / "checkpoint-2"))
    assert int(whole["passes"]) == 8
    assert [name for name, value in whole.items() if not torch.equal(resumed[name], value)] == []
