"""What an attack is: it takes one row that a model gets right and looks for a text that the model gets wrong.

Imports no torch, so that options are checked before anything heavy is loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mtrobust.config import StrictModel
from mtrobust.registry import Registry

if TYPE_CHECKING:
    from mtrobust.evaluation.attacks.victim import Victim


class AttackOptions(StrictModel):
    """Options of an attack: each field is a flag of `mtrobust attack`."""

    @classmethod
    def file_faults(cls, given: Mapping[str, str]) -> list[str]:
        """Faults that need the file system to be seen, as `--flag: value: message`. given: values as they were typed,
        so that these faults are found beside the others."""
        return []

    def sources(self) -> dict[str, Path]:
        """Files and model folders whose contents decide what is found, by option; not what comes from a hub."""
        return {}

    def notes(self) -> list[str]:
        """What a reader of the figures must know of these options."""
        return []


@dataclass(frozen=True)
class Change:
    """One word replaced. index: its number among the words of the text, from 0."""

    index: int
    before: str
    after: str


@dataclass(frozen=True)
class Outcome:
    """What became of one row. Predictions are label numbers.

    success: None where the model was wrong before any change; adversarial: the changed text of the attacked field, and
    changes: what was done to it, both of a success only; queries: predictions that were asked of the model; words: of
    the attacked text.
    """

    prediction: int
    success: bool | None
    queries: int
    words: int
    adversarial: str | None = None
    adversarial_prediction: int | None = None
    changes: list[Change] = field(default_factory=list)


class Attack(ABC):
    """One way of looking for such a text. A subclass in one file, registered by one decorator, is a new attack.

    An attack asks the victim nothing but label probabilities, and says with every outcome how often it asked. What it
    finds for a row depends on the row, the options and the models alone: not on other rows, not on the order of rows.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    task_types: ClassVar[tuple[str, ...]] = ("Classification",)
    Options: ClassVar[type[AttackOptions]]

    def __init__(self, options: AttackOptions, victim: Victim, field: str) -> None:
        """victim: what is attacked; field: which of a row's texts is changed, `text` or `text_pair`."""
        self.victim, self.field = victim, field

    @abstractmethod
    def run(self, row: Mapping[str, Any]) -> Outcome:
        """Attacks one labelled row, as `read_rows` gives it."""


ATTACKS: Registry[type[Attack]] = Registry("attack")
