"""Methods on a task that writes text, against the whole T5 of transformers and other computations of their own."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from transformers import T5ForConditionalGeneration

from mtrobust.models.multitask import MultiTaskModel, load_encoder
from mtrobust.perturb import build_methods
from mtrobust.training.step import TrainStep
from tests.perturb.cells import batch_of, gradients, spec, step_of, task_of
from tests.perturb.test_methods import passes_of
from tests.t5 import write_t5

KIND = "SequenceGeneration"
NAME = KIND.lower()
DOUBLE = {"dropout": 0.0, "dtype": torch.float64}
VARIANCE = (0.1 / 0.9) ** 0.5  # of SWEP's prior in its code


@pytest.fixture(scope="module", params=[False, True], ids=["tied", "untied"])
def folder(request, tmp_path_factory):
    return write_t5(tmp_path_factory.mktemp("t5"), untied=request.param)


def both(folder, *specs):
    """A step on a checkpoint, and the same checkpoint as transformers has it, in float64."""
    model = MultiTaskModel(load_encoder(str(folder)), {NAME: task_of(KIND)})
    model.take_pretrained([NAME], str(folder))
    step = TrainStep(model, build_methods(specs, model.tasks, model.encoder), seed=3).double().train()
    return step, T5ForConditionalGeneration.from_pretrained(folder).double().eval()


def nll(whole, batch, embeddings) -> torch.Tensor:
    """-log p(y | x) per token of the answers, from word embeddings."""
    mask, labels = batch.inputs["attention_mask"], batch.targets["labels"]
    return whole(inputs_embeds=embeddings, attention_mask=mask, labels=labels).loss


@pytest.mark.parametrize("kl_weight", ["outside", "inside"])
def test_swep_is_the_papers_objective(folder, kl_weight):
    """Eq. 2 to 4 with T5 as encoder and decoder: noise from the encoder's last states times its word embeddings."""
    step, whole = both(folder, spec("swep", kl_weight=kl_weight))
    (network,) = step.owned.values()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = batch_of("t5", KIND)
    real = batch.inputs["attention_mask"].bool()
    embeddings = whole.shared(batch.inputs["input_ids"])
    states = whole.encoder(inputs_embeds=embeddings, attention_mask=real.long()).last_hidden_state
    mu, log_var = network(states.detach()).chunk(2, -1)
    z = mu + (log_var / 2).exp() * step.noise.draw("swep/words", mu, real, batch.row_ids, 0)
    clean = nll(whole, batch, embeddings)
    noisy = nll(whole, batch, embeddings * torch.where(real.unsqueeze(-1), z, 1))
    kl = kl_divergence(Normal(mu, (log_var / 2).exp()), Normal(torch.ones_like(mu), VARIANCE**0.5)).sum(-1)[real].mean()
    out = step(batch)
    for name, wanted in (("task", clean), ("swep/noisy", noisy), ("swep/kl", kl)):
        torch.testing.assert_close(out.terms[name], wanted.detach(), rtol=1e-9, atol=0)
    assert abs((clean - noisy).item()) > 1e-3 and kl > 0.1
    weight = 0.5 if kl_weight == "inside" else 1.0
    torch.testing.assert_close(out.loss, 0.5 * clean + 0.5 * noisy + weight * kl, rtol=1e-9, atol=0)
    out.loss.backward()
    (0.5 * clean + 0.5 * noisy + weight * kl).backward(inputs=list(whole.parameters()))
    ours, theirs = (model.decoder.block[0].layer[1].EncDecAttention.q.weight.grad
                    for model in (step.model.heads[NAME].net.model, whole))  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_the_shared_table_gets_the_gradients_of_encoder_and_decoder(folder):
    step, whole = both(folder, spec("standard"))
    batch = batch_of("t5", KIND)
    step(batch).loss.backward()
    nll(whole, batch, whole.shared(batch.inputs["input_ids"])).backward()
    torch.testing.assert_close(
        step.model.encoder.word_embeddings.weight.grad, whole.shared.weight.grad, rtol=1e-6, atol=1e-9
    )


BASELINES = {
    "prior_aug": lambda draw: 1 + VARIANCE**0.5 * draw("prior/words", "normal"),
    "gaussian_dropout": lambda draw: 1 + (0.1 / 0.9) ** 0.5 * draw("gaussian/words", "normal"),
    "bernoulli_dropout": lambda draw: (draw("bernoulli/words", "uniform") >= 0.1).double() / 0.9,
    "word_dropout": lambda draw: (draw("word/words", "uniform")[..., :1] >= 0.1) * 1.0,
}


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_multiply_the_encoders_word_embeddings(folder, name):
    step, whole = both(folder, spec(name))
    batch = batch_of("t5", KIND)
    real = batch.inputs["attention_mask"].bool()
    embeddings = whole.shared(batch.inputs["input_ids"])
    like = embeddings[..., :1] if name == "word_dropout" else embeddings
    factor = BASELINES[name](lambda key, dist: step.noise.draw(key, like, real, batch.row_ids, 0, dist))
    noisy = nll(whole, batch, embeddings * torch.where(real.unsqueeze(-1), factor, 1))
    torch.testing.assert_close(step(batch).terms[f"{name}/noisy"], noisy.detach(), rtol=1e-9, atol=0)


def test_projected_jacobian_of_the_decoders_posteriors_is_unbiased():
    """Second derivatives go through decoder and encoder; every target position is an item."""
    batch = batch_of("t5", KIND, rows=2)
    exact = step_of("t5", KIND, [spec("jacobian", estimate="exact")], **DOUBLE)(batch).terms["jacobian/reg"]
    step = step_of("t5", KIND, [spec("jacobian", draws=100)], **DOUBLE)
    assert float(exact) > 0 and float(step(batch).terms["jacobian/reg"]) == pytest.approx(float(exact), rel=0.25)


def test_the_gradient_of_the_jacobian_is_that_of_finite_differences():
    """T5's norms compute in float32, so the differences cannot be small."""
    step, batch = step_of("t5", KIND, [spec("jacobian", alpha=1.0)], **DOUBLE), batch_of("t5", KIND, rows=2)
    _, grads = gradients(step, batch)
    name = next(name for name in grads if "EncDecAttention.k.weight" in name)
    weight, direction = dict(step.named_parameters())[name], torch.randn(grads[name].shape, dtype=torch.float64)
    losses = []
    for size in (1e-3, -2e-3):
        with torch.no_grad():
            weight.add_(size * direction)
        losses.append(float(step(batch).loss.detach()))
    assert float((grads[name] * direction).sum()) == pytest.approx((losses[0] - losses[1]) / 2e-3, rel=5e-3)


@pytest.mark.parametrize("task_type", [KIND, "Classification"])
def test_freelb_from_a_layer_hands_over_the_gradients_of_position_biases(task_type):
    """T5's biases are computed once, below the layer, and read by all passes: two equal passes are one."""
    batch = batch_of("t5", task_type)
    _, wanted = gradients(step_of("t5", task_type, [spec("standard")], **DOUBLE), batch)
    options = {"layers": 1, "steps": 2, "init": 0.0, "step_size": 0.0}
    _, found = gradients(step_of("t5", task_type, [spec("freelb", **options)], **DOUBLE), batch)
    assert found.keys() == wanted.keys() and any("relative_attention_bias" in name for name in found)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-12)


def test_views_compare_the_decoders_posteriors_token_by_token():
    step, batch = step_of("t5", KIND, [spec("rpt", c=0.5, layers="words")], **DOUBLE), batch_of("t5", KIND)
    passes = passes_of(step, batch)
    real = batch.inputs["attention_mask"].bool()
    noise = step.noise.draw("rpt/words", passes.h("words"), real, batch.row_ids, 0)
    noise = 0.5 * noise / noise.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    noisy = passes.at("words", passes.h("words") + noise)
    p, q = (each.out["logits"].log_softmax(-1) for each in (passes, noisy))
    wanted = (p.exp() * (p - q)).sum(-1).mean()
    assert len(p) == int((batch.targets["labels"] != -100).sum())
    torch.testing.assert_close(step(batch).terms["rpt/reg"], wanted.detach(), rtol=1e-8, atol=0)
