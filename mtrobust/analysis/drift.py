"""`drift`: how many perturbed word embeddings are closer to another word, over training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from mtrobust.analysis.base import ANALYSES, Analysis, AnalysisOptions, Found, coloured

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table
    from torch import Tensor

    from mtrobust.analysis.probe import Subject
    from mtrobust.perturb import Perturbation

MEASURES = ("product", "distance")
TICKS = (0, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100)  # percent


class Options(AnalysisOptions):
    """Options of `drift`."""

    split: str = Field("train", description="whose rows are perturbed")
    rows: int = Field(200, ge=1, description="rows of it, evenly from the whole split")
    measure: Literal["product", "distance"] = Field(
        "product", description="how an embedding is mapped back: largest inner product (Eq. 6) or nearest word; "
        "of the picture, the data have both",
    )


@ANALYSES.register("drift")
class Drift(Analysis):
    """The share of tokens whose perturbed word embedding maps back to another word of the vocabulary.

    With W the word-embedding table of the checkpoint and e~ a perturbed embedding, the word is the row w of W with the
    largest w . e~ (`product`: Lee et al., Eq. 6) or the smallest |w - e~| (`distance`). Special tokens and padding are
    not counted; all rows of the table are candidates (Eq. 6: those of the training data). Under `product` a long row
    may win over the token's own even without noise: `clean_product` is that share. Only edits at `words` can drift;
    methods that act elsewhere are at 0 and said to be so. One point for each checkpoint of a run that is on disk
    (`--save_steps`, `--save_total_limit`). Source: Lee et al., Section 5.2, Figure 6.
    """

    name = "drift"
    summary = "share of tokens whose perturbed embedding maps back to another word, over training"
    paper = "SWEP, Figure 6 and Eq. 6"
    Options = Options

    def faults(self, runs: Sequence[Path]) -> list[str]:
        """Runs without any checkpoint."""
        from mtrobust.evaluation.run_folder import complete_checkpoints

        return [
            f"{run}: no complete checkpoint to look at; train with --save_steps N --save_total_limit M"
            for run in runs
            if not complete_checkpoints(run)
        ]

    def look(self, subjects: Sequence[Subject], task: str) -> Found:
        """See the class."""
        from mtrobust.evaluation.run_folder import complete_checkpoints

        lines: list[dict[str, Any]] = []
        notes: list[str] = []
        for subject in subjects:
            features = subject.features(
                task, subject.rows(task, self.options.split, self.options.data_dir, self.options.rows)
            )
            methods = subject.methods(task)
            notes += [
                f"{label}: {method.name} makes no edit at the word embeddings: no drift"
                for label, method in methods.items()
                if "words" not in method.sites
            ]
            for checkpoint in complete_checkpoints(subject.path):
                subject.load_weights(checkpoint)
                step = int(checkpoint.name.removeprefix("step-"))
                for label, method in methods.items():
                    shares = self._shares(subject, task, method, features)
                    lines.append({"run": label, "method": method.name, "step": step, **shares})
        scalars = [(f"drift/{line['run']}/{key}", line[key], line["step"]) for line in lines for key in MEASURES]
        return Found(lines, {"task": task, "points": lines}, _table(lines), scalars=scalars, notes=notes)

    def _shares(
        self, subject: Subject, task: str, method: Perturbation, features: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        """Shares over all tokens, and how many tokens that were."""
        from mtrobust.analysis.probe import real_words

        acts = "words" in method.sites
        table = subject.run.model.encoder.word_embeddings.weight.detach().float()
        total = 0
        sums = dict.fromkeys([*MEASURES, "clean_product"], 0)
        for _, batch in subject.batches(task, features, self.options.batch_size):
            mask = real_words(subject, batch)
            own = batch.inputs["input_ids"][mask]
            total += len(own)
            clean = mapped_back(subject.clean(batch, "words")[mask], table)
            sums["clean_product"] += int((clean["product"] != own).sum())
            if acts:
                moved = subject.see(method, batch, "words").after("words")[mask]
                for measure, found in mapped_back(moved, table).items():
                    sums[measure] += int((found != own).sum())
        shares = {name: count / max(total, 1) for name, count in sums.items()}
        return {**shares, "tokens": total}

    def draw(self, found: Found) -> Figure:
        """One line per run."""
        from mtrobust.evaluation.pictures import new_figure

        figure = new_figure(3.6)
        axes = figure.subplots()
        lines = found.table
        for label, colour, marker in coloured(lines):
            own = [line for line in lines if line["run"] == label]
            share = [100 * line[self.options.measure] for line in own]
            axes.plot([line["step"] for line in own], share, color=colour, marker=marker, linewidth=1.8, label=label)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("tokens mapped to another word (%)")
        axes.set_yscale("symlog", linthresh=1)  # methods differ by factors of hundreds, and 0 has a place
        axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.set_ylim(-0.06, 110)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure

    def caption(self, found: Found) -> str:
        """What is counted."""
        how = "largest inner product" if self.options.measure == "product" else "smallest distance"
        return (
            f"Share of tokens whose perturbed word embedding has its {how} with another word "
            "of the vocabulary (scale linear below 1 %, logarithmic above)."
        )


def mapped_back(vectors: Tensor, table: Tensor) -> dict[str, Tensor]:
    """By measure, the row of `table` [V, width] that each of `vectors` [n, width] maps back to, int64 [n]."""
    import torch

    found: dict[str, list[Tensor]] = {measure: [] for measure in MEASURES}
    half = table.square().sum(-1) / 2
    for part in vectors.split(512):
        product = part @ table.T
        found["product"].append(product.argmax(-1))
        found["distance"].append((product - half).argmax(-1))  # |w - e|^2 = |e|^2 - 2 (w . e - |w|^2 / 2)
    empty = torch.zeros(0, dtype=torch.long, device=vectors.device)
    return {measure: torch.cat([empty, *parts]) for measure, parts in found.items()}


def _table(lines: Sequence[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(title="tokens mapped to another word (%)", title_justify="left")
    for name in ("run", "step", "product", "distance", "product, no noise"):
        table.add_column(name, justify="left" if name == "run" else "right")
    for line in lines:
        shares = (line["product"], line["distance"], line["clean_product"])
        table.add_row(line["run"], str(line["step"]), *(f"{100 * share:.2f}" for share in shares))
    return table
