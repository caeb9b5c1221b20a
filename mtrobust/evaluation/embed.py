"""Hidden states of a trained encoder for a file of rows: of every token, or one vector per text."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from mtrobust.data.collator import Collator
from mtrobust.data.rows import iter_rows
from mtrobust.errors import UserError
from mtrobust.evaluation.evaluator import evaluating
from mtrobust.evaluation.predict import CHUNK
from mtrobust.evaluation.run_folder import Run, atomic_file, json_line
from mtrobust.files import output_faults
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
    in the order of the rows, or `.safetensors` (see docs/tasks.md for both); neither is held in memory. The states are
    those of evaluation: float32, no dropout, no perturbation. Raises `UserError` for bad rows and layers.
    """
    definition, source, target = run.task(task), Path(input), Path(output)
    if faults := output_faults("--output", target, source):
        raise UserError(faults)
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
    ids, windows, offsets = [], [], [0]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder, ExitStack() as stack:
        parts: dict[str, _Part] = {}

        def add(name: str, array: np.ndarray) -> None:
            if name not in parts:
                parts[name] = _Part(stack.enter_context(open(Path(folder) / name, "w+b")), _DTYPES[str(array.dtype)])
            parts[name].add(array)

        for one in found:
            ids.append(one.id)
            windows.append(one.window)
            offsets.append(offsets[-1] + len(one.input_ids))
            for name, array in one.states.items():
                add(name, array)
            if pool == "none":
                add("input_ids", one.input_ids)
        if pool == "none":
            add("offsets", np.array(offsets, np.int64))
        notes = {"ids": json.dumps(ids, ensure_ascii=False), "windows": json.dumps(windows), "pool": pool}
        with atomic_file(target, binary=True) as file:
            _join(parts, notes, file)
    return len(ids)


_DTYPES = {"float32": "F32", "int32": "I32", "int64": "I64"}  # as safetensors names them


class _Part:
    """One tensor of a safetensors file while its length is not known: rows of one shape, appended to a file."""

    def __init__(self, file: BinaryIO, dtype: str) -> None:
        self.file, self.dtype, self.rows, self.inner = file, dtype, 0, [0]

    def add(self, array: np.ndarray) -> None:
        """[width]: a row; [rows, width]: several; of whole numbers [rows]."""
        rows = array if array.ndim > 1 or self.dtype != "F32" else array[None]
        self.rows, self.inner = self.rows + len(rows), list(rows.shape[1:])
        self.file.write(np.ascontiguousarray(rows).astype(rows.dtype.newbyteorder("<"), copy=False).tobytes())


def _join(parts: Mapping[str, _Part], notes: dict[str, str], file: IO[Any]) -> None:
    """A safetensors file: the length of the header, the header (JSON, padded to eight bytes), the tensors. The library
    wants all of them in memory."""
    header: dict[str, Any] = {"__metadata__": notes}
    at = 0
    for name, part in sorted(parts.items(), key=lambda item: -int(item[1].dtype[1:])):  # aligned: wide numbers first
        size = part.file.tell()
        header[name] = {"dtype": part.dtype, "shape": [part.rows, *part.inner], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in list(header)[1:]:
        parts[name].file.seek(0)
        shutil.copyfileobj(parts[name].file, file, 2**20)
