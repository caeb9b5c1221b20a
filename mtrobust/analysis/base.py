"""What an analysis is: options that are checked at once, a look at trained runs, and what is written of it.

No torch is imported here at run time: options are checked before anything heavy is loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from mtrobust.config import StrictModel
from mtrobust.perturb.layers import LayerSpec
from mtrobust.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from mtrobust.analysis.probe import Subject


class AnalysisOptions(StrictModel):
    """Options of every analysis; they become flags of `mtrobust analyze NAME`."""

    task: str | None = Field(
        None, description="one of the runs' tasks; default: the only one (layers, smoothness: all that they share)"
    )
    data_dir: Path | None = Field(None, description="folder with <task>/<split>.jsonl; default: each run's")
    split: str = Field("dev", description="whose rows are read")
    batch_size: int = Field(16, ge=1, description="rows of a batch")


class TextOptions(AnalysisOptions):
    """Options of the analyses that look at one text."""

    text: str | None = Field(None, description="the text; of a question task the question; default: --row")
    text_pair: str | None = Field(None, description="its second text; of a question task the passage")
    row: str | None = Field(None, description="id of a row of the split in place of --text; default: the first row")

    @model_validator(mode="after")
    def _one_text(self) -> TextOptions:
        if self.row is not None and self.text is not None:
            raise ValueError("--row: without effect beside --text; give one of the two")
        if self.text_pair is not None and self.text is None:
            raise ValueError("--text_pair: without effect without --text")
        return self


class SiteOptions(StrictModel):
    """The option that names a place to look at; to be mixed into other options."""

    layer: LayerSpec | None = Field(
        None, description="where to look: words, embeddings (= 0) or one layer; default: where each method acts"
    )

    @model_validator(mode="after")
    def _one_site(self) -> SiteOptions:
        if self.layer is not None and not _is_one(self.layer):
            raise ValueError(f"--layer: {self.layer}: names several places; name one")
        return self


def _is_one(spec: LayerSpec) -> bool:
    return len(spec.parts) == 1 and (spec.parts[0] == "words" or spec.parts[0][0] == spec.parts[0][1])


@dataclass
class Found:
    """What an analysis found for one task.

    table: lines of the CSV file, all with the keys of the first; data: the JSON file; shown: what is printed;
    html: a page, or nothing; scalars: (tag, value, step) and points: (tag, vectors [n, d], labels) for TensorBoard;
    notes: lines for the reader.
    """

    table: list[dict[str, Any]]
    data: dict[str, Any]
    shown: RenderableType
    html: str | None = None
    scalars: list[tuple[str, float, int]] = field(default_factory=list)
    points: list[tuple[str, Any, list[str]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Analysis(ABC):
    """One analysis. A subclass in one file, registered by one decorator, and its import are all that a new one needs.

    options: an instance of its `Options`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    Options: ClassVar[type[AnalysisOptions]]
    every_task: ClassVar[bool] = False  # without --task it looks at every task that the runs share

    def __init__(self, options: Any) -> None:
        self.options = options

    def faults(self, runs: Sequence[Path]) -> list[str]:
        """What is wrong with the options and run folders and can be seen without loading a model."""
        return []

    @abstractmethod
    def look(self, subjects: Sequence[Subject], task: str) -> Found:
        """The analysis of one task. Raises `UserError` for what only the loaded models show."""

    @abstractmethod
    def draw(self, found: Found) -> Figure:
        """The picture; called inside the common style."""

    @abstractmethod
    def caption(self, found: Found) -> str:
        """One sentence on how to read the picture."""


def coloured(lines: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(run, colour, marker) of each run, in their order; `standard` is black."""
    from mtrobust.evaluation.pictures import BASE, OTHERS
    from mtrobust.evaluation.report.groups import REFERENCE

    found, others = [], 0
    for at, label in enumerate(dict.fromkeys(line["run"] for line in lines)):
        method = next(line["method"] for line in lines if line["run"] == label)
        colour = BASE if method == REFERENCE else OTHERS[others % len(OTHERS)]
        others += method != REFERENCE
        found.append((label, colour, "osD^vPX"[at % 7]))
    return found


ANALYSES: Registry[type[Analysis]] = Registry("analysis")
