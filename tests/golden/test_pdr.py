"""Recorded RPT and VAT of the f-divergence code and of the paper's formulas, each recorded field compared by name."""

from __future__ import annotations

from pathlib import Path

import torch

from mtrobust.perturb.rpt import Rpt
from mtrobust.perturb.vat import Vat
from tests.golden.exemptions import Ledger
from tests.golden.fixtures import Comparison, Fixture, as_divergence, cases, method_of, recorded
from tests.golden.test_divergences import FORMS
from tests.golden.test_encoder import DIVERGENCES, run

# The divergences of the released code by the names that its options have.
VERSIONS = {"v1": "symkl", "v2": "kl_reverse", "v3": "kl", "kl": "kl", "hellinger": "hellinger", "js": "js"}


def twin(key: str) -> str | None:
    """The float64 field beside one in float32."""
    return key.replace("repo_fp32/", "repo/") if key.startswith("repo_fp32/") else None


class ReleasedRpt(Rpt):
    """RPT whose noisy pass sends no gradient below the site, as the released classification code has it."""

    def at_site(self, passes, site):
        clean, noisy = passes.fork(site, lambda hidden: hidden.detach() + self.delta(passes, site, hidden))
        return passes.diff(self.options.divergence, clean, noisy, self.options.detach_clean)


def test_rpt(golden: Path, fixture: Fixture) -> None:
    arrays = recorded(golden, "fdiv", "rpt")
    comparison = Comparison(Ledger("encoder/fdiv"), arrays)
    narrow = Fixture.load(golden, torch.float32)
    for task in ("cls", "span"):
        for name, logits in fixture.passes(task, fixture.noise["z_embed"]).out.items():
            comparison.check(f"repo/clean/{'cls_logits' if task == 'cls' else name}", logits, 1e-5)
    comparison.check("repo/clean/embedding_output", fixture.encoder.prefix(fixture.batches["cls"].inputs, 0).h[0], 1e-5)
    for match in cases(
        arrays, r"paper/rpt\.(cls|span)\.(\w+)\.(clean_x_noisy|noisy_x_clean)\.(both_sides|clean_detached)"
    ):
        key, task, divergence, order, side = match[0], *match.groups()
        name = "reverse_kl" if order == "noisy_x_clean" and divergence == "kl" else DIVERGENCES[divergence]
        check_rpt(comparison, key, fixture, task, Rpt, 1e-6, divergence=name, detach_clean=side == "clean_detached")
    for each in (fixture, narrow):  # the released TensorFlow code trains the padding row, torch's table would not
        each.encoder.word_embeddings.padding_idx = None
    for match in cases(arrays, r"repo(_fp32)?/rpt\.(cls|span)\.(\w+)\.(tok|seq)"):
        key, single, task, version, level = match[0], *match.groups()
        module = "cls" if task == "cls" else "qa"
        form = as_divergence(FORMS[f"tf_{module}_{VERSIONS[version]}"])
        check_rpt(
            comparison, key, narrow if single else fixture, task, ReleasedRpt if task == "cls" else Rpt,
            5e-3 if single else 1e-5, form=form, norm_over={"tok": "token", "seq": "example"}[level],
        )  # fmt: skip
    comparison.close()


def check_rpt(comparison, key, fixture, task, cls, rtol, form=None, **options) -> None:
    method = method_of(cls, fixture, form, **options)
    passes = fixture.passes(task, fixture.noise["z_embed"], method)
    loss = run(method, passes)
    delta = method.delta(passes, 0, passes.h(0))
    if method.options.norm_over == "token" and rtol < 1e-3:
        comparison.check("paper/unit_noise", delta / method.options.c, 1e-6)
    comparison.check(f"{key}/delta", delta, max(rtol, 1e-5))
    # Losses near 1e-7 are mostly rounding in float32: only their gradients are compared there.
    if rtol < 1e-3:
        comparison.check(f"{key}/loss", loss, rtol, 1e-15)
    for field, value in fixture.gradients(task, loss).items():
        atol, name = max(1e-12, rtol * float(value.abs().max())), f"{key}/{field}"
        comparison.check(name, value, rtol, atol, wide=twin(name))


class WatchedVat(Vat):
    """Remembers each inner gradient and its value."""

    def gradient(self, passes, site, delta):
        grad = super().gradient(passes, site, delta)
        self.inner_grad, self.inner_value, self.start = grad, passes.stats["inner"], delta
        return grad


def test_vat(golden: Path, fixture: Fixture) -> None:
    arrays = recorded(golden, "fdiv", "vat")
    comparison = Comparison(Ledger("encoder/fdiv"), arrays)
    single = Fixture.load(golden, torch.float32)
    for match in cases(
        arrays, r"paper/vat\.(cls|span)\.(\w+)\.(token|sequence)_l2(?:\.(both_sides|clean_detached))?(?=/)"
    ):
        key, task, divergence, level, side = match[0], *match.groups()
        options = {"divergence": DIVERGENCES[divergence], "norm_over": {"token": "token", "sequence": "example"}[level]}
        check_vat(comparison, key, fixture, task, WatchedVat, 1e-6, **options, detach_clean=side != "both_sides")
    for each in (fixture, single):  # the released TensorFlow code trains the padding row, torch's table would not
        each.encoder.word_embeddings.padding_idx = None
    for match in cases(arrays, r"repo(_fp32)?/vat\.(cls|span|cls_with_qa_divergence)\.(\w+)"):
        key, narrow, module, version = match[0], *match.groups()
        task = "span" if module == "span" else "cls"
        form = as_divergence(FORMS[f"tf_{'cls' if module == 'cls' else 'qa'}_{VERSIONS[version]}"])
        check_vat(comparison, key, single if narrow else fixture, task, WatchedVat, 5e-3 if narrow else 1e-5, form=form)
    comparison.close()


def check_vat(comparison, key, fixture, task, cls, rtol, form=None, **options) -> None:
    method = method_of(cls, fixture, form, **options)
    passes = fixture.passes(task, fixture.noise["z_embed"], method)
    loss = run(method, passes)
    rows = len(passes.batch.row_ids)
    _, delta, _ = passes.edits[-1]
    zero = (method.inner_grad.abs().sum(-1) == 0).double()
    comparison.check(f"{key}/delta_rand", method.start, max(rtol, 1e-5))
    comparison.check(f"{key}/perturb_loss", method.inner_value, rtol, 1e-15)
    comparison.check(f"{key}/perturb_grad", method.inner_grad / rows, rtol, rtol * float(method.inner_grad.abs().max()))
    comparison.check(f"{key}/delta_adv", delta, rtol, 1e-3 * rtol)
    comparison.check(f"{key}/zero_grad_tokens", zero, 0)
    comparison.check(f"{key}/loss", loss, rtol, 1e-15)
    for field, value in fixture.gradients(task, loss).items():
        atol, name = max(1e-12, rtol * float(value.abs().max())), f"{key}/{field}"
        comparison.check(name, value, rtol, atol, wide=twin(name))
