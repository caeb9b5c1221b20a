"""SWEP's network, SMART's averaged weights, and options that would have no effect."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from mtrobust.errors import UserError
from mtrobust.perturb.smart import PRESETS
from tests.perturb.cells import batch_of, gradients, spec, step_of
from tests.perturb.test_methods import passes_of

DOUBLE = {"dropout": 0.0, "dtype": torch.float64}


# --- swep -------------------------------------------------------------------------------------------------------------


def shaken(step):
    """The step with a noise network that left its start."""
    torch.manual_seed(5)
    net = next(iter(step.owned.values()))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return step, net


@pytest.mark.parametrize("kl_weight", ["outside", "inside"])
@pytest.mark.parametrize("kl_reduction", ["mean", "sum"])
def test_swep_equals_its_formula(kl_weight, kl_reduction):
    options = {"clean": 0.3, "beta": 0.1, "variance": 0.5, "kl_weight": kl_weight, "kl_reduction": kl_reduction}
    step, net = shaken(step_of("bert", "SpanClassification", [spec("swep", **options)], **DOUBLE))
    batch = batch_of("bert", "SpanClassification")
    passes = passes_of(step, batch)
    mu, log_var = net(passes.tape.last).chunk(2, -1)
    real = batch.inputs["attention_mask"].bool()
    z = mu + (log_var / 2).exp() * step.noise.draw("swep/words", mu, real, batch.row_ids, 0)
    noisy = passes.at("words", torch.where(real.unsqueeze(-1), passes.h("words") * z, passes.h("words")))
    nll = [branch.loss().total / 4 for branch in (passes, noisy)]
    divergence = kl_divergence(Normal(mu, (log_var / 2).exp()), Normal(torch.ones_like(mu), 0.5**0.5)).sum(-1)[real]
    kl = divergence.mean() if kl_reduction == "mean" else divergence.sum() / 4
    weight = 0.1 * (0.7 if kl_weight == "inside" else 1)
    out = step(batch)
    assert torch.isclose(out.terms["swep/kl"], kl, rtol=1e-9)
    assert torch.isclose(out.loss, 0.3 * nll[0] + 0.7 * nll[1] + weight * kl, rtol=1e-9)


def test_a_final_branch_computes_what_the_head_reads_and_gives_the_same_loss():
    """Beside a clean pass that keeps the last states of all tokens."""
    step = step_of("bert", "Classification", [spec("adv_aug")], **DOUBLE)
    passes = passes_of(step, batch_of("bert", "Classification"))
    edited = passes.h("words") * 1.5
    whole, final = passes.at("words", edited), passes.at("words", edited, final=True)
    assert whole.tape.last.shape[1] > 1 == final.tape.last.shape[1]
    assert torch.allclose(whole.out["logits"], final.out["logits"], rtol=1e-9)
    with pytest.raises(ValueError, match="cannot share"):
        passes.at("words", edited, dropout="shared", final=True)


def test_the_constant_last_states_are_those_of_a_whole_pass():
    """Beside a clean pass that goes on with the first token alone."""
    step = step_of("bert", "Classification", [spec("swep")], **DOUBLE)
    batch = batch_of("bert", "Classification")
    passes = passes_of(step, batch)
    assert passes.tape.last.shape[1] == 1
    assert torch.allclose(passes.last_constant, step.model.encoder.record(batch.inputs).last, rtol=1e-10)
    assert not passes.last_constant.requires_grad
    edited = passes.at("words", passes.h("words") * 1.5, track=passes.tracked)
    whole = step.model.encoder.replay(passes.tape, "words", passes.h("words") * 1.5).last
    assert torch.allclose(edited.last_constant, whole, rtol=1e-10)


def test_swep_network_starts_at_the_prior_and_learns():
    step = step_of("bert", "Classification", [spec("swep")], dropout=0.0)
    (net,) = step.owned.values()
    assert sum(p.numel() for p in net.parameters()) == 3 * 16**2 + 3 * 16
    out = step(batch_of("bert", "Classification"))
    assert float(out.terms["swep/kl"]) == pytest.approx(0, abs=1e-5) and float(out.stats["swep/mu"]) == 1
    assert float(out.stats["swep/sigma"]) == pytest.approx(math.sqrt(1 / 3), rel=1e-5)  # sqrt(v), v = sqrt(.1 / .9)
    _, grads = gradients(step, batch_of("bert", "Classification"))
    assert any(name.startswith("owned.") and grad.abs().sum() > 0 for name, grad in grads.items())


def test_swep_network_may_start_as_torch_has_it():
    step = step_of("bert", "Classification", [spec("swep", init="plain")], dropout=0.0)
    out = step(batch_of("bert", "Classification"))
    assert abs(float(out.stats["swep/mu"])) < 0.5 and out.terms["swep/kl"] > 5


def test_swep_sends_no_gradient_of_the_noise_into_the_encoder_pass_it_reads():
    step, net = shaken(step_of("bert", "Classification", [spec("swep")], **DOUBLE))
    passes = passes_of(step, batch_of("bert", "Classification"))
    mu, log_var = step.methods["classification"].methods["swep"].posterior(passes)
    kl = step.methods["classification"].methods["swep"].kl(mu, log_var).sum()
    found = torch.autograd.grad(kl, list(step.model.encoder.parameters()), allow_unused=True)
    assert all(grad is None for grad in found)


def test_ablations_of_swep():
    batch = batch_of("bert", "Classification")
    real = batch.inputs["attention_mask"].bool()

    def made(ablation):
        step, net = shaken(step_of("bert", "Classification", [spec("swep", ablation=ablation)], **DOUBLE))
        passes = passes_of(step, batch)
        method = step.methods["classification"].methods["swep"]
        mu, log_var = method.posterior(passes)
        return step(batch), passes, method, mu, log_var, net(passes.last_constant).chunk(2, -1)

    out, passes, method, mu, log_var, _ = made("additive")
    delta = method.delta(passes, "words", passes.h("words"), mu, log_var)
    draw = passes.draw("swep/words", mu)
    assert torch.allclose(delta[real], (mu + (log_var / 2).exp() * draw)[real])
    prior = Normal(torch.zeros_like(mu), method.variance**0.5)
    expected = kl_divergence(Normal(mu, (log_var / 2).exp()), prior).sum(-1)[real].mean()
    assert torch.isclose(out.terms["swep/kl"], expected)

    _, _, _, mu, log_var, (_, learned) = made("fixed_mu")
    assert (mu == 1).all() and torch.equal(log_var, learned)
    _, _, _, mu, log_var, (learned, _) = made("fixed_sigma")
    assert (log_var == 0).all() and torch.equal(mu, learned)

    _, passes, method, mu, log_var, _ = made("no_epsilon")
    delta = method.delta(passes, "words", passes.h("words"), mu, log_var)
    assert torch.allclose((passes.h("words") + delta)[real], (passes.h("words") * mu)[real])

    assert set(made("no_kl")[0].terms) == {"task", "swep/noisy"}
    out = made("no_clean")[0]
    assert set(out.terms) == {"swep/noisy", "swep/kl"}
    # The noisy loss keeps its weight: 1 - lambda, as in the full objective.
    assert torch.isclose(out.loss, 0.5 * out.terms["swep/noisy"] + out.terms["swep/kl"])


def test_beta_falls_to_zero():
    step, _ = shaken(step_of("bert", "Classification", [spec("swep", beta=2.0, beta_steps=10)], **DOUBLE))
    method = step.methods["classification"].methods["swep"]
    weights = [method.beta(passes_of(step, batch_of("bert", "Classification", step=n))) for n in (0, 5, 10, 20)]
    assert weights == [2.0, 1.0, 0.0, 0.0]


# --- smart ------------------------------------------------------------------------------------------------------------


def test_bregman_follows_the_weights_once_a_step():
    step = step_of("bert", "Classification", [spec("smart", bregman=0.75, mu=0.5)], **DOUBLE)
    averaged = step.methods["classification"].methods["smart"].averaged
    source = step.model.encoder.word_embeddings.weight
    copied = averaged.copy["encoder"].word_embeddings.weight
    out = step(batch_of("bert", "Classification", step=0))
    assert float(out.terms["smart/proximal"]) == pytest.approx(0, abs=1e-14) and torch.equal(copied, source)
    start = source.detach().clone()
    with torch.no_grad():
        source.copy_(source + torch.randn_like(source))
    for _ in range(2):  # two micro-batches of one step
        out = step(batch_of("bert", "Classification", step=1))
    assert torch.allclose(copied, start + 0.25 * (source.detach() - start))
    assert out.terms["smart/proximal"] > 1e-6
    parts = out.terms["task"] + out.terms["smart/reg"] + 0.5 * out.terms["smart/proximal"]
    assert torch.isclose(out.loss.detach(), parts)


def test_bregman_follows_a_count_that_begins_again():
    step = step_of("bert", "Classification", [spec("smart", bregman=0.75)], **DOUBLE)
    copied = step.methods["classification"].methods["smart"].averaged.copy["encoder"].word_embeddings.weight
    source = step.model.encoder.word_embeddings.weight
    for number, moves in [(0, False), (1, True), (2, True), (0, True), (0, False), (1, True)]:
        before = copied.detach().clone()
        with torch.no_grad():
            source.add_(1.0)
        step(batch_of("bert", "Classification", step=number))
        assert torch.allclose(copied, before + (0.25 if moves else 0.0) * (source.detach() - before))


def test_bregman_is_saved_and_never_trains():
    step = step_of("bert", "Classification", [spec("smart", bregman=0.9)])
    saved = step.state_dict()
    assert any(name.startswith("owned.") and "word_embeddings" in name for name in saved)
    assert not any(p.requires_grad for name, p in step.named_parameters() if name.startswith("owned."))
    _, grads = gradients(step, batch_of("bert", "Classification"))
    assert not any(name.startswith("owned.") for name in grads)


def test_presets_of_smart():
    def options(**given):
        return (
            step_of("bert", "Classification", [spec("smart", **given)])
            .methods["classification"]
            .methods["smart"]
            .options
        )

    mtdnn, published = options(preset="mtdnn"), options(preset="published")
    assert (mtdnn.noise_std, mtdnn.gradient, mtdnn.radius, mtdnn.divergence) == (1e-5, "raw", "renorm", "sym_kl_fixed")
    assert published.radius == "project" and published.epsilon == 1e-5
    assert published.noise_std == pytest.approx(math.sqrt(1e-5))
    assert options(preset="mtdnn", noise_std=0.1).noise_std == 0.1
    renormed = options(preset="published", radius="renorm")
    assert renormed.radius == "renorm" and renormed.noise_std == published.noise_std
    assert set(PRESETS) == {"mtdnn", "published"}


# --- options without effect -------------------------------------------------------------------------------------------

IN_VAIN = [
    ("rapt", {"sigma": 1.0}, "sigma: without effect with norm: example"),
    ("smart", {"epsilon": 1.0}, "epsilon: without effect with radius: renorm"),
    ("smart", {"mu": 1.0}, "mu: without effect without bregman"),
    ("jacobian", {"estimate": "exact", "draws": 2}, "draws: without effect with estimate: exact"),
    ("jacobian", {"of": "logits", "weighted": True}, "weighted: weighs posteriors .* not with of: logits"),
    ("swep", {"ablation": "no_kl", "beta": 2.0}, "beta: without effect with ablation: no_kl"),
    ("swep", {"ablation": "no_clean", "clean": 0.2}, "clean: without effect with ablation: no_clean"),
    ("swep", {"variance": 0.1, "p": 0.2}, "p: without effect when variance is a number"),
    ("prior_aug", {"variance": 0.1, "p": 0.2}, "p: without effect when variance is a number"),
    ("vda", {"mixture": "eq4", "top_k": 10}, "top_k: mixture: eq4 is nearly uniform and needs all words .allowed: 0."),
    (
        "vda",
        {"top_k": 0, "cache_mib": 8},
        "cache_mib: keeps the likeliest words only .allowed: 0",
    ),
    ("vda", {"take": "argmax", "sigma": 0.1}, "sigma: without effect with take: argmax"),
    ("vda", {"take": "argmax", "top_k": 5}, "top_k: without effect with take: argmax"),
    ("swep", {"ablation": "no_kl", "init": "plain", "p": 0.2}, "p: without effect with ablation: no_kl and init"),
    ("freelb", {"steps": 1, "max_norm": 0.2}, "max_norm: without effect with steps: 1"),
    ("vda", {"objective": "labels", "divergence": "kl"}, "divergence: without effect with objective: labels"),
    ("vda", {"samples": 2, "sigma": 0.0}, "samples: 2: without noise all would be the same"),
]


@pytest.mark.parametrize(("method", "options", "message"), IN_VAIN)
def test_options_without_effect_are_refused(method, options, message):
    with pytest.raises(UserError, match=rf"perturb\.{method}\.{message}"):
        step_of("bert", "Classification", [spec(method, **options)])


def test_one_driver_at_most(monkeypatch):
    from mtrobust.perturb.base import METHODS
    from mtrobust.perturb.freelb import Freelb

    monkeypatch.setitem(METHODS._items, "other", type("Other", (Freelb,), {"name": "other"}))
    with pytest.raises(UserError, match="perturb: freelb, other: each makes passes of its own .* name one"):
        step_of("bert", "Classification", [spec("freelb"), spec("other")])
