"""mtrobust: robust multi-task fine-tuning of pretrained encoders.

The names of `mtrobust.api` can be imported from here; nothing is loaded before one of them is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtrobust.api import (
        RunError,
        UserError,
        batches,
        build_model,
        build_step,
        evaluate,
        export,
        load_run,
        load_task_defs,
        predict,
        read_rows,
        regularize,
        train,
    )

__version__ = "0.1.0"
__all__ = [
    "train", "load_run", "evaluate", "predict", "export", "load_task_defs", "read_rows", "build_model", "build_step",
    "batches", "regularize", "UserError", "RunError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The names of the interface, on first use."""
    if name in __all__:
        import importlib

        return getattr(importlib.import_module("mtrobust.api"), name)
    raise AttributeError(f"module 'mtrobust' has no attribute {name!r} (it has: {', '.join(__all__)})")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
