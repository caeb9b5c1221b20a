"""`heatmap`: how far each token of a text is moved by the perturbation."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mtrobust.analysis.base import ANALYSES, Analysis, Found, SiteOptions, TextOptions

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from mtrobust.analysis.probe import Subject
    from mtrobust.perturb import Perturbation
    from mtrobust.perturb.layers import Site

_LIGHT, _DARK = (255, 255, 255), (213, 94, 0)  # white to vermillion: one hue, so lightness alone tells
LINE = 98  # characters of a line of the picture


class Options(TextOptions, SiteOptions):
    """Options of `heatmap`."""

    draws: int = Field(16, ge=1, description="draws of the noise, of which the mean size is shown")


@ANALYSES.register("heatmap")
class Heatmap(Analysis):
    """The L2 norm of what each token's state is moved by, the mean over `draws` draws of the method's noise.

    Colours run from 0 (white) to the largest of the run's text, so patterns of several runs can be compared, and the
    sizes stand beside. A word of several tokens has the mean over them. Source: Lee et al., Figure 5.
    """

    name = "heatmap"
    summary = "size of the perturbation of each word of a text: picture, terminal, HTML"
    paper = "SWEP, Figure 5"
    Options = Options

    def look(self, subjects: Sequence[Subject], task: str) -> Found:
        """See the class."""
        from mtrobust.analysis.texts import read_text

        runs: list[dict[str, Any]] = []
        notes: list[str] = []
        for subject in subjects:
            text = read_text(subject, task, self.options)
            for label, method in subject.methods(task).items():
                site, sizes = self._sizes(subject, task, method, text.feature)
                if site is None:
                    notes.append(f"{label}: {method.name} moves no states: all sizes are 0")
                words = [
                    {"word": word.text, "size": float(sizes[word.places].mean()), "special": word.special}
                    for word in text.words
                ]
                runs.append({"run": label, "method": method.name, "layer": site or "-", "words": words})
        lines = [
            {"run": run["run"], "method": run["method"], "layer": run["layer"], "place": at, "word": word["word"],
             "size": round(word["size"], 6)}
            for run in runs for at, word in enumerate(run["words"])
        ]  # fmt: skip
        data = {"task": task, "draws": self.options.draws, "runs": runs}
        return Found(lines, data, _coloured_text(runs), html=_page(runs, self.caption_of()), notes=notes)

    def _sizes(
        self, subject: Subject, task: str, method: Perturbation, feature: dict[str, Any]
    ) -> tuple[str | None, np.ndarray]:
        """(where it was looked, or None without an edit; sizes [T])."""
        import numpy as np

        from mtrobust.analysis.probe import act_site, site_name

        wanted = self.options.layer.resolve(subject.num_layers, "--layer")[0] if self.options.layer else None
        act = act_site(method, wanted)
        site: Site | None = act if wanted is None else wanted
        total = np.zeros(len(feature["input_ids"]))
        if act is None or site is None:
            return None, total
        (_, batch), *_ = subject.batches(task, [feature], 1)
        for draw in range(self.options.draws):
            seen = subject.see(method, batch, act, [site], draw)
            if seen.site is None:
                return None, total
            total += seen.delta(site)[0].norm(dim=-1).cpu().numpy()
        return site_name(site), total / self.options.draws

    def draw(self, found: Found) -> Figure:
        """The text in lines, each word in a box of its colour; a panel for each run."""
        from matplotlib.patches import Rectangle

        from mtrobust.evaluation.pictures import BASE, GREY, new_figure

        runs = found.data["runs"]
        layouts = [_layout(run["words"]) for run in runs]
        heights = [len(layout) + 1.2 for layout in layouts]
        figure = new_figure(0.23 * sum(heights) + 0.2)
        panels = figure.subplots(len(runs), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for panel, run, layout, rows in zip(panels, runs, layouts, heights, strict=True):
            top = largest(run["words"])
            panel.set_axis_off()
            panel.set_xlim(0, LINE)
            panel.set_ylim(rows, 0)
            scale = f"darkest = {top:.3g}" if top else "nothing is moved"
            panel.text(0, 0.6, f"{run['run']}, {run['layer']}", fontsize=10, fontweight="bold", va="center")
            panel.text(LINE, 0.6, scale, fontsize=9, color=GREY, va="center", ha="right")
            for line, words in enumerate(layout):
                for x, word in words:
                    width, y = len(word["word"]) + 0.7, line + 1.7
                    panel.add_patch(
                        Rectangle((x, y - 0.42), width, 0.84, facecolor=colour(word["size"], top), linewidth=0)
                    )
                    panel.text(
                        x + width / 2, y, _plain(word["word"]), fontsize=8.2, family="DejaVu Sans Mono", color=BASE,
                        style="italic" if word["special"] else "normal", va="center", ha="center",
                    )  # fmt: skip
        return figure

    def caption(self, found: Found) -> str:
        """What the colour is."""
        return self.caption_of()

    def caption_of(self) -> str:
        """The caption, before anything was found."""
        return (
            "How far each word's state is moved (L2 norm, mean over "
            f"{self.options.draws} draws): white 0, dark the most of the run."
        )


def _plain(word: str) -> str:
    """A word in which matplotlib finds no formula."""
    return word.replace("$", r"\$")


def largest(words: Sequence[dict[str, Any]]) -> float:
    """The largest size among the words, special tokens left out."""
    return max((word["size"] for word in words if not word["special"]), default=0.0)


def colour(size: float, top: float) -> str:
    """The colour of a size as #rrggbb."""
    share = min(1.0, size / top) if top else 0.0
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(_LIGHT, _DARK, strict=True))


def _layout(words: Sequence[dict[str, Any]]) -> list[list[tuple[float, dict[str, Any]]]]:
    """Words with their x, broken into lines of `LINE` characters."""
    lines: list[list[tuple[float, dict[str, Any]]]] = [[]]
    x = 0.0
    for word in words:
        width = len(word["word"]) + 1.0
        if x + width > LINE and lines[-1]:
            lines.append([])
            x = 0.0
        lines[-1].append((x, word))
        x += width
    return lines


def _coloured_text(runs: Sequence[dict[str, Any]]) -> RenderableType:
    """The texts with coloured backgrounds; where the terminal has no colours the furthest words follow."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Text] = []
    for run in runs:
        top = largest(run["words"])
        parts.append(Text(f"{run['run']}, {run['layer']} (darkest = {top:.3g})", style="bold"))
        text = Text()
        for word in run["words"]:
            text.append(word["word"], style=f"black on {colour(word['size'], top)}")
            text.append(" ")
        parts.append(text)
        if top:
            most = sorted((w for w in run["words"] if not w["special"]), key=lambda w: -w["size"])[:5]
            parts.append(Text("most: " + ", ".join(f"{w['word']} {w['size']:.3g}" for w in most) + "\n"))
    return Group(*parts)


def _page(runs: Sequence[dict[str, Any]], caption: str) -> str:
    """One HTML page without scripts or outside resources; sizes appear under the pointer."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Perturbation sizes</title>",
        "<style>body{font-family:sans-serif;max-width:50em;margin:2em auto;line-height:1.8}"
        "span{padding:.15em .2em;border-radius:.2em}.s{font-style:italic}</style></head><body>",
        f"<p>{html.escape(caption)}</p>",
    ]
    for run in runs:
        top = largest(run["words"])
        parts.append(f"<h2>{html.escape(run['run'])}, {html.escape(run['layer'])}</h2><p>darkest = {top:.3g}</p><p>")
        for word in run["words"]:
            kind = " class='s'" if word["special"] else ""
            shade = colour(word["size"], top)
            parts.append(
                f"<span{kind} style='background:{shade}' title='{word['size']:.4g}'>{html.escape(word['word'])}</span>"
            )
        parts.append("</p>")
    return "\n".join([*parts, "</body></html>\n"])
