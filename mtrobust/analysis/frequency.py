"""`frequency`: whether rare words lie further apart and are moved further than frequent ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mtrobust.analysis.base import ANALYSES, Analysis, AnalysisOptions, Found, SiteOptions, coloured

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from rich.table import Table
    from torch import Tensor

    from mtrobust.analysis.probe import Subject
    from mtrobust.perturb import Perturbation
    from mtrobust.perturb.layers import Site

BANDS = ((1, 100), (101, 500), (501, 5000), (5001, 10000), (10001, None))
FIGURES = {"knn": "distance to neighbours", "moved": "moved by", "factor": "mean factor"}


class Options(AnalysisOptions, SiteOptions):
    """Options of `frequency`."""

    split: str = Field("train", description="whose tokens are counted and whose rows are perturbed")
    rows: int = Field(100, ge=1, description="rows that are perturbed, evenly from the whole split")
    k: int = Field(5, ge=1, description="neighbours whose mean distance is taken")
    draws: int = Field(4, ge=1, description="draws of the noise")


@ANALYSES.register("frequency")
class Frequency(Analysis):
    """Neighbour distance, perturbation distance and mean factor by the frequency rank of the token.

    Tokens (special ones left out) are ranked by how often they occur in the whole split, in bands [1, 100],
    [101, 500], [501, 5000], [5001, 10000] and beyond. `knn`: the mean L2 distance of a word embedding to its k nearest
    among all tokens that occur, the mean over the band's tokens. `moved`: the L2 distance of the state before and after
    the perturbation, the mean over the band's tokens in `rows` rows and `draws` draws, where the method acts (or at
    `layer`). `factor`: <after, before> / <before, before>, the mean of multiplicative noise mu over the dimensions,
    each weighted by the square of its entry; 1 for additive noise. Source: Lee et al., Appendix C, Table 5, whose mean
    mu is not weighted.
    """

    name = "frequency"
    summary = "neighbour distance, perturbation distance and mean factor by word frequency"
    paper = "SWEP, Table 5"
    Options = Options

    def look(self, subjects: Sequence[Subject], task: str) -> Found:
        """See the class."""
        lines: list[dict[str, Any]] = []
        notes: list[str] = []
        for subject in subjects:
            ids, counts = token_counts(subject, task, self.options)
            bands = _bands(len(ids))
            table = subject.run.model.encoder.word_embeddings.weight.detach().float()[ids.tolist()]
            near = neighbour_distance(table, min(self.options.k, len(ids) - 1)).cpu().numpy()
            for label, method in subject.methods(task).items():
                where, moved = self._moved(subject, task, method, ids)
                if where is None:
                    notes.append(f"{label}: {method.name} moves no states")
                for low, high in bands:
                    part = slice(low - 1, high)
                    n = moved["n"][part].sum()
                    lines.append(
                        {
                            "run": label, "method": method.name, "layer": where or "-", "ranks": f"{low}-{high}",
                            "tokens": len(ids[part]), "occurrences": int(counts[part].sum()),
                            "knn": float(near[part].mean()),
                            "moved": float(moved["moved"][part].sum() / n) if n else None if where else 0.0,
                            "factor": float(moved["factor"][part].sum() / n) if n and where else None,
                        }
                    )  # fmt: skip
        return Found(lines, {"task": task, "k": self.options.k, "bands": lines}, _table(lines), notes=notes)

    def _moved(
        self, subject: Subject, task: str, method: Perturbation, ids: np.ndarray
    ) -> tuple[str | None, dict[str, np.ndarray]]:
        """(where, sums by rank of the distances, factors and occurrences)."""
        import numpy as np
        import torch

        from mtrobust.analysis.probe import act_site, real_words, site_name

        rank = np.full(int(subject.run.model.encoder.word_embeddings.num_embeddings), -1)
        rank[ids] = np.arange(len(ids))
        sums = {name: np.zeros(len(ids)) for name in ("moved", "factor", "n")}
        wanted = self.options.layer.resolve(subject.num_layers, "--layer")[0] if self.options.layer else None
        act = act_site(method, wanted)
        rows = subject.rows(task, self.options.split, self.options.data_dir, self.options.rows)
        if act is None:
            return None, sums
        read: Site = act if wanted is None else wanted
        edited = False
        for _, batch in subject.batches(task, subject.features(task, rows), self.options.batch_size):
            mask = real_words(subject, batch)
            at = rank[batch.inputs["input_ids"][mask].cpu().numpy()]
            for draw in range(self.options.draws):
                seen = subject.see(method, batch, act, [read], draw)
                edited = edited or seen.site is not None
                before, after = seen.before(read)[mask], seen.after(read)[mask]
                factor = (after * before).sum(-1) / before.square().sum(-1).clamp_min(torch.finfo(before.dtype).tiny)
                np.add.at(sums["moved"], at, (after - before).norm(dim=-1).cpu().numpy())
                np.add.at(sums["factor"], at, factor.cpu().numpy())
                np.add.at(sums["n"], at, 1.0)
        return (site_name(read) if edited else None), sums

    def draw(self, found: Found) -> Figure:
        """Three panels of points over the bands; neighbour distances differ little between runs."""
        from mtrobust.evaluation.pictures import new_figure

        figure = new_figure(3.6)
        panels = figure.subplots(1, 3)
        bands = list(dict.fromkeys(line["ranks"] for line in found.table))
        for panel, (name, title) in zip(panels, FIGURES.items(), strict=True):
            for label, colour, marker in coloured(found.table):
                own = {line["ranks"]: line[name] for line in found.table if line["run"] == label}
                x = [at for at, band in enumerate(bands) if own.get(band) is not None]
                panel.plot(x, [own[bands[at]] for at in x], color=colour, marker=marker, linewidth=1.6, label=label)
            panel.set_xticks(range(len(bands)), bands, rotation=35, ha="right", fontsize=9)
            panel.set_ylabel(title + (" (L2)" if name != "factor" else ""))
            panel.set_xlabel("frequency rank")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)))
        return figure

    def caption(self, found: Found) -> str:
        """What the panels show."""
        return (
            f"By frequency rank of the token: mean distance of its word embedding to the {self.options.k} nearest; how "
            "far the perturbation moves its state; the factor that the state is multiplied by."
        )


def token_counts(subject: Subject, task: str, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """(tokens that occur in the split, the most frequent first; how often), special ones left out."""
    import numpy as np

    from mtrobust.analysis.probe import special_ids

    features = subject.features(task, subject.rows(task, options.split, options.data_dir))
    ids, counts = np.unique(np.concatenate([feature["input_ids"] for feature in features]), return_counts=True)
    kept = ~np.isin(ids, special_ids(subject))
    ids, counts = ids[kept].astype(np.int64), counts[kept]
    order = np.lexsort((ids, -counts))
    return ids[order], counts[order]


def neighbour_distance(vectors: Tensor, k: int) -> Tensor:
    """The mean L2 distance of each of `vectors` [n, width] to its k nearest others, [n]."""
    import torch

    parts = []
    for start in range(0, len(vectors), 512):
        distance = torch.cdist(vectors[start : start + 512], vectors)
        rows = torch.arange(len(distance), device=vectors.device)
        distance[rows, start + rows] = torch.inf
        parts.append(distance.topk(k, largest=False).values.mean(-1))
    return torch.cat(parts)


def _bands(count: int) -> list[tuple[int, int]]:
    """The bands that have tokens, with the last one's end."""
    return [(low, min(high or count, count)) for low, high in BANDS if low <= count]


def _table(lines: Sequence[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table()
    for name in ("run", "layer", "ranks", "tokens", "knn", "moved", "factor"):
        table.add_column(name, justify="left" if name in ("run", "layer") else "right")
    for line in lines:
        figures = ("-" if line[name] is None else f"{line[name]:.4f}" for name in FIGURES)
        table.add_row(line["run"], line["layer"], line["ranks"], str(line["tokens"]), *figures)
    return table
