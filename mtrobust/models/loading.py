"""What every load of a Hugging Face model needs: less noise, and errors in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as hf_logging


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """transformers draws a progress bar even for a load of a tenth of a second; not inside."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


@contextmanager
def errors_only() -> Iterator[None]:
    """transformers prints a report of missing weights, also where these are refused in one line; not inside."""
    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)


def first_line(error: Exception) -> str:
    """The first non-empty line of an exception's message."""
    return next((line.strip() for line in str(error).split("\n") if line.strip()), type(error).__name__)
