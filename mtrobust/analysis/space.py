"""`space`: where the words of a text lie before and after the perturbation, in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mtrobust.analysis.base import ANALYSES, Analysis, Found, SiteOptions, TextOptions

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from rich.table import Table

    from mtrobust.analysis.probe import Subject
    from mtrobust.perturb import Perturbation
    from mtrobust.perturb.layers import Site

NAMED = 24  # words written into one panel; more hide each other
AGAINST = 3.0  # a t-SNE of fewer points than this times the perplexity says nothing


class Options(TextOptions, SiteOptions):
    """Options of `space`."""

    perplexity: float = Field(10.0, ge=1, description="of t-SNE: about how many neighbours count")
    seed: int = Field(1, ge=0, description="of t-SNE's start")


@ANALYSES.register("space")
class Space(Analysis):
    """t-SNE of the tokens of a text before and after the perturbation, where the method acts and at the last layer.

    Both states of all tokens go into one t-SNE for each of the two places, so that positions can be compared (Lee et
    al. fit each state by itself). A line joins the two states of a token. `distance` in the data is that of the full
    vectors; distances in the plane are not to be read as such. t-SNE is scikit-learn's (exact for so few points).
    Source: Lee et al., Appendix D, Figure 7.
    """

    name = "space"
    summary = "t-SNE of word and contextual embeddings before and after the perturbation"
    paper = "SWEP, Figure 7"
    Options = Options

    def look(self, subjects: Sequence[Subject], task: str) -> Found:
        """See the class."""
        from mtrobust.analysis.probe import act_site, site_name
        from mtrobust.analysis.texts import read_text

        lines: list[dict[str, Any]] = []
        points: list[tuple[str, Any, list[str]]] = []
        notes: list[str] = []
        for subject in subjects:
            text = read_text(subject, task, self.options)
            tokens = subject.run.tokenizer.convert_ids_to_tokens(text.feature["input_ids"].tolist())
            wanted = self.options.layer.resolve(subject.num_layers, "--layer")[0] if self.options.layer else None
            for label, method in subject.methods(task).items():
                act = act_site(method, wanted)
                first: Site = wanted if wanted is not None else "words" if act is None else act
                sites = list(dict.fromkeys([first, subject.num_layers]))
                states = self._states(subject, task, method, text.feature, act, sites)
                if states is None:
                    notes.append(f"{label}: {method.name} moves no states: both are the same")
                for site in sites:
                    before, after = states[site] if states else [self._clean(subject, task, text.feature, site)] * 2
                    plane = in_plane(np_stack(before, after), self.options.perplexity, self.options.seed)
                    n = len(tokens)
                    lines += [
                        {
                            "run": label, "layer": site_name(site), "place": at, "token": token,
                            "x_before": float(plane[at, 0]), "y_before": float(plane[at, 1]),
                            "x_after": float(plane[n + at, 0]), "y_after": float(plane[n + at, 1]),
                            "distance": float(((after[at] - before[at]) ** 2).sum() ** 0.5),
                        }
                        for at, token in enumerate(tokens)
                    ]  # fmt: skip
                    names = [f"{token}{mark}" for mark in ("", " (after)") for token in tokens]
                    points.append((f"space/{label}/{site_name(site)}", np_stack(before, after), names))
        data = {"task": task, "perplexity": self.options.perplexity, "tokens": lines}
        return Found(lines, data, _table(lines), points=points, notes=notes)

    def _states(
        self, subject: Subject, task: str, method: Perturbation, feature: dict[str, Any], act: Site | None,
        sites: Sequence[Site],
    ) -> dict[Site, tuple[np.ndarray, np.ndarray]] | None:  # fmt: skip
        """(before, after) [T, width] by site; None without an edit."""
        if act is None:
            return None
        (_, batch), *_ = subject.batches(task, [feature], 1)
        seen = subject.see(method, batch, act, sites)
        if seen.site is None:
            return None
        return {site: (seen.before(site)[0].cpu().numpy(), seen.after(site)[0].cpu().numpy()) for site in sites}

    def _clean(self, subject: Subject, task: str, feature: dict[str, Any], site: Site) -> np.ndarray:
        (_, batch), *_ = subject.batches(task, [feature], 1)
        return subject.clean(batch, site)[0].cpu().numpy()

    def draw(self, found: Found) -> Figure:
        """A row of two panels for each run."""
        from mtrobust.evaluation.pictures import GREY, OTHERS, new_figure

        runs = list(dict.fromkeys(line["run"] for line in found.table))
        figure = new_figure(3.9 * len(runs) + 0.4)
        grid = figure.subplots(len(runs), 2, squeeze=False)
        for row, run in zip(grid, runs, strict=True):
            places = list(dict.fromkeys(line["layer"] for line in found.table if line["run"] == run))
            for panel, place in zip(row, places, strict=False):
                own = [line for line in found.table if line["run"] == run and line["layer"] == place]
                for line in own:
                    panel.plot(
                        [line["x_before"], line["x_after"]], [line["y_before"], line["y_after"]],
                        color="#bbbbbb", linewidth=0.9, zorder=1,
                    )  # fmt: skip
                for state, colour, marker in (("before", OTHERS[0], "o"), ("after", OTHERS[1], "^")):
                    panel.scatter(
                        [line[f"x_{state}"] for line in own], [line[f"y_{state}"] for line in own],
                        c=colour, marker=marker, s=22, label=state, zorder=2, linewidths=0,
                    )  # fmt: skip
                for line in _spread(own):
                    panel.annotate(
                        line["token"].replace("$", r"\$"), (line["x_before"], line["y_before"]), xytext=(3, 3),
                        textcoords="offset points", fontsize=8, color=GREY, zorder=3,
                    )  # fmt: skip
                panel.set_title(f"{run}, {place}", fontsize=10)
                panel.set_xticks([])
                panel.set_yticks([])
                panel.set_xlabel("t-SNE 1")
                panel.set_ylabel("t-SNE 2")
                panel.margins(0.12)
            for panel in row[len(places) :]:
                panel.set_axis_off()
        figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        return figure

    def caption(self, found: Found) -> str:
        """What is joined."""
        return (
            "t-SNE of the tokens of a text, one for each panel; a line joins a token before (circle) and after "
            "(triangle) the perturbation."
        )


def np_stack(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Both states below each other, [2 T, width]."""
    import numpy as np

    return np.concatenate([before, after])


def in_plane(points: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """t-SNE of points [n, width], float32 [n, 2]; the perplexity is lowered where there are too few points."""
    from sklearn.manifold import TSNE

    fitting = max(1.0, min(perplexity, (len(points) - 1) / AGAINST))
    return TSNE(perplexity=fitting, init="pca", random_state=seed, method="exact").fit_transform(points)


def _spread(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `NAMED` tokens that stand apart from each other: those with a letter or digit, far ones first."""
    chosen: list[dict[str, Any]] = []
    size = max((abs(line[key]) for line in lines for key in ("x_before", "y_before")), default=1.0) or 1.0
    for line in sorted(lines, key=lambda line: -line["distance"]):
        crowded = any(
            abs(line["x_before"] - other["x_before"]) < 0.3 * size
            and abs(line["y_before"] - other["y_before"]) < 0.08 * size
            for other in chosen
        )
        if any(map(str.isalnum, line["token"])) and not crowded:
            chosen.append(line)
    return chosen[:NAMED]


def _table(lines: Sequence[dict[str, Any]]) -> Table:
    """The mean distance for each run and place, and the tokens that moved furthest."""
    from rich.table import Table

    table = Table()
    for name in ("run", "place", "mean distance", "moved furthest"):
        table.add_column(name)
    for run, place in dict.fromkeys((line["run"], line["layer"]) for line in lines):
        own = [line for line in lines if (line["run"], line["layer"]) == (run, place)]
        mean = sum(line["distance"] for line in own) / len(own)
        most = sorted(own, key=lambda line: -line["distance"])[:5]
        table.add_row(run, place, f"{mean:.4f}", ", ".join(line["token"] for line in most) if mean else "-")
    return table
