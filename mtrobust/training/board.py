"""What TensorBoard is given: scalars, histograms, the configuration, HParams, a layout of charts, sample predictions.

docs/monitoring.md lists the tags. Everything has a step (the end that of a step after the last), or belongs to the
whole run and is written once when it begins, so that purging what came after a checkpoint leaves a resumed run's board
without gaps and without doubles.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mtrobust.config import TrainConfig
from mtrobust.perturb import METHODS
from mtrobust.perturb.spread import upper

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

FOLDER = "tensorboard"
_FLUSHED = 15  # seconds until a point can be seen
# Places, and what changes nothing in the numbers: the same run elsewhere has the same HParams.
_NO_HPARAMS = {
    *("output_dir", "cache_dir", "resume", "overwrite_output_dir", "trust_remote_code", "use_cpu", "progress"),
    *("profile", "save_steps", "save_total_limit", "logging_steps", "per_device_eval_batch_size", "perturb"),
}


class Board:
    """The event files of one run. purge: the first step that is written anew; 0 for a new run."""

    def __init__(self, run_dir: Path, purge: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # A new run says so too: TensorBoard takes the first start that it reads for the run's, and purges nothing then.
        self._writer = SummaryWriter(str(run_dir / FOLDER), purge_step=purge, flush_secs=_FLUSHED)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Values by tag."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def choices(self, tag: str, counts: Mapping[str, int], step: int) -> None:
        """A histogram of whole numbers; each has a bar of width 1 around it."""
        found = {int(value): count for value, count in counts.items()}
        numbers = range(min(found), max(found) + 1)
        bars = [(value - 0.5, value + 0.5, float(value), found.get(value, 0)) for value in numbers]
        self._histogram(tag, bars, step)

    def sizes(self, tag: str, counts: Mapping[int, int], step: int) -> None:
        """A histogram of sizes, counted in the buckets of `mtrobust.perturb.spread`."""
        bars = []
        for bucket in range(min(counts), max(counts) + 1):
            low, high = upper(bucket - 1) if bucket else 0.0, upper(bucket)
            bars.append((low, high, (low + high) / 2, counts.get(bucket, 0)))
        self._histogram(tag, bars, step)

    def _histogram(self, tag: str, bars: Sequence[tuple[float, float, float, int]], step: int) -> None:
        """bars: lower and upper bound, what stands for the values inside, how many there are; from low to high."""
        self._writer.add_histogram_raw(
            tag,
            min=bars[0][0],
            max=bars[-1][1],
            num=sum(count for *_, count in bars),
            sum=sum(value * count for _, _, value, count in bars),
            sum_squares=sum(value**2 * count for _, _, value, count in bars),
            bucket_limits=[high for _, high, _, _ in bars],
            bucket_counts=[count for *_, count in bars],
            global_step=step,
        )

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """A text under exactly this tag."""
        from torch.utils.tensorboard.summary import text

        summary = text(tag, markdown)
        summary.value[0].tag = tag
        self._write(summary, step)

    def begin(self, config: TrainConfig) -> None:
        """What belongs to a whole run: its configuration, as text and as HParams."""
        plain = config.model_dump(mode="json", exclude={"resume", "overwrite_output_dir"})
        plain["perturb"] = [{"name": name, **options} for name, options in _methods(config).items()]
        written = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
        self.text("config", "\n".join(f"    {line}" for line in written.split("\n")))
        # Without a summary of the "experiment": with one, TensorBoard would show the first run's columns only.
        for summary in _hparams(hyperparameters(config))[1:2]:
            self._write(summary)

    def end(self, step: int) -> None:
        """The run came to its end: its HParams are those of a whole session. step: one after all others, so that this
        is purged like a point where the process is killed right after it, and the run goes on from a checkpoint."""
        self._write(_hparams({})[2], step)

    def layout(self, tasks: Mapping[str, Iterable[str]], step: int) -> None:
        """The page "Custom Scalars": for each task, with the names of its terms, three charts."""
        from torch.utils.tensorboard.summary import custom_scalars

        self._write(custom_scalars({task: charts(task, terms) for task, terms in tasks.items()}), step)

    def _write(self, summary: Summary, step: int = 0) -> None:
        self._writer._get_file_writer().add_summary(summary, step)

    def flush(self) -> None:
        """What was given so far outlives the process."""
        self._writer.flush()

    def close(self) -> None:
        """Closes the files."""
        self._writer.close()


def charts(task: str, terms: Iterable[str]) -> dict[str, list[Any]]:
    """The charts of a task: title -> kind and patterns of tags. A task without a regulariser has two."""
    named = [term for term in terms if term not in ("loss", "task")]
    regulariser = {f"regulariser: {', '.join(named)}": [f"^train/{re.escape(task)}/{re.escape(t)}$" for t in named]}
    found = {
        "clean loss": [f"^train/{re.escape(task)}/task$"],
        **(regulariser if named else {}),
        "dev metrics": [f"^eval/{re.escape(task)}/[^/]+$"],
    }
    return {title: ["Multiline", tags] for title, tags in found.items()}


def hyperparameters(config: TrainConfig) -> dict[str, bool | int | float | str]:
    """What runs of a sweep are compared by: the settings, the methods' names as `perturb`, and of each method all
    options, those left at their default too, as `<method>.<option>`. Runs of the same methods have the same keys."""
    plain = config.model_dump(mode="json", exclude=_NO_HPARAMS)
    plain["perturb"] = [spec.name for spec in config.perturb] or "standard"
    for name, options in _methods(config).items():
        plain |= {f"{name}.{key}": value for key, value in options.items()}
    return {key: _plain(value) for key, value in plain.items()}


def _methods(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """All options of the run's methods, by name."""
    return {spec.name: METHODS[spec.name].Options(**spec.options).model_dump(mode="json") for spec in config.perturb}


def _plain(value: Any) -> bool | int | float | str:
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def _hparams(values: Mapping[str, Any]) -> tuple[Summary, Summary, Summary]:
    """(experiment, start of a session, end of a session)."""
    from torch.utils.tensorboard.summary import hparams

    return hparams(dict(values), {})


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table of texts as they are: nothing in them is read as Markdown or HTML."""
    lines = [columns, ["---"] * len(columns), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _cell(value: object) -> str:
    words = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", words)
