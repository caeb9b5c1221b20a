"""Recorded VDA: its mixtures and losses, and FreeLB, SMART and SMix of its code, each recorded field compared by name.

What the released code does otherwise than our methods is built here from their public pieces.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtrobust.perturb import Compose, Passes, Term
from mtrobust.perturb.freelb import Freelb
from mtrobust.perturb.noise import project_linf
from mtrobust.perturb.smart import Smart
from mtrobust.perturb.smix import Smix
from mtrobust.perturb.vda import Vda
from tests.golden.exemptions import Ledger
from tests.golden.fixtures import Comparison, Fixture, WatchedPasses, as_divergence, cases, method_of, recorded
from tests.golden.test_divergences import FORMS

FIELDS = ("mixture$", "entropy", "max_prob", "kl_to_uniform", "target_model_embeddings", "mlm_embeddings")
RADIUS = 0.02  # of the noise of FreeLB and SMART in VDA's code
SITE = "embeddings"  # and where they add it: after positions, types and the norm
HALF_MEAN = as_divergence(FORMS["vda_symkl"])


def vda(fixture: Fixture, mlm: Path, **options: Any) -> Vda:
    """The method with the recorded masked language model in float64."""
    method = method_of(Vda, fixture, mlm=str(mlm), **options)
    method.lm.model.double()
    return method


def released(fixture: Fixture, mlm: Path) -> Vda:
    return vda(fixture, mlm, mixture="repo", factor="half_mean")


def mean(passes: Passes, term: Term) -> Tensor:
    return passes.means({"term": term})["term"]


def test_vda(golden: Path, fixture: Fixture, mlm: Path) -> None:
    arrays = recorded(golden, "vda", "vda")
    comparison = Comparison(Ledger("encoder/vda"), arrays)
    method = released(fixture, mlm)
    passes = fixture.passes("cls", fixture.noise["z_mlm"], method)
    divergence = mean(passes, *method.forward(passes).values())
    task = mean(passes, passes.loss())
    logits = method.lm.logits(passes.batch.inputs)
    comparison.check("vda/mlm_logits", logits, 1e-6)
    comparison.check("vda/mlm_logit_sum", logits.sum(-1), 1e-6)
    for field, value in {
        "ce_loss": task,
        "kl_loss": divergence,
        "total_loss": task + divergence,
        "clean_logits": passes.out["logits"],
        "virtual_logits": passes.edits[-1][2].out["logits"],
        **fixture.gradients("cls", task + divergence),
    }.items():
        comparison.check(f"vda/repo/{field}", value, 1e-6)
    for match in cases(arrays, rf"vda/mixture/(.+?)(?=/(?:{'|'.join(FIELDS)}))"):  # names may hold a slash
        check_mixture(comparison, match[0], fixture, mlm, **mixture_options(match[1]))
    comparison.close()


def mixture_options(variant: str) -> dict[str, Any]:
    """Our options for the name of a recorded mixture."""
    kind = next(ours for part, ours in (("repo", "repo"), ("paper", "eq4"), ("p", "log_posterior")) if part in variant)
    sigma = re.search(r"sigma_(\d+\.\d+)", variant)
    silent = re.match(r"noiseless|.*no_noise$|mlm_p$", variant)
    return {"mixture": kind, "sigma": 0.0 if silent else float(sigma[1]) if sigma else 0.05, "top_k": 0}


def check_mixture(comparison: Comparison, key: str, fixture: Fixture, mlm: Path, **options: Any) -> None:
    for table, ours in (("target_model_embeddings", "encoder"), ("mlm_embeddings", "mlm")):
        for field, factor in (("symkl_sum_batchmean", "sum"), ("repo_symkl_0p5_elementmean", "half_mean")):
            method = vda(fixture, mlm, **options, embeddings=ours, factor=factor)
            passes = fixture.passes("cls", fixture.noise["z_mlm"], method)
            comparison.check(f"{key}/{table}/{field}", mean(passes, method.at_site(passes, "words")), 1e-6)
            _, delta, virtual = passes.edits[-1]
            comparison.check(f"{key}/{table}/virtual_embeddings", passes.h("words") + delta, 1e-6)
            comparison.check(f"{key}/{table}/virtual_logits", virtual.out["logits"], 1e-6)
    _, weights = method.weights(passes, 0)
    if f"{key}/mixture" in comparison.recorded:  # of the first rows only
        comparison.check(f"{key}/mixture", weights[: len(comparison.recorded[f"{key}/mixture"])], 1e-6)
    for field, value in statistics(weights[passes.batch.inputs["attention_mask"].bool()]).items():
        comparison.check(f"{key}/{field}_mean", value, 1e-6)
        comparison.check(f"{key}/{field}", value, 1e-6)


def statistics(weights: Tensor) -> dict[str, Tensor]:
    """How close mixtures [n, V] are to uniform, in nats; means over n."""
    words = weights.shape[-1]
    entropy, largest = torch.special.entr(weights).sum(-1).mean(), weights.amax(-1).mean()
    return {
        "entropy": entropy,
        "entropy_ratio_to_logV": entropy / np.log(words),
        "kl_to_uniform": np.log(words) - entropy,
        "max_prob": largest,
        "max_prob_times_V": largest * words,
    }


class ReleasedFreelb(Freelb):
    """FreeLB in VDA's code: the noise, of no size but its entries', is added to the already moved embedding, and one
    norm runs over the whole batch."""

    def start(self, passes: Passes, site: Any, hidden: Tensor) -> Tensor:
        self.noises, self.gradients = [self.options.init * (2 * passes.draw("freelb", hidden, "uniform") - 1)], []
        return self.noises[-1]

    def ascend(self, passes: Passes, delta: Tensor, grad: Tensor) -> Tensor:
        self.gradients.append(grad / len(passes.batch.row_ids))
        moved = self.noises[-1] + self.options.step_size * grad / grad.norm()
        self.noises.append(project_linf(moved, passes.noise_mask, RADIUS))
        return delta + self.noises[-1]


def freelb(fixture: Fixture, mlm: Path, steps: int) -> tuple[ReleasedFreelb, list[dict[str, Tensor]], Tensor]:
    """(the method after a step, each pass's means, a scalar with the gradients of all passes)."""
    method, virtual = method_of(ReleasedFreelb, fixture, layers=SITE, steps=steps, init=RADIUS), released(fixture, mlm)
    passes = fixture.passes("cls", {"freelb": fixture.noise["u_freelb"], "vda": fixture.noise["z_mlm"]},
                            Compose({"freelb": method, "vda": virtual}))  # fmt: skip
    passes.trained = lambda: [*fixture.encoder.parameters(), *fixture.heads["cls"].parameters()]
    each: list[dict[str, Tensor]] = []

    def loss(branch: Passes) -> dict[str, Term]:
        terms, _ = Compose({"vda": virtual}).forward(branch)
        each.append({name: value.detach() for name, value in branch.means(terms).items()})
        return terms

    method.drive(passes, loss)
    return method, each, torch.stack(passes.handed).sum()


def test_freelb(golden: Path, fixture: Fixture, mlm: Path) -> None:
    arrays = recorded(golden, "vda", "freelb")
    comparison = Comparison(Ledger("encoder/vda"), arrays)
    for match in cases(arrays, r"freelb/repo\.step(\d+)"):
        key, steps = match[0], int(match[1])
        _, each, handed = freelb(fixture, mlm, steps)
        losses = torch.stack([means["task"] for means in each])
        comparison.check(f"{key}/ce_per_step", losses, 1e-6)
        comparison.check(f"{key}/sum_ce_over_steps", losses.sum(), 1e-6)
        comparison.check(f"{key}/last_step_kl", each[-1]["vda/reg"], 1e-6)
        for field, value in fixture.gradients("cls", steps * handed).items():  # ours is the mean over the passes
            comparison.check(f"{key}/{field}", value, 1e-6)
        onward, *_ = freelb(fixture, mlm, steps + 1)  # the released code ascends after its last pass too
        comparison.check(f"{key}/noise_per_step", torch.stack(onward.noises[:-1]), 1e-6)
        comparison.check(f"{key}/noise_grad_per_step", torch.stack(onward.gradients), 1e-6)
        comparison.check(f"{key}/noise_after_update", onward.noises[-1], 1e-6)
    comparison.close()


class ReleasedSmart(Smart):
    """SMART in VDA's code: one norm over the whole batch, for the gradient of the divergence's mean."""

    def ascend(self, passes: Passes, site: Any, delta: Tensor) -> Tensor:
        self.grad = self.gradient(passes, site, delta) / len(passes.batch.row_ids)
        self.inner_value = passes.stats["inner"]
        return self.bound(delta + self.options.step_size * self.grad / self.grad.norm(), passes.noise_mask)


def test_smart(golden: Path, fixture: Fixture, mlm: Path) -> None:
    arrays = recorded(golden, "vda", "smart")
    comparison = Comparison(Ledger("encoder/vda"), arrays)
    smart = method_of(ReleasedSmart, fixture, HALF_MEAN, layers=SITE, noise_std=RADIUS, step_size=1e-3,
                      radius="project", epsilon=RADIUS)  # fmt: skip
    compose = Compose({"smart": smart, "vda": released(fixture, mlm)})
    passes = fixture.passes("cls", {"smart": fixture.noise["z_embed"], "vda": fixture.noise["z_mlm"]}, compose)
    terms, _ = compose.forward(passes)
    means = passes.means(terms)
    start, final = [delta for _, delta, _ in passes.edits][:2]
    for field, value in {
        "noise_init": start,
        "noise_grad": smart.grad,
        "noise_final": final,
        "inner_loss": smart.inner_value,
        "ce_loss": means["task"],
        "smooth_loss": means["smart/reg"],
        "vda_loss": means["vda/reg"],
        **fixture.gradients("cls", passes.share(terms)),
    }.items():
        comparison.check(f"smart_in_vda_repo/{field}", value, 1e-6)
    comparison.close()


class ReleasedSmix(Smix):
    """SMix in VDA's code: the second text is read with the first one's attention mask and token types."""

    def mix(self, passes: Passes, site: Any, share: float, partner: list[int]) -> Tensor:
        inputs = {**passes.batch.inputs, "input_ids": passes.batch.inputs["input_ids"][partner]}
        other = WatchedPasses(passes.encoder, passes.head, dataclasses.replace(passes.batch, inputs=inputs),
                              passes.noise, passes.needs, passes.noise_mask)  # fmt: skip
        if site in ("words", 0):
            return share * passes.h(site) + (1 - share) * other.h(site)
        first = share * passes.h(site)[:, :1] + (1 - share) * other.h(site)[:, :1]
        return torch.cat((first, passes.h(site)[:, 1:]), 1)


def label_entropy(passes: Passes, share: float, partner: list[int]) -> Tensor:
    """Of the mixed labels, mean over rows: what a KL to a posterior is smaller by than a cross-entropy."""
    labels, classes = passes.batch.targets["labels"], passes.out["logits"].shape[1]
    hot = torch.nn.functional.one_hot(labels, classes).double()
    return torch.special.entr(share * hot + (1 - share) * hot[partner]).sum(-1).mean()


def test_smix(golden: Path, fixture: Fixture, mlm: Path) -> None:
    arrays = recorded(golden, "vda", "smix")
    comparison = Comparison(Ledger("encoder/vda"), arrays)
    share, partner = float(fixture.noise["smix_lambda"]), fixture.noise["smix_perm"].long()
    for match in cases(arrays, r"smix/(repo|own_masks)\.mix_layer(\d+)"):
        key, own, layer = match[0], match[1] == "own_masks", int(match[2])
        smix, virtual = method_of(Smix if own else ReleasedSmix, fixture, layers=layer), released(fixture, mlm)
        compose = Compose({"smix": smix, "vda": virtual})
        passes = fixture.passes("cls", fixture.noise["z_mlm"], compose)
        soft = mean(passes, smix.at_site(passes, layer, share, partner.tolist()))
        mixed = passes.edits[-1][2]
        apart = soft - label_entropy(passes, share, partner.tolist())
        clean, divergence = mean(passes, passes.loss()), mean(passes, virtual.at_site(passes, "words"))
        # The released term compares the virtual text with the mixed one, where VDA has the clean one.
        crossed = mean(passes, passes.diff(HALF_MEAN, mixed, passes.edits[-1][2]))
        assert mean(passes, virtual.compare(passes, passes.edits[-1][2])).isclose(divergence)
        total = clean + apart + crossed
        for field, value in {
            "mixed_logits": mixed.out["logits"],
            "clean_logits": passes.out["logits"],
            "loss_mix_soft_ce": soft,
            "loss_mix_kl": apart,
            "loss_mix": apart,
            "loss_clean_ce": clean,
            "loss_vda": crossed,
            "lam": share,
            "perm": partner,
            "total_single_sentence_script": clean + apart,
            "total_pair_script": total,
            **({} if own else fixture.gradients("cls", clean + apart)),
        }.items():
            comparison.check(f"{key}/{field}", value, 1e-6)
    comparison.close()
