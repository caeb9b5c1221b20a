"""The sample benchmark and the tiny encoder: deterministic, disjoint, sound rows, a definition that loads."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data_prep.sample import SPLITS, make_task, texts_of
from data_prep.sample_text import GENERATORS
from mtrobust.errors import UserError
from tests.data_prep.helpers import prep, rows, write


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A small sample, written once."""
    out = tmp_path_factory.mktemp("sample")
    assert prep("sample", "--out", out, "--train_rows", 300, "--eval_rows", 60) == 0
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_bytes_in_another_process(sample, tmp_path):
    code = "import sys; from tests.data_prep.helpers import prep; prep('sample', *sys.argv[1:])"
    arguments = ["--out", str(tmp_path), "--train_rows", "300", "--eval_rows", "60"]
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, cwd=root, stdout=subprocess.DEVNULL)
    assert content(sample) == content(tmp_path)
    prep("sample", *arguments, "--seed", 2)
    assert content(sample)["sentiment/train.jsonl"] != content(tmp_path)["sentiment/train.jsonl"]


@pytest.mark.parametrize("task", GENERATORS)
def test_no_evaluation_text_stands_in_train(sample, task):
    seen: set[tuple[str, ...]] = set()
    for split in SPLITS:
        got = rows(sample / task / f"{split}.jsonl")
        assert len(got) == (300 if split == "train" else 60) and len({r["id"] for r in got}) == len(got)
        keys = {tuple(texts_of(row)) for row in got}
        assert len(keys) == len(got) and not keys & seen
        seen |= keys


@pytest.mark.parametrize("task", ["sentiment", "entailment", "acceptability"])
def test_classes_are_balanced(task):
    for split in make_task(task, 1, 600, 300).values():
        counts = Counter(row["label"] for row in split.rows)
        assert min(counts.values()) > 0.75 * len(split.rows) / len(counts)


def test_scores_lie_between_0_and_5(sample):
    scores = [r["label"] for split in SPLITS for r in rows(sample / "similarity" / f"{split}.jsonl")]
    assert min(scores) == 0 and max(scores) <= 5 and len(set(scores)) > 8


def test_answers_stand_where_they_say_and_traps_state_the_fact_of_three_people(sample):
    for split in SPLITS:
        for row in rows(sample / "questions" / f"{split}.jsonl"):
            (text,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
            assert row["context"][start : start + len(text)] == text
            assert row["context"].split().count(text) == 1
    where = [r for r in rows(sample / "questions" / "dev_adv.jsonl") if r["question"].startswith("where")]
    assert where and all(r["context"].count("lives in") == 3 for r in where)


def test_exchanged_roles_use_the_same_words(sample):
    stop = {"by", "was"}
    traps = [r for r in rows(sample / "entailment" / "dev_adv.jsonl") if r["label"] == "neutral"]
    overlap = [set(r["text_pair"].split()) - stop <= set(r["text"].split()) for r in traps]
    assert sum(overlap) > 0.6 * len(traps)


def test_the_definition_and_the_rows_fit_together(sample):
    from mtrobust.data.rows import find_split, read_rows
    from mtrobust.tasks.taskdef import load_task_defs

    definitions = load_task_defs([sample / "task_def.yml"])
    assert list(definitions) == list(GENERATORS)
    for task in definitions.values():
        assert task.split_names == list(SPLITS)
        for split in task.split_names:
            assert len(read_rows(task, find_split(task, sample, split))) in (60, 300)


def test_sizes_that_cannot_be_made(tmp_path, monkeypatch):
    with pytest.raises(UserError) as caught:
        prep("sample", "--out", tmp_path / "out", "--train_rows", 0, "--eval_rows", -1)
    assert len(caught.value.faults) == 2
    monkeypatch.setitem(GENERATORS, "sentiment", lambda rng, words, mode: {"text": f"{mode} {rng.randrange(3)}"})
    with pytest.raises(UserError, match=r"sentiment: train: only \d different rows can be made \(asked for: 4\)"):
        make_task("sentiment", 1, 4, 1)
    assert not (tmp_path / "out").exists()


def test_tiny_encoder(sample, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    arguments = ["--corpus", sample / "corpus.txt", "--layers", 2, "--hidden", 32, "--heads", 2]
    assert prep("tiny_encoder", *arguments, "--out", tmp_path / "a") == 0
    assert prep("tiny_encoder", *arguments, "--out", tmp_path / "b") == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path / "a"), AutoModel.from_pretrained(tmp_path / "a")
    assert (model.config.model_type, model.config.num_hidden_layers, model.config.hidden_size) == ("bert", 2, 32)
    encoded = tokenizer("the Film was great", "not bad", return_tensors="pt")
    assert tokenizer.unk_token_id not in encoded["input_ids"]
    assert model(**encoded).last_hidden_state.shape == (1, encoded["input_ids"].shape[1], 32)
    text = re.sub(r"\s+", " ", (sample / "corpus.txt").read_text(encoding="utf-8"))
    assert tokenizer.unk_token not in tokenizer.tokenize(text[:20000])


@pytest.mark.parametrize(
    ("flags", "n"),
    [
        (["--layers", 0, "--hidden", 0], 2),
        (["--heads", 3], 1),
        (["--dropout", 1, "--initializer_range", 0], 2),
        (["--vocab_size", 3, "--max_positions", 1, "--seed", -1], 3),
    ],
)
def test_faults_of_the_tiny_encoder(sample, tmp_path, flags, n):
    with pytest.raises(UserError) as caught:
        prep("tiny_encoder", "--corpus", sample / "corpus.txt", "--out", tmp_path / "out", *flags)
    assert len(caught.value.faults) == n and not (tmp_path / "out").exists()


def test_the_tiny_encoder_overwrites_nothing_and_needs_text(tmp_path):
    corpus = write(tmp_path / "kept" / "corpus.txt", "text")
    with pytest.raises(UserError, match="not an empty folder"):
        prep("tiny_encoder", "--corpus", corpus, "--out", corpus.parent)
    with pytest.raises(UserError, match="no file"):
        prep("tiny_encoder", "--corpus", tmp_path / "none", "--out", tmp_path / "out")
    with pytest.raises(UserError, match="holds no text"):
        prep("tiny_encoder", "--corpus", write(tmp_path / "empty", " "), "--out", tmp_path / "out")
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match="latin:1: not UTF-8: byte 0xe9"):
        prep("tiny_encoder", "--corpus", tmp_path / "latin", "--out", tmp_path / "out")
