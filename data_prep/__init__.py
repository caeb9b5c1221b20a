"""Raw benchmark files (or the hub) to rows: the commands behind `mtrobust prep NAME`.

Nothing here imports models or training; `torch`, `transformers` and `datasets` only inside the commands that need them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from . import (
    advglue,
    augment,
    conll,
    glue,
    glue_check,
    hans,
    mrqa,
    nli,
    ranking,
    sample,
    sample_tags,
    squad,
    squad_adversarial,
    squadshifts,
    ssmba,
    text,
    textcls,
    textfooler,
    tiny_encoder,
)


@dataclass(frozen=True)
class Command:
    """One preparation command: a line of help, its options, and what it does (returns the exit code)."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS: dict[str, Command] = {
    name: Command(module.HELP, module.add_arguments, module.run)
    for name, module in {
        "glue": glue,
        "squad": squad,
        "textcls": textcls,
        "nli": nli,
        "hans": hans,
        "squad_adversarial": squad_adversarial,
        "squadshifts": squadshifts,
        "mrqa": mrqa,
        "advglue": advglue,
        "textfooler": textfooler,
        "conll": conll,
        "ranking": ranking,
        "text": text,
        "augment": augment,
        "ssmba": ssmba,
        "glue_check": glue_check,
        "sample": sample,
        "sample_tags": sample_tags,
        "tiny_encoder": tiny_encoder,
    }.items()
}
