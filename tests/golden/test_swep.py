"""Recorded SWEP and its baselines, each recorded field compared by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtrobust.perturb import Compose, Perturbation
from mtrobust.perturb.bernoulli_dropout import BernoulliDropout
from mtrobust.perturb.gaussian_dropout import GaussianDropout
from mtrobust.perturb.prior_aug import PriorAug
from mtrobust.perturb.swep import Swep
from mtrobust.perturb.word_dropout import WordDropout
from tests.golden.exemptions import Ledger
from tests.golden.fixtures import Comparison, Fixture, WatchedPasses, cases, method_of, recorded

P = 0.1  # the dropout probability of all recorded cases
ODDS = P / (1 - P)
PRIORS = {
    "repo_var_sqrt_p_over_1mp": {"p": P, "variance": "code"},
    "paper_var_alpha_p_over_1mp": {"variance": ODDS},
    "paper_sec3p4_std_alpha": {"variance": ODDS**2},
}
BASELINES: dict[str, tuple[type[Perturbation], dict[str, Any], str]] = {
    "gaussian_var_p_over_1mp": (GaussianDropout, {"p": P}, "z_swep"),
    "gaussian_var_1mp_over_p_literal_baseline_text": (GaussianDropout, {"p": 1 - P}, "z_swep"),
    "bernoulli_scaled": (BernoulliDropout, {"p": P}, "bern_u_embed"),
    "bernoulli_unscaled": (BernoulliDropout, {"p": P, "scaled": False}, "bern_u_embed"),
    "word_dropout_zero": (WordDropout, {"p": P}, "bern_u_tok"),
    "prior_aug_var_repo_sqrt": (PriorAug, {"p": P, "variance": "code"}, "z_swep"),
    "prior_aug_var_alpha": (PriorAug, {"variance": ODDS}, "z_swep"),
    "prior_aug_std_alpha": (PriorAug, {"variance": ODDS**2}, "z_swep"),
}


def swep(golden: Path, fixture: Fixture, **options: Any) -> Swep:
    """The method with the recorded network."""
    method = method_of(Swep, fixture, **options)
    net = method.module(fixture.encoder, fixture.heads)
    with np.load(golden / "fixtures" / "heads.npz") as file:
        prefix = "noise_net_"
        weights = {k.removeprefix(prefix).replace("_", "."): file[k] for k in file.files if k.startswith(prefix)}
    net.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    net.to(fixture.encoder.word_embeddings.weight.dtype)
    return method


def step(fixture: Fixture, method: Perturbation, noise: str = "z_swep", task: str = "span") -> tuple[Any, ...]:
    """(passes, each term's mean, the step's loss)."""
    compose = Compose({"m": method})
    passes = fixture.passes(task, fixture.noise[noise], compose)
    terms, _ = compose.forward(passes)
    return passes, passes.means(terms), passes.share(terms)


def test_swep(golden: Path, fixture: Fixture) -> None:
    arrays = recorded(golden, "swep", "swep")
    comparison = Comparison(Ledger("encoder/swep"), arrays)
    method = swep(golden, fixture)
    passes, means, total = step(fixture, method)
    mu, log_var = method.posterior(passes)
    values = {
        "hidden": passes.tape.last,
        "mu": mu,
        "logvar": log_var,
        "noise": mu + (0.5 * log_var).exp() * fixture.noise["z_swep"],
        "nll_clean": means["task"],
        "nll_noisy": means["m/noisy"],
        "loss_half_nll_plus_noisy": (means["task"] + means["m/noisy"]) / 2,
        "kl": means["m/kl"],
        "total_beta1": total,
        **fixture.gradients("span", total),
    }
    (_, delta, noisy), hidden = passes.edits[-1], passes.h("words")
    assert torch.allclose(hidden + delta, hidden * values["noise"])
    for side, branch in (("clean", passes), ("noisy", noisy)):
        values.update({f"{name}_{side}": logits for name, logits in branch.out.items()})
    net = dict(method.net.named_parameters())
    for name, grad in zip(net, torch.autograd.grad(total, list(net.values()), retain_graph=True), strict=True):
        values[f"grad/noise_net.{name}"] = grad
    for part in ("weight", "bias"):
        values[f"grad/bert_model.qa_outputs.{part}"] = values[f"grad_head_{part}"]
    reached = torch.autograd.grad(means["m/kl"], list(fixture.encoder.parameters()), allow_unused=True)
    values["kl_has_gradient_to_encoder"] = float(any(grad is not None for grad in reached))
    for field, value in values.items():
        comparison.check(f"swep/repo/{field}", value, 1e-7)
    narrow = Fixture.load(golden, torch.float32)
    _, single, _ = step(narrow, swep(golden, narrow))
    for field, value in {
        "nll_clean": single["task"],
        "nll_noisy": single["m/noisy"],
        "loss_half_nll_plus_noisy": (single["task"] + single["m/noisy"]) / 2,
        "kl": single["m/kl"],
    }.items():
        comparison.check(f"swep/repo/{field}_fp32", value, 1e-4)
    comparison.check("swep/objective/repo", total, 1e-7)
    for match in cases(arrays, r"swep/objective/paper_eq4_lambda(\d+p\d+)_beta(\d+(?:p\d+)?)_with_repo_kl"):
        share, beta = (float(number.replace("p", ".")) for number in match.groups())
        inside = swep(golden, fixture, clean=share, beta=beta, kl_weight="inside")
        comparison.check(match[0], step(fixture, inside)[2], 1e-7)
    for match in cases(arrays, r"swep/kl_variants/(\w+)"):
        if match[1] in PRIORS:  # the ledger names any other
            check_prior(comparison, match[0], golden, fixture, PRIORS[match[1]])
    comparison.close()


def check_prior(comparison: Comparison, key: str, golden: Path, fixture: Fixture, prior: dict[str, Any]) -> None:
    mean, total = (swep(golden, fixture, **prior, kl_reduction=name) for name in ("mean", "sum"))
    passes, means, _ = step(fixture, mean)
    each = mean.kl(*mean.posterior(passes))
    real = passes.batch.inputs["attention_mask"]
    comparison.check(f"{key}/prior_variance", mean.variance, 1e-7)
    comparison.check(f"{key}/per_token", each, 1e-7)
    comparison.check(f"{key}/mean_over_nonpad_tokens", means["m/kl"], 1e-7)
    comparison.check(f"{key}/mean_over_all_tokens_incl_pad", each.mean(), 1e-7)
    comparison.check(f"{key}/sum_over_nonpad_tokens_per_example", (each * real).sum(1), 1e-7)
    comparison.check(f"{key}/mean_over_examples_of_sum", step(fixture, total)[1]["m/kl"], 1e-7)


def kept(passes: WatchedPasses) -> Tensor:
    """The share of entries that the edit left in place, of the whole padded batch."""
    _, delta, _ = passes.edits[-1]
    return (passes.below("words") + delta != 0).double().mean()


def test_baselines(golden: Path, fixture: Fixture) -> None:
    arrays = recorded(golden, "swep", "baselines")
    comparison = Comparison(Ledger("encoder/swep"), arrays)
    for match in cases(arrays, r"baselines/(\w+)"):
        if match[1] not in BASELINES:
            continue  # the ledger names it, unless it is exempt
        key, (kind, options, noise) = match[0], BASELINES[match[1]]
        passes, means, _ = step(fixture, method_of(kind, fixture, **options, clean=0.0), noise)
        comparison.check(f"{key}/nll_noisy", means["m/noisy"], 1e-7)
        comparison.check(f"{key}/keep_fraction", kept(passes), 1e-7)
        for name, logits in passes.edits[-1][2].out.items():
            comparison.check(f"{key}/{name}", logits, 1e-7)
        half = step(fixture, method_of(kind, fixture, **options, clean=0.5), noise)[2]
        comparison.check(f"{key}/half_sum_with_clean", half, 1e-7)
        passes, *_ = step(fixture, method_of(kind, fixture, **options, clean=0.0), noise, "cls")
        comparison.check(f"{key}/cls_logits", passes.edits[-1][2].out["logits"], 1e-7)
    comparison.close()
