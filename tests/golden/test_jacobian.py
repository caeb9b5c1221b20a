"""Recorded Jacobian regularisation: the released estimates and exact norms, each recorded field compared by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from mtrobust.perturb.jacobian import Jacobian
from mtrobust.tasks.base import Batch
from tests.golden.exemptions import Ledger
from tests.golden.fixtures import Comparison, Fixture, cases, method_of, recorded
from tests.golden.test_pdr import twin

VIEWS = {"cls": [("v", "z_cls")], "span": [("v_start", "z_start"), ("v_end", "z_end")]}  # recorded direction, its draw


class WeightedLogits(Jacobian):
    """The released weighted form: logits, where Eq. 7 has posteriors, over sqrt(p), a constant."""

    def outputs(self, view):
        return view.logits * (-0.5 * view.logits.log_softmax(-1)).exp().detach()


def released(fixture: Fixture, task: str, weighted: bool) -> tuple[Tensor, list[Tensor]]:
    """The released loss, and its directions. It has unit vectors where ours are sqrt(C) long: C times smaller."""
    draws = [fixture.noise[noise] for _, noise in VIEWS[task]]
    noise = {f"jacobian/0/{i}/": draw for i, draw in enumerate(draws)}
    method = method_of(WeightedLogits if weighted else Jacobian, fixture, of="logits")
    passes = fixture.passes(task, noise, method)
    loss = method.at_site(passes, 0).total / len(passes.batch.row_ids)
    return loss / draws[0].shape[1], [draw / draw.norm(dim=1, keepdim=True) for draw in draws]


def test_released_estimates(golden: Path, fixture: Fixture) -> None:
    arrays = {k: v for k, v in recorded(golden, "fdiv", "jacobian").items() if not k.startswith("exact/")}
    comparison = Comparison(Ledger("encoder/fdiv"), arrays)
    narrow = Fixture.load(golden, torch.float32)
    for each in (fixture, narrow):  # the released TensorFlow code trains the padding row, torch's table would not
        each.encoder.word_embeddings.padding_idx = None
    for match in cases(arrays, r"repo(_fp32)?/jacobian\.(cls|span)\.(weighted_)?approx"):
        key, single, task, weighted = match[0], *match.groups()
        chosen, rtol = (narrow, 5e-3) if single else (fixture, 1e-5)
        loss, directions = released(chosen, task, bool(weighted))
        comparison.check(f"{key}/loss", loss, rtol, wide=twin(f"{key}/loss"))
        for (name, _), direction in zip(VIEWS[task], directions, strict=True):
            comparison.check(f"{key}/{name}", direction, rtol)
        for field, value in chosen.gradients(task, loss).items():
            atol, name = max(1e-12, rtol * float(value.abs().max())), f"{key}/{field}"
            comparison.check(name, value, rtol, atol, wide=twin(name))
    comparison.close()


def rows(batch: Batch) -> list[Batch]:
    """A batch of one for each example, as far padded as the whole."""
    cut = lambda tensors, i: {name: value[i : i + 1] for name, value in tensors.items()}  # noqa: E731
    return [
        dataclasses.replace(batch, inputs=cut(batch.inputs, i), targets=cut(batch.targets, i), row_ids=row)
        for i, row in enumerate(batch.row_ids.split(1))
    ]


class OneView(Jacobian):
    """The term of one of a task's views."""

    view = 0

    def at_site(self, passes, site):
        only = passes.views()[self.view]
        passes.views = lambda: [only]
        return super().at_site(passes, site)


def jacobians(method: Jacobian, fixture: Fixture, task: str, view: int) -> Tensor:
    """The derivative of what the method differentiates by the embedding output, [B, C, T, width]."""
    passes = fixture.passes(task, fixture.noise["z_embed"], method)
    values, hidden = method.outputs(passes.views()[view]), passes.h(0)
    grads = [torch.autograd.grad(column.sum(), hidden, retain_graph=True)[0] for column in values.unbind(1)]
    return torch.stack(grads, 1)


def test_exact_norms(golden: Path, fixture: Fixture) -> None:
    arrays = {k: v for k, v in recorded(golden, "fdiv", "jacobian").items() if k.startswith("exact/")}
    comparison = Comparison(Ledger("encoder/fdiv"), arrays)
    for match in cases(arrays, r"exact/jacobian\.(cls|start|end)\.(logits|probs)"):
        key, output, of = match[0], *match.groups()
        task, view = {"cls": ("cls", 0), "start": ("span", 0), "end": ("span", 1)}[output]
        of = {"logits": "logits", "probs": "posteriors"}[of]
        method = method_of(OneView, fixture, of=of, estimate="exact")
        method.view = view
        whole = fixture.batches[task]
        for field, padding in (("", True), ("_nonpad_columns", False)):
            norms = []
            for fixture.batches[task] in rows(whole):
                passes = fixture.passes(task, fixture.noise["z_embed"], method, padding=padding)
                norms.append(method.at_site(passes, 0).total)
            comparison.check(f"{key}/frobenius_sq_per_example{field}", torch.stack(norms), 1e-6)
        fixture.batches[task] = whole
        jacobian = jacobians(method, fixture, task, view)
        comparison.check(f"{key}/J", jacobian, 1e-6)
        mean = method.at_site(fixture.passes(task, fixture.noise["z_embed"], method), 0).total / len(whole.row_ids)
        comparison.check(f"{key}/mean_loss", mean, 1e-6)
        for field, value in fixture.gradients(task, mean).items():
            comparison.check(f"{key}/{field}_embedding_leaf", value, 1e-6)
        for monte_carlo in cases(arrays, rf"{key}/mc_(\d+)_unit_v_mean"):
            mean, error = unit_projections(jacobian.flatten(2))
            comparison.check(monte_carlo[0], mean, 0, 4 * error / int(monte_carlo[1]) ** 0.5)
    comparison.close()


def unit_projections(jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of |v J|^2 over unit vectors v, per example: |J|^2 / C, so ours, C times that, has no
    bias; with A = J J^T the variance is 2 (C tr A^2 - (tr A)^2) / (C^2 (C + 2))."""
    squares = jacobian @ jacobian.mT
    trace, count = squares.diagonal(dim1=1, dim2=2).sum(1), jacobian.shape[1]
    variance = 2 * (count * squares.square().sum((1, 2)) - trace.square()) / (count**2 * (count + 2))
    return trace / count, variance.sqrt().numpy()
