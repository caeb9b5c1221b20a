"""`layers`: how much noise of a given size at a given layer changes the posteriors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, field_validator

from mtrobust.analysis.base import ANALYSES, Analysis, AnalysisOptions, Found
from mtrobust.config_values import faults_of, wrong_kind
from mtrobust.errors import UserError
from mtrobust.perturb import METHODS
from mtrobust.perturb.layers import LayerSpec
from mtrobust.perturb.names import DivergenceName
from mtrobust.registry import suggestion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

    from mtrobust.analysis.probe import Subject
    from mtrobust.perturb import Passes, Perturbation
    from mtrobust.perturb.layers import Site


class Options(AnalysisOptions):
    """Options of `layers`."""

    rows: int = Field(100, ge=1, description="rows of the split, evenly from the whole of it")
    method: str = Field("rapt", description="method that makes the noise")
    vary: str = Field("eta", description="its option that is the size of the noise")
    sizes: list[float] = Field([0.5, 1, 2, 4, 8], min_length=1, description="values of that option")
    divergence: DivergenceName = Field("kl", description="how posteriors are compared")

    @field_validator("sizes", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


@ANALYSES.register("layers")
class Layers(Analysis):
    """Divergence between clean and perturbed posteriors at every layer and for several sizes of the noise.

    The first run is probed (best one trained with `standard`): a method of your choice acts at each place of its
    encoder, from `words` to the last layer, with each value of the option that sets its size, and its own edit is
    compared with the clean pass; dropout is off. Beside the divergence (mean over the items compared) stands the share
    of items whose likeliest class changes. Further runs that were trained with the same method are drawn as a third
    panel: their dev figure against the layers that they perturbed, so that a sweep of runs shows which `layers` and
    size to train with. Where the divergence is far below the loss of an example the regulariser has no effect; where
    predictions change for many rows it teaches another task.
    """

    name = "layers"
    summary = "divergence of posteriors by layer and noise size; dev figures of a sweep beside it"
    paper = "cf. RAPT, Figures 2 and 3"
    Options = Options
    every_task = True

    def faults(self, runs: Sequence[Path]) -> list[str]:
        """An unknown method, an option that is none of its, values that it does not take."""
        options = self.options
        if options.method not in METHODS:
            return [f"--method: {options.method}: unknown{suggestion(options.method, METHODS)} "
                    f"(known: {', '.join(METHODS)})"]  # fmt: skip
        kind = METHODS[options.method].Options
        known = kind.model_fields
        faults = []
        if "layers" not in known:
            faults.append(f"--method: {options.method}: edits no states (it has no option `layers`)")
        if options.vary not in known:
            near = suggestion(options.vary, known)
            faults.append(f"--vary: {options.vary}: no option of {options.method}{near} (known: {', '.join(known)})")
        for size in options.sizes if not faults else ():
            faults += _refused(kind, {options.vary: size})
        return faults

    def look(self, subjects: Sequence[Subject], task: str) -> Found:
        """See the class."""
        first = subjects[0]
        lines = self._probed(first, task)
        trained = [point for subject in subjects for point in self._trained(subject, task)]
        reference = _reference(trained)
        data = {
            "task": task, "run": first.label, "method": self.options.method, "vary": self.options.vary,
            "divergence": self.options.divergence, "rows": self.options.rows, "points": lines, "runs": trained,
        }  # fmt: skip
        scalars = [
            (f"layers/{task}/{self.options.vary}={line['size']:g}/{name}", line[name], at)
            for size in self.options.sizes
            for at, line in enumerate(line for line in lines if line["size"] == size)
            for name in ("divergence", "changed")
            if line[name] is not None
        ]
        notes = []
        if len(subjects) > 1 and not any(point["method"] == self.options.method for point in trained):
            notes.append(f"no run was trained with {self.options.method} alone: no panel of dev figures")
        elif len(subjects) > 1 and reference is None:
            notes.append("no run of standard: the panel of dev figures has no reference")
        return Found(lines, data, _table(lines, self.options), scalars=scalars, notes=notes)

    def _probed(self, subject: Subject, task: str) -> list[dict[str, Any]]:
        """One line for each place and size."""
        from mtrobust.analysis.probe import site_name

        rows = subject.rows(task, self.options.split, self.options.data_dir, self.options.rows)
        features = subject.features(task, rows)
        sites: list[Site] = LayerSpec.parse("words,embeddings,all").resolve(subject.num_layers)
        lines = []
        for site in sites:
            for size in self.options.sizes:
                method = self._method(subject, task, site, size)
                sums = [0.0, 0.0, 0.0]
                for _, batch in subject.batches(task, features, self.options.batch_size):
                    seen = subject.see(method, batch, site)
                    if seen.site is None:
                        raise UserError(f"--method: {self.options.method}: edits no states")
                    for at, value in enumerate(compared(seen.clean, seen.edited, self.options.divergence)):
                        sums[at] += value
                divergence, changed, items = sums
                lines.append(
                    {
                        "layer": site_name(site), "size": size,
                        "divergence": divergence / items if items else None,
                        "changed": changed / items if items and changed >= 0 else None,
                    }
                )  # fmt: skip
        return lines

    def _method(self, subject: Subject, task: str, site: Site, size: float) -> Perturbation:
        """The method at one place with one size. Raises `UserError` where it does not act there or fit the task."""
        kind = METHODS[self.options.method]
        options = kind.Options(**{"layers": LayerSpec.parse(site), self.options.vary: size})
        method = kind(options, subject.run.model.encoder)
        why = method.refusal(subject.task(task))
        if why is not None:
            raise UserError(f"--method: {self.options.method}: task {task}: {why}")
        method.module(subject.run.model.encoder, dict(subject.run.model.heads.items()))
        return method

    def _trained(self, subject: Subject, task: str) -> list[dict[str, Any]]:
        """The run's dev figure with the layers and the size it was trained with; for `standard` without."""
        from mtrobust.evaluation.report.groups import REFERENCE
        from mtrobust.evaluation.run_folder import read_results

        metric = subject.task(task).type.main_metric()
        dev = read_results(subject.path).get(task, {}).get(metric)
        methods = list(subject.methods(task).values())
        point: dict[str, Any] = {"run": subject.label, "metric": metric, "dev": dev, "layers": None, "size": None}
        if dev is None or len(methods) > 1:
            return []
        if methods[0].name == REFERENCE:
            return [point | {"method": REFERENCE}]
        if methods[0].name != self.options.method:
            return []
        sites = [-1 if site == "words" else int(site) for site in methods[0].sites]
        size = getattr(methods[0].options, self.options.vary)
        return [point | {"method": methods[0].name, "layers": sites, "size": size}]

    def draw(self, found: Found) -> Figure:
        """Divergence and changed predictions over the layers, a line per size; below, the dev figures of a sweep."""
        from mtrobust.evaluation.pictures import new_figure

        sweep = [point for point in found.data["runs"] if point["layers"] is not None]
        changes = any(line["changed"] is not None for line in found.table)
        figure = new_figure(3.5 + (2.7 if sweep else 0))
        halves: Any = figure.subfigures(2, 1, height_ratios=(3.5, 2.7)) if sweep else [figure]
        upper = halves[0]
        panels = upper.subplots(1, 2 if changes else 1, squeeze=False)[0]
        _lines(panels[0], found, "divergence", f"divergence ({self.options.divergence})")
        panels[0].set_yscale("log")
        if changes:
            _lines(panels[1], found, "changed", "predictions that change (%)", 100)
        handles, labels = panels[0].get_legend_handles_labels()
        upper.legend(handles, labels, loc="outside upper center", ncols=min(7, len(labels)))
        if sweep:
            _sweep(halves[1].subplots(), found, sweep)
        return figure

    def caption(self, found: Found) -> str:
        """What was probed."""
        data = found.data
        more = " Below: dev figures of runs trained there." if any(p["layers"] for p in data["runs"]) else ""
        return (
            f"{data['task']}: noise of {data['method']} with {data['vary']} as given, at one place of the encoder of "
            f"{data['run']}; {data['rows']} rows.{more}"
        )


def compared(clean: Passes, edited: Passes, divergence: str) -> tuple[float, float, float]:
    """(divergence, items whose likeliest class changes, items), summed over a batch; the mean over views.

    Where a view is a number nothing can change class: the second figure is -inf.
    """
    import torch

    with torch.no_grad():
        total = float(clean.diff(divergence, clean, edited).total)
        views = list(zip(clean.views(), edited.views(), strict=True))
        changed, items = 0.0, 0
        for a, b in views:
            items += len(a.row)
            changed += float((_likeliest(a) != _likeliest(b)).sum()) if a.kind == "categorical" else float("-inf")
    return total, changed / len(views), items / len(views)


def _likeliest(view: Any) -> Any:
    logits = view.logits.float()
    return (logits if view.support is None else logits.masked_fill(~view.support, float("-inf"))).argmax(-1)


def _refused(kind: Any, values: dict[str, Any]) -> list[str]:
    """Why a method's options do not take a value."""
    odd = wrong_kind(kind, values)
    if odd:
        return [f"--sizes: {values[key]}: must be {words}" for key, words in odd.items()]
    try:
        kind(**values)
    except ValidationError as error:
        return faults_of(error, kind, lambda key: "--sizes" if key in values else f"--method: option {key}")
    return []


def _lines(axes: Axes, found: Found, name: str, label: str, factor: float = 1) -> None:
    """One line per size, the larger the darker; colours and markers tell them apart."""
    from matplotlib import colormaps

    sizes = list(dict.fromkeys(line["size"] for line in found.table))
    places = list(dict.fromkeys(line["layer"] for line in found.table))
    shades = colormaps["cividis_r"]
    for at, size in enumerate(sizes):
        own = [line for line in found.table if line["size"] == size and line[name] is not None]
        x = [places.index(line["layer"]) for line in own]
        axes.plot(
            x, [factor * line[name] for line in own], marker="osD^vPX"[at % 7], linewidth=1.8, markersize=5,
            color=shades(0.15 + 0.85 * at / max(1, len(sizes) - 1)), label=f"{found.data['vary']} {size:g}",
        )  # fmt: skip
    axes.set_xticks(range(len(places)), [_short(place) for place in places])
    axes.set_xlabel("place (w: words, e: embeddings)")
    axes.set_ylabel(label)


def _reference(points: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The first run of `standard`."""
    from mtrobust.evaluation.report.groups import REFERENCE

    return next((point for point in points if point["method"] == REFERENCE), None)


def _size(size: Any) -> str:
    return f"{size:g}" if isinstance(size, float) else str(size)


def _short(place: str) -> str:
    return {"words": "w", "embeddings": "e"}.get(place, place.removeprefix("layer "))


def _sweep(axes: Axes, found: Found, sweep: Sequence[dict[str, Any]]) -> None:
    """Dev figures over the layers that runs were trained at (a bar over several); dashed: `standard`."""
    from mtrobust.evaluation.pictures import BASE, OTHERS

    places = list(dict.fromkeys(line["layer"] for line in found.table))
    sizes = sorted({point["size"] for point in sweep}, key=str)
    for at, size in enumerate(sizes):
        own = sorted((p for p in sweep if p["size"] == size), key=lambda p: sum(p["layers"]) / len(p["layers"]))
        for point in own:
            low, high = min(point["layers"]) + 1, max(point["layers"]) + 1
            axes.plot([low, high], [point["dev"]] * 2, color=OTHERS[at % len(OTHERS)], linewidth=3, alpha=0.5)
        x = [sum(point["layers"]) / len(point["layers"]) + 1 for point in own]
        axes.plot(
            x, [point["dev"] for point in own], marker="osD^vPX"[at % 7], linestyle="none", markersize=7,
            color=OTHERS[at % len(OTHERS)], label=f"trained with {found.data['vary']} {_size(size)}",
        )  # fmt: skip
    reference = _reference(found.data["runs"])
    if reference is not None:
        label = f"standard ({reference['run']})"
        axes.axhline(reference["dev"], color=BASE, linestyle="--", linewidth=1.4, label=label)
    axes.set_xticks(range(len(places)), [_short(place) for place in places])
    axes.set_xlim(-0.4, len(places) - 0.6)
    axes.set_xlabel("place of the noise in training")
    axes.set_ylabel(f"dev {sweep[0]['metric']} (%)")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _table(lines: Sequence[dict[str, Any]], options: Options) -> Table:
    from rich.table import Table

    title = f"{options.divergence} (predictions that change) for {options.vary} of {options.method}"
    table = Table(title=title, title_justify="left")
    table.add_column("place")
    for size in options.sizes:
        table.add_column(f"{size:g}", justify="right")
    for place in dict.fromkeys(line["layer"] for line in lines):
        cells = []
        for line in (line for line in lines if line["layer"] == place):
            changed = "" if line["changed"] is None else f" {100 * line['changed']:.0f}%"
            cells.append("-" if line["divergence"] is None else f"{line['divergence']:.2g}{changed}")
        table.add_row(place, *cells)
    return table
