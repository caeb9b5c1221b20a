"""Recorded passes, RAPT, SMART and RPT of reference implementations, each recorded field compared by name."""

from __future__ import annotations

from pathlib import Path

import torch

from mtrobust.perturb.base import Passes
from mtrobust.perturb.rapt import Rapt
from mtrobust.perturb.smart import Smart
from tests.golden.exemptions import Ledger
from tests.golden.fixtures import Comparison, Fixture, as_divergence, cases, method_of, recorded
from tests.golden.reference_losses import LogOdds
from tests.golden.test_divergences import FORMS

DIVERGENCES = {
    "kl_noisy_clean": "reverse_kl",
    "kl_clean_noisy": "kl",
    "kl": "kl",
    "symkl_sum": "sym_kl",
    "jsd": "jsd",
    "shl": "shl",
}


def run(method, passes):
    """The method's one term, weighted as in the loss, over the batch's items."""
    (term,) = method.forward(passes).values()
    return term.total / len(passes.batch.row_ids)


def test_clean(golden: Path, fixture: Fixture) -> None:
    arrays = recorded(golden, "clean")
    comparison = Comparison(Ledger("encoder/clean"), arrays)
    narrow = Fixture.load(golden, torch.float32)
    layers = fixture.encoder.num_layers
    tape = fixture.encoder.record(fixture.batches["cls"].inputs, range(layers + 1))
    states = torch.stack([tape.h[site] for site in range(layers + 1)])
    comparison.check("clean/embedding_output", states[0], 1e-9)
    comparison.check("clean/hidden_states", states, 1e-9)
    comparison.check("clean/pooled", tape.pooled, 1e-9)
    outputs = {"cls": {"logits": "cls_logits"}, "reg": {"logits": "reg_output"},
               "span": {"start_logits": "start_logits", "end_logits": "end_logits"}}  # fmt: skip
    for task, names in outputs.items():
        passes = fixture.passes(task, fixture.noise["z_embed"])
        for ours, theirs in names.items():
            comparison.check(f"clean/{theirs}", passes.out[ours], 1e-9)
            single = narrow.passes(task, narrow.noise["z_embed"]).out[ours]
            comparison.check(f"clean/{theirs}_fp32", single, 1e-4, 1e-6)
        loss = passes.loss().total / len(passes.batch.row_ids)
        comparison.check(f"clean/loss_{task}", loss, 1e-9)
        for field, value in fixture.gradients(task, loss).items():
            comparison.check(f"clean/{task}/{field}", value, 1e-9)
    comparison.close()


def test_rapt(golden: Path, fixture: Fixture) -> None:
    arrays = recorded(golden, "rapt")
    comparison = Comparison(Ledger("encoder/rapt"), arrays)
    comparison.check("rapt/raw_noise_sigma2_1e-5", fixture.noise["z_rapt"] * 1e-5**0.5, 1e-7)
    variants = {
        "token_inf": {"norm": "token"},
        "sequence_inf": {"norm": "example"},
        "sequence_inf_nonpad": {"norm": "example"},
        "text_eta_times_raw": {"norm": "none", "sigma": 1e-5**0.5},
        "text_eta_times_algorithm_sequence_inf": {"norm": "example", "eta": 4.0},  # eta applied twice
    }
    for match in cases(arrays, r"rapt/layer(\d+)\.(\w+)"):
        key, layer, variant = match[0], int(match[1]), match[2]
        options = {"layers": layer, **variants[variant]}
        for task, tail, divergence in [
            *(("cls", f"cls.{name}", ours) for name, ours in DIVERGENCES.items()),
            *(("span", f"span.{name}", ours) for name, ours in DIVERGENCES.items()),
            ("reg", "regression.mse", "kl"),
        ]:
            for detach, side in ((None, ""), (True, ".clean_detached"), (False, ".both_sides")):
                method = method_of(Rapt, fixture, **options, divergence=divergence, detach_clean=detach)
                nonpad = variant == "sequence_inf_nonpad"
                passes = fixture.passes(task, fixture.noise["z_rapt"], method, padding=not nonpad)
                if side and f"{key}/{tail}{side}/gradnorm_encoder" not in arrays:
                    continue
                reg = run(method, passes)
                total = reg + passes.loss().total / len(passes.batch.row_ids)
                if side:
                    for field, value in fixture.gradients(task, total).items():
                        comparison.check(f"{key}/{tail}{side}/{field}", value, 1e-7)
                    continue
                comparison.check(f"{key}/{tail}/reg", reg, 1e-7)
                comparison.check(f"{key}/{tail}/total", total, 1e-7)
                _, delta, noisy = passes.edits[-1]
                real = passes.batch.inputs["attention_mask"].bool().numpy()
                comparison.check(f"{key}/delta", delta, 1e-7, where=real if nonpad else None)
                for name, logits in noisy.out.items():
                    whole = {"cls": "cls_logits_noisy", "reg": "reg_noisy", "span": f"{name}_noisy"}[task]
                    comparison.check(f"{key}/{whole}", logits, 1e-7)
    comparison.close()


class MtdnnSmart(Smart):
    """SMART with MT-DNN's own inner loss for classes: a difference of log-odds, noisy side first. Keeps each step."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.moved: list[torch.Tensor] = []

    def bound(self, moved: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        self.moved.append(moved)
        return super().bound(moved, mask)

    def inner(self, passes: Passes, noisy: Passes) -> torch.Tensor:
        if passes.batch.task == "reg":
            return super().inner(passes, noisy)
        return LogOdds()(noisy.out["logits"], passes.out["logits"].detach()).sum()


SITES = {"post_embed": "embeddings", "word_embed": "words"}
CRITERIA = {
    "symkl": "mtdnn_SymKlCriterion",
    "kl": "mtdnn_KlCriterion",
    "nskl": "mtdnn_NsKlCriterion",
    "js": "mtdnn_JSCriterion",
    "nssymkl": "mtdnn_NsSymKlCriterion",
    "hl": "mtdnn_HLCriterion",
}


def test_smart_as_in_mtdnn(golden: Path, fixture: Fixture) -> None:
    arrays = recorded(golden, "smart")
    comparison = Comparison(Ledger("encoder/smart"), arrays)
    narrow = Fixture.load(golden, torch.float32)
    pattern = r"smart/(post_embed|word_embed)\.(cls|reg)\.K(\d+)\.(inf|l2)\.(tok|sent)\.(\w+)"
    for match in cases(arrays, pattern):
        key, mode, task, steps, norm, level, criterion = match[0], *match.groups()
        options = {
            "layers": SITES[mode],
            "steps": int(steps),
            "norm": {"inf": "linf", "l2": "l2"}[norm],
            "norm_over": {"tok": "token", "sent": "example"}[level],
            "noise_std": 1e-5,
            "gradient": "raw",
        }
        form = None if criterion == "mse" else as_divergence(FORMS[CRITERIA[criterion]])
        method = method_of(MtdnnSmart, fixture, form, **options)
        passes = fixture.passes(task, fixture.noise["z_embed"], method)
        adv = run(method, passes)
        clean = passes.loss().total / len(passes.batch.row_ids)
        comparison.check(f"{key}/adv_loss", adv, 1e-6)
        comparison.check(f"{key}/task_loss", clean, 1e-6)
        comparison.check(f"{key}/total_loss", clean + adv, 1e-6)
        comparison.check(f"{key}/clean_logits", passes.out["logits"], 1e-6)
        deltas = [delta for _, delta, _ in passes.edits]
        comparison.check(f"{key}/delta_init", deltas[0], 1e-6, 1e-15)
        for number, delta in enumerate(deltas[1:], 1):
            comparison.check(f"{key}/delta_step{number}", delta, 1e-6)
        comparison.check(f"{key}/delta_final", deltas[-1], 1e-6)
        # The last recorded logits are those of the last pass; the clean ones stand apart.
        comparison.check(f"{key}/adv_logits_per_pass", torch.stack([b.out["logits"] for _, _, b in passes.edits]), 1e-6)
        embeddings = passes.h("words" if mode == "word_embed" else 0)
        comparison.check(f"{key}/emb_abs_mean", embeddings.abs().mean(), 1e-6)
        for number, moved in enumerate(method.moved, 1):
            comparison.check(f"{key}/pre_norm_step{number}", moved, 1e-6, 1e-15)
        for field, value in fixture.gradients(task, adv).items():
            comparison.check(f"{key}/adv/{field}", value, 1e-6)
        for field, value in fixture.gradients(task, adv + clean).items():
            comparison.check(f"{key}/total/{field}", value, 1e-6)
        single = method_of(MtdnnSmart, narrow, form, **options)
        narrow_passes = narrow.passes(task, narrow.noise["z_embed"], single)
        field = f"{key}/adv_loss_fp32_literal"
        comparison.check(field, run(single, narrow_passes), 1e-2, 1e-5, wide=f"{key}/adv_loss")
    comparison.close()


def test_smart_as_published(golden: Path, fixture: Fixture) -> None:
    arrays = recorded(golden, "smart_paper")
    comparison = Comparison(Ledger("encoder/smart_paper"), arrays)
    pattern = (
        r"smart_paper/(post_embed|word_embed)\.(cls|reg|span)\.eps([\d.e-]+)\.eta([\d.e-]+)\.K(\d+)\.(token|sequence)"
    )
    for match in cases(arrays, pattern):
        key, mode, task, epsilon, eta, steps, level = match[0], *match.groups()
        method = method_of(
            Smart, fixture, layers=SITES[mode], epsilon=float(epsilon), step_size=float(eta), steps=int(steps),
            norm_over={"token": "token", "sequence": "example"}[level], radius="project", noise_std=1e-5,
        )  # fmt: skip
        passes = fixture.passes(task, fixture.noise["z_embed"], method)
        adv = run(method, passes)
        _, delta, _ = passes.edits[-1]
        comparison.check(f"{key}/adv_loss", adv, 1e-6)
        comparison.check(f"{key}/delta_max_abs", delta.abs().max(), 1e-6)
        comparison.check(f"{key}/delta_l2", delta.norm(), 1e-6)
        comparison.check(f"{key}/delta_final", delta, 1e-6, 1e-9)
        for field, value in fixture.gradients(task, adv).items():
            comparison.check(f"{key}/{field}", value, 1e-6)
    comparison.close()
