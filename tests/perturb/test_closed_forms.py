"""The methods with passes, networks or derivatives of their own, each against an independent computation."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from mtrobust.errors import UserError
from mtrobust.perturb import Compose
from mtrobust.perturb.divergence import get_divergence
from tests.models.tiny import LAYERS
from tests.perturb.cells import batch_of, gradients, spec, step_of
from tests.perturb.test_methods import passes_of

DOUBLE = {"dropout": 0.0, "dtype": torch.float64}


def logits_from(passes, site):
    """The head's outputs as a function of the states at a site."""
    return lambda hidden: passes.at(site, hidden, dropout="shared").out


# --- jacobian ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["posteriors", "logits"])
@pytest.mark.parametrize("site", ["words", 1, LAYERS])
def test_exact_jacobian_equals_autograds_own(site, of):
    step = step_of("bert", "Classification", [spec("jacobian", layers=site, estimate="exact", of=of)], **DOUBLE)
    batch = batch_of("bert", "Classification")
    passes = passes_of(step, batch)
    outputs = logits_from(passes, site)
    pick = (lambda x: x) if of == "logits" else (lambda x: x.softmax(-1))
    full = torch.autograd.functional.jacobian(lambda h: pick(outputs(h)["logits"]), passes.h(site).detach())
    own = torch.stack([full[i, :, i] for i in range(len(full))])  # [B, C, T, d]: an example's own states
    real = batch.inputs["attention_mask"].bool()[:, None, :, None]
    expected = own.square().where(real, 0).sum() / len(full)
    assert torch.isclose(step(batch).terms["jacobian/reg"], expected, rtol=1e-9)


@pytest.mark.parametrize("task_type", ["Classification", "SpanClassification", "MaskLM"])
def test_projected_jacobian_is_unbiased(task_type):
    batch = batch_of("bert", task_type, rows=2)
    exact = step_of("bert", task_type, [spec("jacobian", estimate="exact")], **DOUBLE)(batch).terms["jacobian/reg"]
    step = step_of("bert", task_type, [spec("jacobian", draws=400)], **DOUBLE)
    assert float(step(batch).terms["jacobian/reg"]) == pytest.approx(float(exact), rel=0.15)


def test_weighted_jacobian_is_the_second_order_of_kl():
    """Eq. 7: D(f(x + e), f(x)) = g''(1)/2 * e^T J^T diag(1/f) J e for small e; its mean over directions of e."""
    step = step_of(
        "bert", "Classification", [spec("jacobian", layers=1, estimate="exact", weighted=True)], **DOUBLE
    )  # fmt: skip
    batch = batch_of("bert", "Classification")
    passes = passes_of(step, batch)
    hidden, real = passes.h(1).detach(), batch.inputs["attention_mask"].unsqueeze(-1)
    generator, sums = torch.Generator().manual_seed(0), 0.0
    for _ in range(300):
        noise = 1e-4 * torch.randn(hidden.shape, generator=generator, dtype=torch.float64) * real
        noisy = passes.at(1, hidden + noise)
        sums += get_divergence("kl")(passes.out["logits"], noisy.out["logits"]).mean().item()
    expected = 2 * sums / 300 / 1e-8
    assert float(step(batch).terms["jacobian/reg"]) == pytest.approx(expected, rel=0.1)


def test_jacobian_of_frozen_states():
    step = step_of("bert", "Classification", [spec("jacobian")], **DOUBLE)
    batch = batch_of("bert", "Classification")
    free = step(batch).terms["jacobian/reg"]
    for parameter in step.model.encoder.base.embeddings.parameters():
        parameter.requires_grad_(False)
    loss, grads = gradients(step, batch)
    assert torch.isfinite(loss) and grads
    assert torch.isclose(step(batch).terms["jacobian/reg"], free, rtol=1e-12)


# --- freelb -----------------------------------------------------------------------------------------------------------


def naive_freelb(step, batch, method, terms_of):
    """K retained graphs and one backward pass."""
    passes = passes_of(step, batch)
    hidden = passes.below("words")
    delta = method.start(passes, "words", hidden).requires_grad_(True)
    total = 0.0
    for _ in range(method.options.steps):
        branch = passes.at("words", hidden + delta, track=passes.tracked)
        terms = terms_of(branch)
        total = total + branch.share(terms) / method.options.steps
        (grad,) = torch.autograd.grad(branch.loss().total, delta, retain_graph=True)
        delta = method.ascend(passes, delta.detach(), grad).requires_grad_(True)
    step.zero_grad()
    total.backward()
    return total.detach(), {n: p.grad.clone() for n, p in step.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("others", [[], [spec("rpt", c=0.1)], [spec("smart", layers=1), spec("swep")], [spec("vda")]])
@pytest.mark.parametrize("task_type", ["Classification", "SpanClassification"])
def test_freelb_hands_over_what_k_retained_graphs_give(task_type, others):
    step = step_of("bert", task_type, [spec("freelb", step_size=0.5, max_norm=0.8), *others], **DOUBLE)
    batch = batch_of("bert", task_type)
    compose = step.methods[batch.task]
    rest = Compose({name: method for name, method in compose.methods.items() if name != "freelb"})
    loss, grads = gradients(step, batch)
    method = compose.methods["freelb"]
    expected, wanted = naive_freelb(step, batch, method, lambda branch: rest.forward(branch)[0])
    assert torch.isclose(loss, expected, rtol=1e-10)
    assert grads.keys() == wanted.keys()
    assert all(torch.allclose(grads[name], grad, rtol=1e-7, atol=1e-12) for name, grad in wanted.items())


def test_freelb_ascends_the_task_loss():
    batch = batch_of("bert", "Classification")
    one, many = (
        step_of("bert", "Classification", [spec("freelb", init=0.0, **options)], **DOUBLE)(batch)
        for options in ({"steps": 1}, {"steps": 4, "step_size": 0.3})
    )
    assert many.terms["task"] > one.terms["task"]


@pytest.mark.parametrize("site", ["words", 2])
def test_freelb_may_share_its_dropout_masks(site):
    """Without noise the passes then have one loss; with masks of their own they do not."""
    batch = batch_of("bert", "Classification")
    found = {}
    for dropout in ("shared", "independent"):
        options = {"layers": site, "init": 0.0, "step_size": 0.0, "dropout": dropout}
        step = step_of("bert", "Classification", [spec("freelb", **options)], dropout=0.3, dtype=torch.float64)
        losses = []
        method, passes = step.methods[batch.task].methods["freelb"], passes_of(step, batch)
        method.drive(
            passes, lambda branch, losses=losses: losses.append(branch.loss().total.item()) or {"task": branch.loss()}
        )
        found[dropout] = losses
    assert len(set(found["shared"])) == 1 and len(set(found["independent"])) == 3


def test_freelb_scales_gradients_as_a_loss_does():
    batch = batch_of("bert", "Classification")
    step = step_of("bert", "Classification", [spec("freelb")], **DOUBLE)
    _, grads = gradients(step, batch)
    step.zero_grad()
    (step(batch).loss * 8).backward()
    assert all(torch.allclose(p.grad, 8 * grads[n]) for n, p in step.named_parameters() if p.grad is not None)


def test_freelb_takes_along_what_is_above_its_site_only():
    with pytest.raises(UserError, match="perturb.rpt.layers: freelb starts its passes at 2: what lies below is not"):
        step_of("bert", "Classification", [spec("freelb", layers=2), spec("rpt", layers=1)])


# --- adv_aug ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task_type", ["Classification", "SpanClassification"])
def test_adv_aug_raises_its_objective_at_every_step(task_type):
    step = step_of("bert", task_type, [spec("adv_aug", step_size=0.01)], **DOUBLE)
    batch = batch_of("bert", task_type)
    passes = passes_of(step, batch)
    method = step.methods[batch.task].methods["adv_aug"]
    hidden, top = passes.h("words").detach(), passes.h(LAYERS).detach()
    values = []
    delta = torch.zeros_like(hidden)
    for _ in range(5):
        value, grad = passes.value_and_grad(lambda d: method.objective(passes, "words", hidden + d, top), delta)
        values.append(float(value))
        delta = delta + 0.01 * grad * passes.noise_mask.unsqueeze(-1)
    assert values == sorted(values) and values[-1] > values[0]
    assert torch.allclose(method.edit(passes, "words", hidden), hidden + delta, rtol=1e-9)
    assert step(batch).terms["adv_aug/noisy"] > step(batch).terms["task"]


# --- smix -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["words", 0, 2])
def test_smix_equals_its_formula(site):
    step = step_of("bert", "Classification", [spec("smix", layers=site, alpha=0.5)], **DOUBLE)
    batch = batch_of("bert", "Classification")
    passes = passes_of(step, batch)
    random = passes.random("smix")
    share, partner = random.betavariate(0.2, 0.2), random.sample(range(4), 4)
    hidden, mask = passes.h(site), batch.inputs["attention_mask"].unsqueeze(-1)
    if site == 2:
        mixed = hidden.clone()
        mixed[:, 0] = share * hidden[:, 0] + (1 - share) * hidden[partner, 0]
    else:
        both = share * hidden + (1 - share) * hidden[partner] * mask[partner]
        mixed = torch.where(mask.bool(), both, hidden)
    logits = passes.at(site, mixed).out["logits"]
    one_hot = functional.one_hot(batch.targets["labels"], 3).double()
    soft = share * one_hot + (1 - share) * one_hot[partner]
    expected = -(soft * logits.log_softmax(-1)).sum(-1).mean()
    out = step(batch)
    assert torch.isclose(out.terms["smix/mix"], expected)
    assert torch.isclose(out.loss, out.terms["task"] + 0.5 * expected)


def test_smix_layers_follow_the_depth():
    step = step_of("bert", "Classification", [spec("smix")])
    assert step.methods["classification"].methods["smix"].sites == [2, 3]  # 7, 9, 12 of 12 at a depth of 3


# --- rdrop, r3f -------------------------------------------------------------------------------------------------------


def test_rdrop_trains_both_passes():
    step = step_of("bert", "Classification", [spec("rdrop", alpha=2.0)], dropout=0.1)
    out = step(batch_of("bert", "Classification"))
    parts = out.terms["task"] / 2 + out.terms["rdrop/noisy"] / 2 + 2 * out.terms["rdrop/reg"]
    assert torch.isclose(out.loss.detach(), parts)
    assert out.terms["task"] != out.terms["rdrop/noisy"]


def test_rdrop_without_dropout_is_standard():
    batch = batch_of("bert", "Classification")
    plain = step_of("bert", "Classification", [], **DOUBLE)(batch).loss
    out = step_of("bert", "Classification", [spec("rdrop")], **DOUBLE)(batch)
    assert torch.isclose(out.loss, plain) and out.terms["rdrop/reg"] < 1e-15


@pytest.mark.parametrize(("noise", "size"), [("uniform", 0.1 / math.sqrt(3)), ("normal", 0.1)])
def test_r3f_noise_has_the_size_it_names(noise, size):
    step = step_of("bert", "Classification", [spec("r3f", eps=0.1, noise=noise)])
    passes = passes_of(step, batch_of("bert", "Classification"))
    delta = step.methods["classification"].methods["r3f"].delta(passes, "words", passes.below("words"))
    real = delta[passes.noise_mask.bool()]
    assert float(real.std()) == pytest.approx(size, rel=0.1) and abs(float(real.mean())) < 0.02
    assert noise == "normal" or float(real.abs().max()) <= 0.1


# --- dropouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gaussian_dropout", "bernoulli_dropout", "word_dropout", "prior_aug"])
def test_multiplicative_noise_has_the_moments_it_names(method):
    options = {"p": 0.3} | ({"clean": 0.0} if method == "prior_aug" else {})
    step = step_of("bert", "Classification", [spec(method, **options)])
    factors = []
    for number in range(60):
        passes = passes_of(step, batch_of("bert", "Classification", step=number))
        hidden = passes.below("words")
        edited = step.methods["classification"].methods[method].edit(passes, "words", hidden)
        factors.append((edited / hidden)[passes.noise_mask.bool()].detach())
    factor = torch.cat(factors)
    mean, variance = float(factor.mean()), float(factor.var())
    expected = {
        "gaussian_dropout": (1.0, 0.3 / 0.7),
        "bernoulli_dropout": (1.0, 0.3 / 0.7),
        "word_dropout": (0.7, 0.21),
        "prior_aug": (1.0, math.sqrt(0.3 / 0.7)),
    }[method]
    assert (mean, variance) == pytest.approx(expected, rel=0.04)
    if method == "word_dropout":
        assert set(factor.unique().tolist()) == {0.0, 1.0}
