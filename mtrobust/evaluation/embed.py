"""Hidden states of a trained encoder for a file of rows: of every token, or one vector per text."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from mtrobust.data.collator import Collator
from mtrobust.data.rows import iter_rows
from mtrobust.errors import UserError
from mtrobust.evaluation.evaluator import evaluating
from mtrobust.evaluation.predict import CHUNK, check_output
from mtrobust.evaluation.run_folder import Run, atomic_file, json_line
from mtrobust.perturb.layers import LayerSpec, Site

if TYPE_CHECKING:
    from mtrobust.tasks.taskdef import TaskDef

Pool = Literal["none", "mean", "first"]
SUFFIXES = (".jsonl", ".safetensors")


@dataclass(frozen=True)
class Embedded:
    """One feature of a row (a long context has several). states: by `words` or `layer_N`, float32, [T, width] of its
    real tokens or, pooled, [width]; input_ids: int32 [T]."""

    id: str
    window: int
    input_ids: np.ndarray
    states: dict[str, np.ndarray]


def embed(
    run: Run,
    task: str,
    input: str | os.PathLike[str],  # noqa: A002  (the flag's name)
    output: str | os.PathLike[str],
    *,
    layers: LayerSpec | None = None,
    pool: Pool = "mean",
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes the states of each row of `input` and returns how many features that were.

    layers: sites, default the last layer (its output, before a norm that some families put behind it). pool: `mean`
    over the real tokens, special ones included, the `first` token, or `none`. output: `.jsonl`, a line for each feature
    in the order of the rows, or `.safetensors`, which is made in memory (see docs/tasks.md for both). The states are
    those of evaluation: float32, no dropout, no perturbation. Raises `UserError` for bad rows and layers.
    """
    definition, source, target = run.task(task), Path(input), Path(output)
    check_output(source, target)
    if target.suffix not in SUFFIXES:
        raise UserError(f"--output: {target}: must end in {' or '.join(SUFFIXES)}")
    encoder = run.model.encoder
    sites = layers.resolve(encoder.num_layers, "--layers") if layers else [encoder.num_layers]
    total = sum(1 for _ in iter_rows(definition, source))  # looks at every row, keeps none
    found = embedded(run, definition, iter_rows(definition, source), sites, pool, batch_size)
    found = _counted(found, total, progress)
    return _write_lines(found, target, pool) if target.suffix == ".jsonl" else _write_tensors(found, target, pool)


def embedded(
    run: Run, task: TaskDef, rows: Iterable[dict[str, Any]], sites: Sequence[Site], pool: Pool, batch_size: int | None
) -> Iterator[Embedded]:
    """The features of the rows, in order; only `CHUNK` rows are taken from `rows` at a time."""
    collate = Collator(task, run.tokenizer.pad_token_id)  # not evaluation's batches: a masked LM's have masks
    size = batch_size or run.config.per_device_eval_batch_size
    remaining = iter(rows)
    while part := list(islice(remaining, CHUNK)):
        features = task.type.featurize(part, run.tokenizer, task.max_len or run.config.max_seq_length, training=False)
        states = _states(run, features, collate, sites, pool, size)
        window, before = 0, -1
        for feature, found in zip(features, states, strict=True):
            window = window + 1 if int(feature["row"]) == before else 0
            before = int(feature["row"])
            yield Embedded(str(part[before]["id"]), window, np.asarray(feature["input_ids"], np.int32), found)


def _states(
    run: Run, features: Sequence[Mapping[str, Any]], collate: Callable[[list[Any]], Any], sites: Sequence[Site],
    pool: Pool, size: int,
) -> list[dict[str, np.ndarray]]:  # fmt: skip
    """States of each feature; batches hold features of similar lengths, the longest first."""
    lengths = np.array([len(feature["input_ids"]) for feature in features])
    order = np.argsort(-lengths, kind="stable")
    device = next(run.model.parameters()).device
    done: dict[int, dict[str, np.ndarray]] = {}
    with evaluating(run.model, device):
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            batch = collate([features[i] for i in indices]).to(device)
            tape = run.model.encoder.record(batch.inputs, track=sites)
            states = {_name(site): tape.h[site].float().cpu().numpy() for site in sites}
            for at, i in enumerate(indices):
                # a copy: the batch is freed
                done[int(i)] = {key: _pooled(value[at, : lengths[i]], pool).copy() for key, value in states.items()}
    return [done[i] for i in range(len(features))]


def _name(site: Site) -> str:
    return "words" if site == "words" else f"layer_{site}"


def _pooled(states: np.ndarray, pool: Pool) -> np.ndarray:
    """[T, width] -> [width], or as it is."""
    return {"none": states, "mean": states.mean(0), "first": states[0]}[pool]


def _counted(found: Iterator[Embedded], total: int, progress: Callable[[int, int], None] | None) -> Iterator[Embedded]:
    """Tells of rows that are done, every `CHUNK`."""
    done = 0
    for one in found:
        done += one.window == 0
        yield one
        if progress and one.window == 0 and (done % CHUNK == 0 or done == total):
            progress(done, total)


def _write_lines(found: Iterator[Embedded], target: Path, pool: Pool) -> int:
    count = 0
    with atomic_file(target) as file:
        for one in found:
            record: dict[str, Any] = {"id": one.id, "window": one.window}
            if pool == "none":
                record["input_ids"] = one.input_ids.tolist()
            file.write(json_line(record | {key: value.tolist() for key, value in one.states.items()}))
            count += 1
    return count


def _write_tensors(found: Iterator[Embedded], target: Path, pool: Pool) -> int:
    """`{site: [n, width]}`; of tokens `{site: [tokens, width]}`, `offsets` int64 [n + 1] and `input_ids` int32."""
    from safetensors.numpy import save

    kept = list(found)
    names = list(kept[0].states)
    if pool == "none":
        tensors = {name: np.concatenate([one.states[name] for one in kept]) for name in names}
        tensors["input_ids"] = np.concatenate([one.input_ids for one in kept])
        tensors["offsets"] = np.cumsum([0, *(len(one.input_ids) for one in kept)], dtype=np.int64)
    else:
        tensors = {name: np.stack([one.states[name] for one in kept]) for name in names}
    ids = json.dumps([one.id for one in kept], ensure_ascii=False)
    windows = json.dumps([one.window for one in kept])
    with atomic_file(target) as file:
        content = save(tensors, metadata={"ids": ids, "windows": windows, "pool": pool})
        cast(io.TextIOWrapper, file).buffer.write(content)
    return len(kept)
