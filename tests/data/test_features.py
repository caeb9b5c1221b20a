"""The feature cache: same features from disk as from the task type, built once, rebuilt when anything changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtrobust.data import features as features_module
from mtrobust.data.features import load_features
from mtrobust.data.rows import read_rows
from mtrobust.errors import RunError, UserError
from mtrobust.tasks.taskdef import TaskDef, load_task_defs

PAIR = TaskDef(name="nli", task_type="Classification", data_format="PremiseAndOneHypothesis", labels=["no", "yes"])
SPAN = TaskDef(name="squad", task_type="SpanClassification", data_format="MRC", max_len=48)
WORDS = ["the", "old", "bridge", "near", "the", "river", "was", "built", "in", "1886", "and", "the", "lawyers", "slept"]


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def bert(tiny_model_dir: Callable[[str], Path]) -> Any:
    return tokenizer_of(tiny_model_dir("bert"))


def sentence(rng: np.random.Generator, most: int = 12) -> str:
    return " ".join(rng.choice(WORDS, size=int(rng.integers(1, most))))


def write_pairs(folder: Path, n: int) -> Path:
    """`n` rows in `<folder>/nli/train.jsonl`, every third without a label."""
    rng = np.random.default_rng(3)
    path = folder / "nli" / "train.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for i in range(n):
            row = {"text": sentence(rng), "text_pair": sentence(rng), "label": [0, 1, None][i % 3]}
            file.write(json.dumps(row) + "\n")
    return path


def write_questions(folder: Path) -> Path:
    rng = np.random.default_rng(4)
    path = folder / "squad" / "dev.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(12):
        context = " ".join([sentence(rng) for _ in range(1 + 6 * (i % 3))]) + " Zurich."
        answers = {"text": ["Zurich"], "answer_start": [context.index("Zurich")]}
        rows.append({"question": "Where was it built?", "context": context} | ({"answers": answers} if i % 4 else {}))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("chunk", [7, 4096])
def test_the_cache_gives_back_what_the_task_type_made(
    tmp_path: Path, bert: Any, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(features_module, "CHUNK", chunk)
    monkeypatch.setattr(features_module, "_ROWS_AT_ONCE", 5)
    for task, path, split in ((PAIR, write_pairs(tmp_path, 23), "train"), (SPAN, write_questions(tmp_path), "dev")):
        rows = read_rows(task, path)
        expected = task.type.featurize(rows, bert, task.max_len or 16, False)
        made = load_features(task, split, tmp_path, bert, 16, tmp_path / "cache", training=False)
        assert len(made) == len(expected) and made.n_rows == len(rows)
        for i, feature in enumerate(expected):
            assert same(made.row(i), feature)
        assert made.lengths.dtype == np.int32
        assert made.lengths.tolist() == [len(feature["input_ids"]) for feature in expected]
        assert made.rows.tolist() == [feature["row"] for feature in expected]
        assert made.row_ids.tolist() == list(range(len(expected)))
        assert made.has_token_type_ids and set(made.columns) == set(task.type.columns)
        assert same(made.row(-1), expected[-1])
        with pytest.raises(IndexError, match="feature 99 of"):
            made.row(99)
        kept = made.subset(np.array([1, 8, 9]))
        chosen = [i for i, feature in enumerate(expected) if feature["row"] in (1, 8, 9)]
        assert kept.row_ids.tolist() == chosen and kept.lengths.tolist() == made.lengths[chosen].tolist()
        assert [same(kept.row(k), expected[i]) for k, i in enumerate(chosen)] == [True] * len(chosen)
    assert len(expected) > len(rows)  # long passages became several windows


def test_arrays_are_views_of_the_mapped_file(tmp_path: Path, bert: Any) -> None:
    write_questions(tmp_path)
    made = load_features(SPAN, "dev", tmp_path, bert, 32, tmp_path, training=True)
    row = made.row(2)
    for name in ("input_ids", "token_type_ids", "passage_mask", "offset_start"):
        assert row[name].base is not None and not row[name].flags.writeable
    assert row["passage_mask"].dtype == np.bool_ and row["labelled"].dtype == np.bool_
    assert row["input_ids"].dtype == np.int32 and row["start_positions"].dtype == np.int64


def test_no_token_types_where_the_tokenizer_makes_none(tmp_path: Path, tiny_model_dir: Callable[[str], Path]) -> None:
    write_pairs(tmp_path, 5)
    made = load_features(PAIR, "train", tmp_path, tokenizer_of(tiny_model_dir("roberta")), 16, tmp_path, training=True)
    assert not made.has_token_type_ids and "token_type_ids" not in made.row(0)


def test_built_once_and_again_when_anything_changed(tmp_path: Path, tiny_model_dir: Callable[[str], Path]) -> None:
    bert = tokenizer_of(tiny_model_dir("bert"))
    path, cache, calls = write_pairs(tmp_path, 9), tmp_path / "cache", []

    def load(task: TaskDef = PAIR, tokenizer: Any = bert, length: int = 16, training: bool = True) -> int:
        """How many progress reports the call made: none when it came from the cache."""
        calls.clear()
        load_features(task, "train", tmp_path, tokenizer, length, cache, training, calls.append)
        return len(calls)

    assert load() == 1 and calls == [9]
    bert(["some text"], truncation=True, max_length=4, padding="max_length")  # leaves its settings in the tokenizer
    assert load() == 0
    assert load(PAIR.model_copy(update={"weight": 2.0, "dropout_p": 0.3, "metric_meta": ["F1"]})) == 0
    assert load(length=12) == 1
    assert load(PAIR.model_copy(update={"max_len": 12})) == 0  # the same length, from the definition
    assert load(PAIR.model_copy(update={"labels": ["yes", "no"]})) == 1
    assert load(training=False) == 1
    assert load(training=False, tokenizer=tokenizer_of(tiny_model_dir("electra"))) == 0  # the same words
    assert load(tokenizer=tokenizer_of(tiny_model_dir("mpnet"))) == 1
    bert.add_tokens(["lawyers slept"])
    assert load() == 1
    path.write_text(path.read_text(encoding="utf-8").replace("bridge", "tower"), encoding="utf-8")
    assert load() == 1 and load() == 0
    assert not list(cache.glob("*.tmp")) and not list(cache.glob(".*"))


def test_settings_of_a_tokenizer_that_its_file_does_not_hold_make_a_new_cache(
    tmp_path: Path, tiny_model_dir: Callable[[str], Path]
) -> None:
    from transformers import AutoTokenizer

    folder = tiny_model_dir("bert")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "train.jsonl").write_text('{"text": "a [SEP] b"}\n', encoding="utf-8")
    single = TaskDef(name="one", task_type="MaskLM", data_format="MLM")

    def ids_and_words(**settings: Any) -> list[list[int]]:
        tokenizer = AutoTokenizer.from_pretrained(folder, **settings)
        feature = load_features(single, "train", tmp_path, tokenizer, 16, tmp_path / "cache", training=True).row(0)
        return [feature["input_ids"].tolist(), feature["word"].tolist()]

    plain, split, further = ids_and_words(), ids_and_words(split_special_tokens=True), ids_and_words(bos_token="a")
    assert len(split[0]) > len(plain[0])  # the brackets are text
    assert further[0] == plain[0] and further[1][1] == -1 != plain[1][1]  # "a" is no word any more
    assert ids_and_words() == plain


def test_changed_code_of_a_task_type_is_not_served_from_an_old_cache(
    tmp_path: Path, bert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pairs(tmp_path, 3)
    before = load_features(PAIR, "train", tmp_path, bert, 16, tmp_path, training=True)
    code = tmp_path / "sequence.py"
    code.write_text("# another version\n", encoding="utf-8")
    monkeypatch.setattr(features_module, "_code_files", lambda kind: {code})
    load_features(PAIR, "train", tmp_path, bert, 16, tmp_path, training=True)
    assert len(list(tmp_path.glob("*.arrow"))) == 2 and len(before) == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "no facts", "bad facts", "text"])
def test_a_damaged_cache_is_built_again(
    tmp_path: Path, bert: Any, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_pairs(tmp_path, 9)
    expected = [dict(row) for row in load_features(PAIR, "train", tmp_path, bert, 16, tmp_path, training=True)]
    target = next(tmp_path.glob("*.arrow"))
    facts, data = target.with_suffix(".json"), target.read_bytes()
    target.unlink()  # the first mapping stays valid
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 8
    target.write_bytes({"cut": data[:-100], "flip": bytes(flipped), "empty": b"", "text": b"hello"}.get(damage, data))
    if damage == "no facts":
        facts.unlink()
    if damage == "bad facts":
        facts.write_text("{}", encoding="utf-8")
    again = load_features(PAIR, "train", tmp_path, bert, 16, tmp_path, training=True)
    assert "building them again" in caplog.text
    assert target.read_bytes() == data  # the same bytes from the same rows, whoever builds
    assert all(same(a, b) for a, b in zip(again, expected, strict=True))


def test_bad_rows_leave_nothing_behind(tmp_path: Path, bert: Any) -> None:
    path = write_pairs(tmp_path, 4)
    path.write_text(path.read_text(encoding="utf-8") + '{"text": ""}\n', encoding="utf-8")
    with pytest.raises(UserError, match="train.jsonl:5: text: "):
        load_features(PAIR, "train", tmp_path, bert, 16, tmp_path / "cache", training=True)
    assert list((tmp_path / "cache").iterdir()) == []


def test_faults_of_the_cache_folder_and_the_disk(tmp_path: Path, bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pairs(tmp_path, 4)
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="features cannot be kept here: .*; choose another --cache_dir"):
        load_features(PAIR, "train", tmp_path, bert, 16, blocked / "cache", training=True)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="writing features failed: No space left on device"):
        load_features(PAIR, "train", tmp_path, bert, 16, tmp_path / "cache", training=True)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_tokenizer_without_a_fast_form_is_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, 2)
    with pytest.raises(UserError, match="a fast tokenizer"):
        load_features(PAIR, "train", tmp_path, object(), 16, tmp_path, training=True)  # type: ignore[arg-type]


def anonymous_mib() -> float:
    """Memory of this process that is its own, without mapped files (those the kernel drops when it needs room)."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in text.split("\n") if line.startswith("RssAnon:")).split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_hardly_grows_with_the_rows(tmp_path: Path, bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """200,000 features come from the cache, made once, for 16 bytes each."""
    write_pairs(tmp_path, 1000)
    rows = read_rows(PAIR, tmp_path / "nli" / "train.jsonl")
    ready = PAIR.type.featurize(rows, bert, 16, True)
    copies = [{**feature, "row": 0} for feature in ready] * 200
    calls: list[int] = []
    monkeypatch.setattr(type(PAIR.type), "featurize", lambda self, *_: calls.append(1) or list(copies))
    load_features(PAIR, "train", tmp_path, bert, 16, tmp_path, training=True)
    before, made_before = anonymous_mib(), len(calls)
    made = load_features(PAIR, "train", tmp_path, bert, 16, tmp_path, training=True)
    for i in range(0, len(made), 97):
        made.row(i)
    assert len(made) == 200_000 and len(calls) == made_before > 0
    assert anonymous_mib() - before < 10


@pytest.mark.slow
def test_sst2_is_tokenised_once(
    real_data: Path, real_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """67,349 real rows: the second start reads the cache alone."""
    task, tokenizer = load_task_defs(["glue"])["sst2"], tokenizer_of(real_model)
    (tmp_path / "sst2").mkdir()
    with (
        (real_data / "SST-2" / "train.tsv").open(encoding="utf-8", newline="\n") as raw,
        (tmp_path / "sst2" / "train.tsv").open("w", encoding="utf-8", newline="\n") as out,
    ):
        for i, line in enumerate(raw):
            text, _, label = line.rstrip("\r\n").rpartition("\t")
            if i:
                out.write(f"{i}\t{label}\t{text}\n")
    first = load_features(task, "train", tmp_path, tokenizer, 128, tmp_path, training=True)
    monkeypatch.setattr(type(task.type), "featurize", None)
    second = load_features(task, "train", tmp_path, tokenizer, 128, tmp_path, training=True)
    assert len(second) == len(first) == 67349
    labels = [int(second.row(i)["labels"]) for i in range(len(second))]
    assert sum(labels) == 37569


@pytest.mark.parametrize("known", ["some", "none"])
def test_lists_keep_their_own_lengths(tmp_path: Path, known: str, monkeypatch: pytest.MonkeyPatch):
    """Across chunks of the file, for rows without a target too, and in a part of the rows."""
    from tests.t5 import question_rows, t5_tokenizer, write_rows

    monkeypatch.setattr(features_module, "CHUNK", 4)
    rows = question_rows(11, 1)
    for row in rows[:: 2 if known == "some" else 1]:
        del row["answers"]
    write_rows(tmp_path / "qa" / "test.jsonl", rows)
    task = TaskDef(name="qa", task_type="SequenceGeneration", data_format="Generation", max_len=48)
    tokenizer = t5_tokenizer()
    made = task.type.featurize(read_rows(task, tmp_path / "qa" / "test.jsonl"), tokenizer, 48, training=False)
    for _ in range(2):  # built, then read
        found = load_features(task, "test", tmp_path, tokenizer, 48, tmp_path / "cache", training=False)
        for i, feature in enumerate(made):
            assert np.array_equal(found[i]["labels"], feature["labels"]) and found[i]["labels"].dtype == np.int64
            assert np.array_equal(found[i]["input_ids"], feature["input_ids"])
            assert bool(found[i]["labelled"]) == feature["labelled"]
    part = found.subset(np.array([1, 9]))
    assert [each["labels"].tolist() for each in part] == [made[i]["labels"].tolist() for i in (1, 9)]


@pytest.mark.parametrize("chunk", [5, 4096])
def test_the_digest_follows_from_the_features_alone(
    tmp_path: Path, bert: Any, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(features_module, "CHUNK", chunk)
    path, other = write_pairs(tmp_path, 12), tmp_path / "moved"

    def digest(data: Path, cache: str) -> str:
        return load_features(PAIR, "train", data, bert, 16, tmp_path / cache, training=True).digest()

    first, lines = digest(tmp_path, "one"), path.read_text(encoding="utf-8").splitlines()
    (other / "nli").mkdir(parents=True)
    (other / "nli/train.jsonl").write_text("\n\n".join(lines).replace(": ", ":"), encoding="utf-8")
    assert digest(other, "two") == first
    (other / "nli/train.jsonl").write_text("\n".join(lines[::-1]), encoding="utf-8")
    assert digest(other, "two") != first
    (other / "nli/train.jsonl").write_text("\n".join([*lines[:-1], lines[-2]]), encoding="utf-8")
    assert digest(other, "two") != first
