"""`smoothness`: how strongly posteriors answer to small changes of hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mtrobust.analysis.base import ANALYSES, Analysis, AnalysisOptions, Found, SiteOptions, coloured

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure
    from rich.table import Table
    from torch import Tensor

    from mtrobust.analysis.probe import Recorder, Subject
    from mtrobust.perturb.layers import Site
    from mtrobust.tasks.base import View

FIGURES = {"jacobian": "Jacobian norm", "lipschitz": "local Lipschitz estimate"}


class Options(AnalysisOptions, SiteOptions):
    """Options of `smoothness`."""

    rows: int = Field(200, ge=1, description="rows of the split, evenly from the whole of it")
    exact: int = Field(8, ge=0, description="up to so many outputs the Jacobian is exact")
    draws: int = Field(8, ge=1, description="random directions of the estimate beyond that")
    radius: float = Field(0.1, gt=0, description="L2 norm of an example's change, for the Lipschitz estimate")
    steps: int = Field(5, ge=1, description="ascent steps for the Lipschitz estimate")
    seed: int = Field(1, ge=0, description="of directions and starts")


@ANALYSES.register("smoothness")
class Smoothness(Analysis):
    """The Jacobian norm and a local Lipschitz constant of each row, so that runs can be compared on what methods
    claim to regularise.

    With h the states of a row at a place (`layer`, default `words`; real tokens only) and f the posterior (of a number:
    itself), dropout off:

        jacobian = |df / dh|_F,   lipschitz = max over d of |f(h + d) - f(h)|_2 / |d|_2 with |d|_2 = radius.

    The Jacobian is exact where f has at most `exact` entries, else |df/dh|_F^2 is estimated without bias by `draws`
    directions on the unit sphere of the outputs (times their number). The maximum is looked for by `steps` steps
    d <- radius * g / |g|, g the gradient of |f(h + d) - f(h)|^2, from a random start; the largest value met counts, so
    it is a lower bound. Several views (start and end of a span) are averaged, in squares. All runs see the same rows.
    """

    name = "smoothness"
    summary = "Jacobian norm and local Lipschitz estimate of posteriors on dev rows"
    paper = "-"
    Options = Options
    every_task = True

    def look(self, subjects: Sequence[Subject], task: str) -> Found:
        """See the class."""
        lines: list[dict[str, Any]] = []
        summary: list[dict[str, Any]] = []
        for subject in subjects:
            site: Site = self.options.layer.resolve(subject.num_layers, "--layer")[0] if self.options.layer else "words"
            found = self._rows(subject, task, site)
            method = "+".join(method.name for method in subject.methods(task).values())
            lines += [{"run": subject.label, "method": method, **line} for line in found]
            summary.append({"run": subject.label, "method": method, **_summary(found), **_dev(subject, task)})
        scalars = [
            (f"smoothness/{task}/{one['run']}/{name}", one[f"{name}_median"], 0) for one in summary for name in FIGURES
        ]
        data = {"task": task, "layer": str(self.options.layer or "words"), "radius": self.options.radius,
                "runs": summary}  # fmt: skip
        return Found(lines, data, _table(summary), scalars=scalars)

    def _rows(self, subject: Subject, task: str, site: Site) -> list[dict[str, Any]]:
        """One line per feature, in the order of the rows."""
        from mtrobust.perturb.passes import Needs

        rows = subject.rows(task, self.options.split, self.options.data_dir, self.options.rows)
        features = subject.features(task, rows)
        lines: dict[int, dict[str, Any]] = {}
        for places, batch in subject.batches(task, features, self.options.batch_size):
            passes = subject.passes(batch, Needs(frozenset({site})))
            norms = jacobian_norms(passes, site, self.options.exact, self.options.draws, self.options.seed)
            slopes = lipschitz(passes, site, self.options.radius, self.options.steps, self.options.seed)
            for at, norm, slope in zip(places, norms.tolist(), slopes.tolist(), strict=True):
                lines[at] = {"id": rows[int(features[at]["row"])]["id"], "jacobian": norm, "lipschitz": slope}
        return [lines[at] for at in sorted(lines)]

    def draw(self, found: Found) -> Figure:
        """A box for each run: median, middle half, from the 10th to the 90th percentile."""
        from mtrobust.evaluation.pictures import new_figure

        runs = coloured(found.table)[::-1]
        figure = new_figure(1.2 + 0.42 * len(runs))
        panels = figure.subplots(1, 2, sharey=True)
        for panel, (name, title) in zip(panels, FIGURES.items(), strict=True):
            values = [[max(line[name], 1e-12) for line in found.table if line["run"] == label] for label, *_ in runs]
            boxes = panel.boxplot(
                values, orientation="horizontal", whis=(10, 90), showfliers=False, widths=0.55, patch_artist=True,
                medianprops={"color": "white", "linewidth": 2},
            )  # fmt: skip
            for patch, (_, colour, _) in zip(boxes["boxes"], runs, strict=True):
                patch.set(facecolor=colour, edgecolor=colour)
            panel.set_xscale("log")
            panel.set_xlabel(f"{title} (log scale)")
            panel.set_yticks(range(1, len(runs) + 1), [label for label, *_ in runs])
            panel.grid(axis="y", visible=False)
        return figure

    def caption(self, found: Found) -> str:
        """What the boxes are."""
        return (
            f"{found.data['task']}, at {found.data['layer']}: white stroke median over the rows, box the middle half, "
            "whiskers from the 10th to the 90th percentile."
        )


def posteriors(view: View) -> Tensor:
    """What is differentiated, [n, C]: probabilities, 0 off the support; of a number itself."""
    import torch

    logits = view.logits.float() if view.logits.dtype.itemsize < 4 else view.logits
    if view.kind == "real":
        return logits
    if view.support is None:
        return logits.softmax(-1)
    return logits.masked_fill(~view.support, torch.finfo(logits.dtype).min / 4).softmax(-1) * view.support


def jacobian_norms(passes: Recorder, site: Site, exact: int, draws: int, seed: int) -> Tensor:
    """|df/dh|_F of each row, [B]: over the real tokens, the root of the mean over views of the squares."""
    import torch

    from mtrobust.perturb.passes import item_places

    hidden = passes.h(site).detach().requires_grad_(True)
    views = passes.at(site, hidden).views()
    generator = torch.Generator(hidden.device).manual_seed(seed)
    squares = []
    for view in views:
        values, places = posteriors(view), item_places(view)
        several = int(places.max()) + 1 if len(places) else 0
        directions = []
        if several * values.shape[-1] <= exact:
            for place in range(several):
                here = (places == place).to(values.dtype).unsqueeze(-1)
                for column in range(values.shape[-1]):
                    one = torch.zeros_like(values)
                    one[:, column] = 1
                    directions.append(one * here)
        else:
            count = values.new_full((len(values), 1), values.shape[-1])
            if view.support is not None:
                count = view.support.sum(-1, keepdim=True).to(values.dtype)
            for _ in range(draws):
                one = torch.randn(values.shape, generator=generator, device=values.device, dtype=values.dtype)
                one = one if view.support is None else one * view.support
                one = one * (count.sqrt() / one.norm(dim=-1, keepdim=True).clamp_min(1e-30))
                directions.append(one / draws**0.5)
        squares.append(_squared_gradients(values, directions, hidden, passes))
    return torch.stack(squares).mean(0).sqrt()


def _squared_gradients(values: Tensor, directions: Sequence[Tensor], hidden: Tensor, passes: Recorder) -> Tensor:
    """The sum over directions v of |d(v . values) / d hidden|^2 of each row, [B]."""
    import torch

    total = hidden.new_zeros(len(hidden), dtype=torch.float64)
    mask = passes.noise_mask
    for direction in directions:
        (gradient,) = torch.autograd.grad((direction * values).sum(), hidden, retain_graph=True)
        total += (gradient.double().square().sum(-1) * mask).sum(-1)
    return total


def lipschitz(passes: Recorder, site: Site, radius: float, steps: int, seed: int) -> Tensor:
    """The largest |f(h + d) - f(h)|_2 / radius met for each row, [B]."""
    import torch

    from mtrobust.perturb.noise import unit_l2

    hidden = passes.h(site).detach()
    clean = [posteriors(view).detach() for view in passes.views()]
    measure = _distance(passes, site, hidden, clean)
    generator = torch.Generator(hidden.device).manual_seed(seed)
    start = torch.randn(hidden.shape, generator=generator, device=hidden.device, dtype=hidden.dtype)
    delta = radius * unit_l2(start, passes.noise_mask, per="example")
    best = hidden.new_zeros(len(hidden))
    for step in range(steps + 1):
        delta = delta.detach().requires_grad_(True)
        squares = measure(delta)
        best = torch.maximum(best, squares.detach().to(best.dtype))
        if step < steps:
            (gradient,) = torch.autograd.grad(squares.sum(), delta)
            delta = radius * unit_l2(gradient, passes.noise_mask, per="example")
    return best.sqrt() / radius


def _distance(passes: Recorder, site: Site, hidden: Tensor, clean: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of a change [B, T, width] to the squared change of the posteriors of each row, [B]."""

    def measure(delta: Tensor) -> Tensor:
        views = passes.at(site, hidden + delta).views()
        parts = []
        for view, base in zip(views, clean, strict=True):
            squares = (posteriors(view) - base).square().sum(-1)
            parts.append(squares.new_zeros(len(hidden)).index_add(0, view.row, squares))
        return sum(parts[1:], parts[0]) / len(parts)

    return measure


def _summary(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean, median and 90th percentile of both figures."""
    import numpy as np

    found: dict[str, float] = {"rows": len(lines)}
    for name in FIGURES:
        values = np.array([line[name] for line in lines])
        found |= {
            f"{name}_mean": float(values.mean()),
            f"{name}_median": float(np.median(values)),
            f"{name}_p90": float(np.percentile(values, 90)),
        }
    return found


def _dev(subject: Subject, task: str) -> dict[str, Any]:
    """The run's own dev figure, so that smoothness is not read without it."""
    from mtrobust.evaluation.run_folder import read_results

    metric = subject.task(task).type.main_metric()
    return {"metric": metric, "dev": read_results(subject.path).get(task, {}).get(metric)}


def _table(summary: Sequence[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table()
    for name in ("run", "jacobian median", "p90", "lipschitz median", "p90", "dev"):
        table.add_column(name, justify="left" if name == "run" else "right")
    for one in summary:
        figures = (one[f"{name}_{kind}"] for name in FIGURES for kind in ("median", "p90"))
        dev = "-" if one["dev"] is None else f"{one['metric']} {one['dev']:.1f}"
        table.add_row(one["run"], *(f"{figure:.3g}" for figure in figures), dev)
    return table
