"""The event files of a run as TensorBoard itself reads them: every tag is a series of tensors."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

KINDS = ("scalars", "histograms", "text", "custom_scalars", "hparams")


def read(run: Path) -> EventAccumulator:
    """Everything, nothing left out by sampling."""
    guidance = dict.fromkeys(KINDS, 0)
    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0}, tensor_size_guidance=guidance)
    board.Reload()
    return board


def tags(board: EventAccumulator, kind: str) -> set[str]:
    """The tags of one of the `KINDS`."""
    return set(board.PluginTagToContent(kind)) & set(board.Tags()["tensors"])


def values(board: EventAccumulator, tag: str) -> dict[int, object]:
    """What stands at each step: a number, [buckets, (low, high, count)], or texts. No step may be there twice."""
    events = board.Tensors(tag)
    assert len({event.step for event in events}) == len(events), tag
    return {event.step: make_ndarray(event.tensor_proto).tolist() for event in events}
