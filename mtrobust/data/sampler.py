"""Which rows make up which optimisation step: one task per step, a pure function of (seed, step number).

Every task has a stream of steps: pass 0 over its rows in one shuffled order, pass 1 in another, and so on. An epoch
takes a number of steps from each stream (the policy) and shuffles them among each other. Nothing is drawn on the way,
so any step of a run is found by its number alone, and a resumed run needs no replay.

All ranks and all micro-batches of a step are of the same task. What rows a step holds depends on its total size only,
so two ranks with batches of 8, accumulation over two batches of 8, and one batch of 16 train on the same steps.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mtrobust.registry import Registry

BUCKET_STEPS = 50  # steps whose rows are shuffled together, then sorted by length


@dataclass(frozen=True)
class TaskRows:
    """The training rows of one task.

    lengths: int [n], tokens of each row (of its longest text, where it has several); batch_size: rows per micro-batch
    and rank; sizes: int [n], texts of each row, which stand in the same batch (default: one each).
    """

    lengths: np.ndarray
    batch_size: int
    sizes: np.ndarray = field(default=None)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        if self.sizes is None:
            object.__setattr__(self, "sizes", np.broadcast_to(np.int64(1), len(self.lengths)))


class MicroBatch(NamedTuple):
    """Row positions of one micro-batch of one rank. ghost: there was no row left for this rank; it runs a copy of
    another rank's row, whose loss must be multiplied by zero, so that all ranks stay in step."""

    rows: np.ndarray
    ghost: bool = False


class SampledStep(NamedTuple):
    """One optimisation step as one rank sees it. rows: all rows of the step, those of the other ranks included."""

    number: int
    epoch: int
    position: int  # within the epoch
    task: str
    rows: np.ndarray
    micro: tuple[MicroBatch, ...]


class _Pass(NamedTuple):
    order: np.ndarray  # row positions, [n]
    bounds: np.ndarray  # micro-batch i holds order[bounds[i] : bounds[i + 1]]
    steps: np.ndarray  # shuffled step numbers: step s holds the micro-batches from s * per_step


@dataclass
class _Stream:
    """The endless sequence of steps of one task."""

    rows: TaskRows
    key: tuple[int, ...]
    per_step: int  # micro-batches per step, over all ranks
    max_tokens: int | None
    by_length: bool
    _counts: list[int] = field(default_factory=list)
    _passes: dict[int, _Pass] = field(default_factory=dict)

    def count(self, number: int) -> int:
        """Steps of a pass."""
        if self.max_tokens is None:
            return math.ceil(len(self.rows.lengths) / (self.rows.batch_size * self.per_step))
        while len(self._counts) <= number:
            made = self._make(len(self._counts))
            if len(self._passes) < 2:  # a run begins with these; counting all its epochs must not drive them out
                self._passes[len(self._counts)] = made
            self._counts.append(len(made.steps))
        return self._counts[number]

    def get(self, number: int) -> _Pass:
        """A pass; only the last two are kept."""
        if number not in self._passes:
            while len(self._passes) > 1:
                del self._passes[next(iter(self._passes))]
            self._passes[number] = self._make(number)
        return self._passes[number]

    def _make(self, number: int) -> _Pass:
        lengths, sizes = self.rows.lengths, self.rows.sizes
        rng = _rng(*self.key, number)
        order = rng.permutation(len(lengths))
        if self.by_length:
            if self.max_tokens is None:
                size = self.rows.batch_size * self.per_step
            else:
                size = max(1, int(self.max_tokens * self.per_step / max(float((lengths * sizes).mean()), 1.0)))
            order = _bucketed(order, lengths, size * BUCKET_STEPS)
        if self.max_tokens is None:
            bounds = np.append(np.arange(0, len(order), self.rows.batch_size), len(order))
        else:
            bounds = _packed(lengths[order], sizes[order], self.max_tokens)
        return _Pass(order, bounds, rng.permutation(math.ceil((len(bounds) - 1) / self.per_step)))

    def chunks(self, position: int) -> list[np.ndarray]:
        """The micro-batches of the step at a position of the stream."""
        number = 0
        if self.max_tokens is None:
            number, position = divmod(position, self.count(0))
        else:
            while position >= self.count(number):
                position -= self.count(number)
                number += 1
        made = self.get(number)
        first = int(made.steps[position]) * self.per_step
        bounds = made.bounds[first : first + self.per_step + 1]
        return [made.order[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


POLICIES: Registry[Callable[[MultiTaskSampler, int], list[int]]] = Registry("sampling policy")


class MultiTaskSampler:
    """The steps of a training run.

    tasks: rows by task name; sampling: the policy's name, the other keywords as the fields of `TrainConfig`; rank,
    world_size: this process among all; accumulation: micro-batches per rank and step; max_tokens: micro-batches of at
    most so many tokens, padding included, instead of `batch_size` rows (a longer row stands alone); main_last: an epoch
    ends with the steps of `main_task`, all others are shuffled before them.

    An epoch has as many steps as one pass over all tasks takes together (`main_ratio`: as the main task takes, plus
    its share of others). Under every policy a task's rows are each seen once before any is seen again.
    """

    def __init__(
        self,
        tasks: Mapping[str, TaskRows],
        *,
        sampling: str = "proportional",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        max_tokens: int | None = None,
        group_by_length: bool = True,
        temperature: float = 2.0,
        main_task: str | None = None,
        main_task_ratio: float = 0.4,
        main_last: bool = False,
        num_epochs: float = 3.0,
        max_steps: int | None = None,
    ) -> None:
        empty = [name for name, rows in tasks.items() if len(rows.lengths) == 0]
        if empty or not tasks:
            raise ValueError(f"no rows to sample from: {', '.join(empty) or 'no tasks'}")
        self.names = list(tasks)
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.temperature, self.main_task, self.main_task_ratio = temperature, main_task, main_task_ratio
        self.main_last = main_last
        self.tasks = dict(tasks)
        self._policy = POLICIES[sampling]
        self._streams = [
            _Stream(rows, (seed, 0, zlib.crc32(name.encode())), world_size * accumulation, max_tokens, group_by_length)
            for name, rows in tasks.items()
        ]
        self._quotas: list[list[int]] = []
        self._starts = [0]  # first step number of each epoch known so far
        self._before = [[0] * len(self.names)]  # steps taken from each stream before it
        self._plan: tuple[int, np.ndarray, np.ndarray] | None = None
        # The annealed policy must know how many epochs there are; a proportional epoch has the same length.
        first = sum(self.pass_steps(0))
        self.num_epochs = math.ceil(num_epochs) if max_steps is None else math.ceil(max_steps / first)
        self.total_steps = max_steps if max_steps is not None else self._steps_of(num_epochs)

    def pass_steps(self, number: int) -> list[int]:
        """Steps that pass `number` of each task takes."""
        return [stream.count(number) for stream in self._streams]

    def steps_in_epoch(self, epoch: int) -> int:
        """Optimisation steps of an epoch."""
        self._extend(epoch)
        return sum(self._quotas[epoch])

    def quotas(self, epoch: int) -> dict[str, int]:
        """Steps of each task in an epoch."""
        self._extend(epoch)
        return dict(zip(self.names, self._quotas[epoch], strict=True))

    def locate(self, number: int) -> tuple[int, int]:
        """(epoch, index within it) of a step number."""
        while self._starts[-1] <= number:
            self._extend(len(self._starts) - 1)
        epoch = int(np.searchsorted(self._starts, number, side="right")) - 1
        return epoch, number - self._starts[epoch]

    def ends_epoch(self, number: int) -> bool:
        """Whether a step is the last one of its epoch."""
        epoch, index = self.locate(number)
        return index + 1 == self.steps_in_epoch(epoch)

    def at(self, number: int) -> SampledStep:
        """The step with this number (from 0) for this rank."""
        epoch, index = self.locate(number)
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, *self._shuffled(epoch))
        _, order, positions = self._plan
        which = int(order[index])
        chunks = self._streams[which].chunks(int(positions[index]))
        task = self.names[which]
        micro = _share(chunks, self.tasks[task], self.rank, self.world_size)
        return SampledStep(number, epoch, index, task, np.concatenate(chunks), micro)

    def _shuffled(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """For each step of the epoch: which task, and which position of that task's stream."""
        self._extend(epoch)
        tasks = np.repeat(np.arange(len(self.names)), self._quotas[epoch])
        order = _rng(self.seed, 1, epoch).permutation(tasks)
        if self.main_last:
            main = order == self.names.index(self.main_task or self.names[0])
            order = np.concatenate([order[~main], order[main]])
        positions = np.empty_like(order)
        for which, before in enumerate(self._before[epoch]):
            mine = np.flatnonzero(order == which)
            positions[mine] = before + np.arange(len(mine))
        return order, positions

    def _extend(self, epoch: int) -> None:
        while len(self._quotas) <= epoch:
            quota = self._policy(self, len(self._quotas))
            self._quotas.append(quota)
            self._starts.append(self._starts[-1] + sum(quota))
            self._before.append([a + b for a, b in zip(self._before[-1], quota, strict=True)])

    def _steps_of(self, epochs: float) -> int:
        whole = int(epochs)
        steps = sum(self.steps_in_epoch(epoch) for epoch in range(whole))
        rest = epochs - whole
        return max(1, steps + (math.ceil(rest * self.steps_in_epoch(whole)) if rest > 1e-9 else 0))


# --- policies: how many steps of each task make up an epoch -------------------------------------------------------


@POLICIES.register("proportional")
def _proportional(sampler: MultiTaskSampler, epoch: int) -> list[int]:
    """Every task once through."""
    return sampler.pass_steps(epoch)


@POLICIES.register("sqrt")
def _sqrt(sampler: MultiTaskSampler, epoch: int) -> list[int]:
    return _powered(sampler, 0.5)


@POLICIES.register("uniform")
def _uniform(sampler: MultiTaskSampler, epoch: int) -> list[int]:
    return _powered(sampler, 0.0)


@POLICIES.register("temperature")
def _temperature(sampler: MultiTaskSampler, epoch: int) -> list[int]:
    return _powered(sampler, 1 / sampler.temperature)


@POLICIES.register("annealed")
def _annealed(sampler: MultiTaskSampler, epoch: int) -> list[int]:
    """From proportional to nearly uniform: size^(1 - 0.8 (e-1)/(E-1)) (Stickland and Murray, 2019)."""
    done = min(epoch / max(sampler.num_epochs - 1, 1), 1.0)
    return _powered(sampler, 1 - 0.8 * done)


@POLICIES.register("main_ratio")
def _main_ratio(sampler: MultiTaskSampler, epoch: int) -> list[int]:
    """The main task once through; from the pool of all other tasks' steps as many as `main_task_ratio` says."""
    sizes = sampler.pass_steps(epoch)
    main = sampler.names.index(sampler.main_task) if sampler.main_task in sampler.names else 0
    pool = [0 if which == main else size for which, size in enumerate(sizes)]
    others = min(round(sampler.main_task_ratio * sizes[main]), sum(pool))
    drawn = _rng(sampler.seed, 2, epoch).multivariate_hypergeometric(pool, others)
    return [sizes[main] if which == main else int(count) for which, count in enumerate(drawn)]


def _powered(sampler: MultiTaskSampler, exponent: float) -> list[int]:
    """Steps in proportion to size^exponent (size: steps of a pass); the fractions go to the largest remainders."""
    sizes = np.array(sampler.pass_steps(0), dtype=np.float64)
    exact = sizes**exponent / (sizes**exponent).sum() * sizes.sum()
    quota = np.floor(exact + 1e-9).astype(int)
    short = int(sizes.sum()) - int(quota.sum())
    quota[np.argsort(-(exact - quota), kind="stable")[:short]] += 1
    return [int(count) for count in quota]


# --- orders and shares --------------------------------------------------------------------------------------------


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def _bucketed(order: np.ndarray, lengths: np.ndarray, size: int) -> np.ndarray:
    """`order` in buckets of `size` rows, each bucket sorted from long to short."""
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    return np.concatenate([part[np.argsort(-lengths[part].astype(np.int64), kind="stable")] for part in parts])


def _packed(lengths: np.ndarray, sizes: np.ndarray, budget: int) -> np.ndarray:
    """Bounds of consecutive groups with texts * longest <= budget; a row that is larger stands alone."""
    bounds, start = [0], 0
    while start < len(lengths):
        first = max(1, int(lengths[start]))
        part = slice(start, start + max(1, budget // first))  # more than these cannot fit beside the first
        over = np.maximum.accumulate(lengths[part].astype(np.int64)) * np.cumsum(sizes[part]) > budget
        start += max(1, int(over.argmax())) if over.any() else len(over)
        bounds.append(start)
    return np.array(bounds)


def _share(chunks: list[np.ndarray], rows: TaskRows, rank: int, world: int) -> tuple[MicroBatch, ...]:
    """The chunks of one rank. The last step of a pass may have a number that ranks cannot share: the chunks with most
    rows are halved until they can; with fewer rows than places, the places left over are ghosts."""
    chunks = list(chunks)
    while len(chunks) % world and max(map(len, chunks)) > 1:
        largest = max(range(len(chunks)), key=lambda i: len(chunks[i]))
        whole = chunks[largest]
        chunks[largest : largest + 1] = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
    # Chunks of similar cost run side by side on the ranks; the most expensive first.
    chunks.sort(key=lambda chunk: -int(rows.lengths[chunk].max()) * int(rows.sizes[chunk].sum()))
    ghost = MicroBatch(chunks[-1][-1:], ghost=True)
    places = [MicroBatch(chunk) for chunk in chunks] + [ghost] * (-len(chunks) % world)
    return tuple(places[rank::world])
