"""Features of a split: tokenised once, kept in an Arrow file on disk, read through memory-mapped NumPy views.

The file's name is a hash of everything the features follow from, so a changed data file, tokenizer, length, definition
or task type makes a new one and nothing stale is ever read. Beside it stands a small JSON file with the size and
checksum, written last: a cache without it, or that does not match it, is built again.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtrobust.data.rows import find_split, iter_rows
from mtrobust.errors import RunError, UserError
from mtrobust.tasks.tokenised import is_tokenised

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

    from mtrobust.tasks.base import Column
    from mtrobust.tasks.taskdef import TaskDef

VERSION = 2  # of the file layout
CHUNK = 4096  # features per record batch: all batches but the last have this many, so a feature is found by division
_ROWS_AT_ONCE = 1000  # rows tokenised in one call
# settings of a definition that the features do not depend on; any other key makes a new cache file
_IRRELEVANT = {
    "name", "metric_meta", "split_names", "dropout_p", "loss", "kd_loss", "kd_temperature", "adv_loss", "actf",
    "san_steps", "san_step_dropout", "head_input",
    "encoder_type", "max_len", "batch_size", "weight", "data", "perturb", "eval_sets", "n_best", "span_positions",
    "mlm_probability", "whole_word_masking", "ranking_loss", "num_beams", "length_penalty",
}  # fmt: skip

log = logging.getLogger(__name__)
Progress = Callable[[int], None]


class Features:
    """The features of one split; several may come from one row (windows of a long passage).

    task, split: whose they are; n_rows: rows of the data file; columns: the task type's columns; lengths: int32 [n],
    tokens per feature; rows: int32 [n], the row each came from; row_ids: int64 [n], the number of each feature in the
    whole split, the same in every run on this file (noise is keyed by it). Memory grows by 16 bytes a feature.
    """

    def __init__(
        self, task: TaskDef, split: str, batches: list[pa.RecordBatch], n_rows: int, index: np.ndarray | None = None
    ) -> None:
        self.task, self.split, self.n_rows = task.name, split, n_rows
        self.columns: dict[str, Column] = dict(task.type.columns)
        self._definition, self._batches = task, batches
        self._chunks = [_views(batch, self.columns) for batch in batches]
        self.has_token_type_ids = "token_type_ids" in self._chunks[0].tokens
        lengths = np.concatenate([np.diff(chunk.offsets) for chunk in self._chunks]).astype(np.int32, copy=False)
        rows = np.concatenate([chunk.scalars["row"] for chunk in self._chunks])
        self.row_ids = np.arange(len(lengths), dtype=np.int64) if index is None else index
        self.lengths = lengths if index is None else lengths[index]
        self.rows = rows if index is None else rows[index]

    def __len__(self) -> int:
        return len(self.row_ids)

    def row(self, i: int) -> dict[str, Any]:
        """Feature i: per-token columns as read-only arrays of its length (no copy), the others as NumPy scalars."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"feature {i} of {len(self)}")
        chunk_number, j = divmod(int(self.row_ids[i]), CHUNK)
        chunk = self._chunks[chunk_number]
        begin, end = chunk.offsets[j], chunk.offsets[j + 1]
        out: dict[str, Any] = {name: values[begin:end] for name, values in chunk.tokens.items()}
        for name, values in chunk.scalars.items():
            out[name] = values[j]
        for name, (bounds, values) in chunk.lists.items():
            out[name] = values[bounds[j] : bounds[j + 1]]
        return out

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.row(i)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.row(i) for i in range(len(self)))

    def scalar(self, name: str) -> np.ndarray:
        """A column that has one value per feature, [n]."""
        return np.concatenate([chunk.scalars[name] for chunk in self._chunks])[self.row_ids]

    def digest(self) -> str:
        """16 hex digits over all features of the split in their order, wherever the cache lies and whatever made it."""
        found = hashlib.blake2b(digest_size=8)
        for chunk in self._chunks:
            lists = {f"{name}/{i}": part for name, pair in chunk.lists.items() for i, part in enumerate(pair)}
            for name, values in sorted(({"": chunk.offsets} | chunk.tokens | chunk.scalars | lists).items()):
                found.update(f"{name} {values.dtype} {values.shape} ".encode() + values.tobytes())
        return found.hexdigest()

    def subset(self, rows: np.ndarray) -> Features:
        """The features of some rows (numbers in the data file), in the file's order; `row_ids` stay what they were."""
        index = self.row_ids[np.isin(self.rows, rows)]
        return Features(self._definition, self.split, self._batches, self.n_rows, index)


class _Chunk:
    """NumPy views on one record batch: where each feature's tokens begin, per-token values, one value (or vector) per
    feature, and lists as (where each feature's begins, values)."""

    def __init__(
        self,
        offsets: np.ndarray,
        tokens: dict[str, np.ndarray],
        scalars: dict[str, np.ndarray],
        lists: dict[str, tuple[np.ndarray, np.ndarray]],
    ) -> None:
        self.offsets, self.tokens, self.scalars, self.lists = offsets, tokens, scalars, lists


def _views(batch: pa.RecordBatch, columns: dict[str, Column]) -> _Chunk:
    """Views without copying. Booleans are stored as bytes, since Arrow's own are bits."""
    offsets = _array(batch.column("input_ids").offsets)
    tokens: dict[str, np.ndarray] = {}
    scalars: dict[str, np.ndarray] = {}
    lists: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in batch.schema.names:
        column = batch.column(name)
        shape = columns[name].shape if name in columns else "token" if hasattr(column, "values") else "scalar"
        array = _array(column if shape == "scalar" else column.values)
        if name in columns and columns[name].dtype == "bool":
            array = array.view(np.bool_)
        if shape == "list":
            lists[name] = (_array(column.offsets), array)
        elif shape == "token":
            tokens[name] = array
        else:
            scalars[name] = array.reshape(len(column), -1) if shape == "vector" else array
    return _Chunk(offsets, tokens, scalars, lists)


def _array(values: pa.Array) -> np.ndarray:
    """A read-only view on numbers. Arrow's own `to_numpy` imports pandas: a fifth of a second and 36 MiB."""
    dtype = np.dtype(values.type.to_pandas_dtype())
    if not len(values):  # no buffer
        return np.empty(0, dtype)
    return np.frombuffer(values.buffers()[1], dtype, len(values), values.offset * dtype.itemsize)


def load_features(
    task: TaskDef,
    split: str,
    data_dir: Path,
    tokenizer: PreTrainedTokenizerBase,
    max_len: int,
    cache_dir: Path,
    training: bool,
    progress: Progress | None = None,
) -> Features:
    """The features of a split, from the cache where they are already there.

    max_len: tokens per example where the definition sets none; cache_dir: made where missing; training: passed on to
    the task type's `featurize`; progress: called with the number of rows done so far while a cache is built.
    Raises `UserError` for bad rows, a missing file or an unusable `cache_dir`, `RunError` when writing fails midway.
    """
    source = find_split(task, data_dir, split)
    length = task.max_len or max_len
    name = f"{task.name}.{split}.{_key(task, source, tokenizer, length, training)}.arrow"
    target = Path(cache_dir) / name
    features = _open(task, split, target)
    if features is None:
        _build(task, source, tokenizer, length, target, training, progress)
        features = _open(task, split, target)
    if features is None:
        raise RunError(f"{target}: cannot be read back after writing; choose another --cache_dir")
    remark = task.type.remark(features.scalar)
    if remark:
        log.warning("%s.%s: %s", task.name, split, remark)
    return features


# --- the key ----------------------------------------------------------------------------------------------------------


def _key(task: TaskDef, source: Path, tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool) -> str:
    """32 hex digits over the data, the tokenizer, the settings and the code that makes features."""
    digest = hashlib.blake2b(digest_size=16)
    settings = task.model_dump(mode="json", exclude=_IRRELEVANT)
    facts = {"version": VERSION, "max_len": max_len, "training": training, "settings": settings}
    digest.update(json.dumps(facts, sort_keys=True).encode())
    digest.update(_tokenizer_digest(tokenizer))
    for file in sorted(_code_files(type(task.type))):
        digest.update(hashlib.blake2b(file.read_bytes()).digest())
    digest.update(source.name.partition(".")[2].encode())  # the ending says how the bytes are read
    with source.open("rb") as data:
        while block := data.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> bytes:
    """A hash of what a fast tokenizer does to a text, whatever truncation it was last called with."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"tokenizer {type(tokenizer).__name__}: a fast tokenizer (tokenizer.json) is needed")
    import tokenizers

    truncation, padding = backend.truncation, backend.padding
    backend.no_truncation()
    backend.no_padding()
    try:
        text = backend.to_str()
    finally:
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)
    facts = [tokenizers.__version__, type(tokenizer).__name__, tokenizer.truncation_side, tokenizer.model_input_names]
    facts.append(tokenizer.split_special_tokens)  # no part of the backend's text
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id]
    special += [tokenizer.bos_token_id, *sorted(set(tokenizer.all_special_ids))]  # those that task types look for
    return hashlib.blake2b(json.dumps([text, facts, special], default=str).encode()).digest()


def _code_files(kind: type) -> set[Path]:
    """The source files of a task type and its bases, and of modules that these import whole: a changed `featurize` must
    not read an old cache."""
    files = set()
    for base in kind.__mro__[:-1]:
        try:
            files.add(Path(inspect.getfile(base)))
        except (TypeError, OSError):  # defined in a session, without a file
            continue
        beside = inspect.getmembers(sys.modules[base.__module__], inspect.ismodule)
        files |= {Path(str(module.__file__)) for _, module in beside if module.__name__.startswith("mtrobust.tasks.")}
    return {file for file in files if file.is_file()}


# --- reading ----------------------------------------------------------------------------------------------------------


def _sidecar(target: Path) -> Path:
    return target.with_suffix(".json")


def _open(task: TaskDef, split: str, target: Path) -> Features | None:
    """The features of a cache file; None where there is none or it is damaged."""
    if not target.is_file():
        return None
    import pyarrow as pa

    try:
        facts = json.loads(_sidecar(target).read_text(encoding="utf-8"))
        if facts["size"] != target.stat().st_size or facts["crc32"] != _checksum(target):
            raise ValueError("size or checksum differ")
        reader = pa.ipc.open_file(pa.memory_map(str(target)))
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        return Features(task, split, batches, int(facts["rows"]))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        log.warning("%s: cached features are incomplete or damaged (%s); building them again", target, error)
        return None


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum


# --- building ---------------------------------------------------------------------------------------------------------


def _build(
    task: TaskDef,
    source: Path,
    tokenizer: PreTrainedTokenizerBase,
    max_len: int,
    target: Path,
    training: bool,
    progress: Progress | None,
) -> None:
    """Writes the cache file under a temporary name, then moves it into place and adds the JSON file."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{target.parent}: features cannot be kept here: {reason}; choose another --cache_dir"
        ) from error
    try:
        with temporary.open("wb") as file:
            rows = _write(task, source, tokenizer, max_len, file, training, progress)
            file.flush()
            os.fsync(file.fileno())
        facts = {"rows": rows, "size": temporary.stat().st_size, "crc32": _checksum(temporary)}
        os.replace(temporary, target)
        temporary.write_text(json.dumps(facts) + "\n", encoding="utf-8", newline="\n")
        os.replace(temporary, _sidecar(target))
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{target.parent}: writing features failed: {reason}; choose another --cache_dir") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write(
    task: TaskDef,
    source: Path,
    tokenizer: PreTrainedTokenizerBase,
    max_len: int,
    file: Any,
    training: bool,
    progress: Progress | None,
) -> int:
    """Writes the features of all rows as record batches of `CHUNK`; returns the number of rows."""
    writer, rows = None, 0
    waiting: list[dict[str, Any]] = []

    def fits(row: dict[str, Any]) -> None:
        if is_tokenised(row):
            task.type.check_tokenised(row, tokenizer, max_len, training)

    for block in _blocks(iter_rows(task, source, fits)):
        for feature in task.type.featurize(block, tokenizer, max_len, training):
            feature["row"] = int(feature["row"]) + rows
            waiting.append(feature)
        rows += len(block)
        while len(waiting) >= CHUNK:
            writer = _put(writer, file, waiting[:CHUNK], task)
            del waiting[:CHUNK]
        if progress is not None:
            progress(rows)
    if waiting:
        writer = _put(writer, file, waiting, task)
    if writer is None:
        raise RunError(f"{source}: {task.type.__class__.__name__} made no features of {rows} rows")
    writer.close()
    return rows


def _blocks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    block: list[dict[str, Any]] = []
    for row in rows:
        block.append(row)
        if len(block) == _ROWS_AT_ONCE:
            yield block
            block = []
    if block:
        yield block


def _put(writer: Any, file: Any, features: list[dict[str, Any]], task: TaskDef) -> Any:
    """Appends one record batch; the first call makes the writer."""
    import pyarrow as pa

    columns = task.type.columns
    types = {"input_ids": "int32", "token_type_ids": "int8", "row": "int32"}
    types |= {name: "int8" if column.dtype == "bool" else column.dtype for name, column in columns.items()}
    shapes = {"input_ids": "token", "token_type_ids": "token", "row": "scalar"}
    shapes |= {name: column.shape for name, column in columns.items()}
    names = [name for name in types if name != "token_type_ids" or name in features[0]]
    lengths = np.array([len(feature["input_ids"]) for feature in features])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    arrays = []
    for name in names:
        if shapes[name] == "vector":
            block = np.array([feature[name] for feature in features], dtype=types[name])
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), block.shape[1]))
            continue
        if shapes[name] == "scalar":
            arrays.append(pa.array(np.array([feature[name] for feature in features], dtype=types[name])))
            continue
        values = np.concatenate([np.asarray(feature[name], dtype=types[name]) for feature in features])
        bounds = offsets
        if shapes[name] == "list":
            bounds = np.cumsum([0, *(len(feature[name]) for feature in features)]).astype(np.int32)
        elif len(values) != offsets[-1]:
            raise RunError(f"column {name} of task {task.name}: {len(values)} values for {offsets[-1]} tokens")
        arrays.append(pa.ListArray.from_arrays(pa.array(bounds), pa.array(values)))
    batch = pa.record_batch(arrays, names=names)
    if writer is None:
        writer = pa.ipc.new_file(file, batch.schema)
    writer.write_batch(batch)
    return writer
