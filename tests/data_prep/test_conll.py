"""Column files to rows of words and tags: schemes, columns, odd lines, faults; and the generated sentences."""

from __future__ import annotations

import pytest

from data_prep.conll import definition, to_bio
from mtrobust.data.rows import read_rows
from mtrobust.errors import UserError
from mtrobust.tasks.taskdef import load_task_defs
from tests.data_prep.helpers import prep, rows, write

# As CoNLL-2003: IOB1, four columns, the last sentence without a blank line behind it.
IOB1 = (
    "-DOCSTART- -X- O O", "", "EU NNP I-NP I-ORG", "rejects VBZ I-VP O", "German JJ I-NP I-MISC", "", "",
    "Anna NNP I-NP I-PER", "Tom NNP I-NP B-PER", "Stone NNP I-NP I-PER", "# # O O", "Rome NNP I-NP I-LOC",
)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("O I-A I-A O I-A", "O B-A I-A O B-A"),  # IOB1
        ("I-A B-A I-A I-B", "B-A B-A I-A B-B"),
        ("B-A I-A O B-A B-A", "B-A I-A O B-A B-A"),  # BIO stays
        ("S-A B-A I-A E-A S-B O", "B-A B-A I-A I-A B-B O"),  # IOBES
        ("B-A E-A I-A", "B-A I-A B-A"),
        ("I-A-B I-A-B", "B-A-B I-A-B"),
    ],
)
def test_schemes(given, made):
    assert to_bio(given.split(" ")) == made.split(" ")


def test_a_file_of_conll_2003(tmp_path, capsys):
    path = tmp_path / "raw" / "eng.train"
    write(path, *IOB1)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))  # without a last newline
    write(tmp_path / "raw" / "eng.testa", *(line.replace("I-LOC", "O") + "\r" for line in IOB1))
    assert prep("conll", "--raw", tmp_path / "raw", "--out", tmp_path) == 0
    made = rows(tmp_path / "ner" / "train.jsonl")
    assert made == [
        {"id": "line-3", "tokens": ["EU", "rejects", "German"], "tags": ["B-ORG", "O", "B-MISC"]},
        {"id": "line-8", "tokens": ["Anna", "Tom", "Stone", "#", "Rome"],
         "tags": ["B-PER", "B-PER", "I-PER", "O", "B-LOC"]},
    ]  # fmt: skip
    assert rows(tmp_path / "ner" / "dev.jsonl")[1]["tags"] == ["B-PER", "B-PER", "I-PER", "O", "O"]
    out = capsys.readouterr().out
    assert "ner: chunks as BIO, 7 of 16 tags changed" in out
    assert len(read_rows(load_task_defs(["ner"])["ner"], tmp_path / "ner" / "train.jsonl")) == 2
    (tmp_path / "t.yml").write_text(out[out.index("ner:\n  task") :], encoding="utf-8")
    task = load_task_defs([tmp_path / "t.yml"])["ner"]
    assert task.labels[0] == "O" and task.split_names == ["train", "dev"]
    assert len(read_rows(task, tmp_path / "ner" / "train.jsonl")) == 2


def test_other_columns_and_plain_tags(tmp_path, capsys):
    words = ["1\tNo\tINTJ", "2\t,\tPUNCT", "3\tit\tPRON", "", "1\tNew York\tPROPN"]
    path = write(tmp_path / "a.conllu", "# sent_id = 1", "# text = No , it is .", *words)
    prep("conll", "--train_file", path, "--token_column", 1, "--tag_column", 2, "--task", "pos", "--out", tmp_path)
    assert [row["tokens"] for row in rows(tmp_path / "pos" / "train.jsonl")] == [["No", ",", "it"], ["New York"]]
    out = capsys.readouterr().out
    assert "pos: tags as they are" in out and "metric_meta: [ACC]" in out
    assert "INTJ 1 (25.0 %)" in out


def test_labels_that_yaml_would_not_read_as_text():
    text = definition("t", ["train"], ["NO", "O", ".", "a'b", "B-X", "1"], chunks=False)
    assert text.split("\n")[3] == "  labels: [O, '.', '1', B-X, 'NO', 'a''b']"


def test_lines_that_are_rejected(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a B-X\nb\n\nc O\n\nd I-X\ncaf\xe9 O\n\ne Q\n")
    prep("conll", "--train_file", path, "--tags", "chunks", "--out", tmp_path)
    assert [row["tokens"] for row in rows(tmp_path / "ner" / "train.jsonl")] == [["c"]]
    reasons = [row["reason"] for row in rows(tmp_path / "ner" / "train.rejects.jsonl")]
    assert reasons[0] == "line 'b': 1 columns, token and tag are the same one"
    assert "line 7: not UTF-8: byte 0xe9" in reasons[1] and reasons[2].startswith("tag 'Q': expected O, or B-")


def test_faults(tmp_path):
    one = write(tmp_path / "raw" / "train.txt", "a O")
    write(tmp_path / "raw" / "train.conll", "a O")
    for argv, message in [
        ((), "nothing to prepare: name files by --raw or --train_file"),
        (("--train_file", tmp_path / "gone"), "--train_file: no file"),
        (("--raw", tmp_path / "gone"), "--raw: .* is not a folder"),
        (("--raw", tmp_path / "raw"), "train: several files .train.txt, train.conll.; name one: --train_file"),
        (("--train_file", one, "--task", "a b"), "--task: 'a b'"),
        (("--train_file", one, "--tag_column", 4), "no usable row; first: .*no tag in column 4"),
    ]:
        with pytest.raises(UserError, match=message):
            prep("conll", *argv, "--out", tmp_path / "out")


def test_generated_sentences(tmp_path):
    for out in ("a", "b"):
        prep("sample_tags", "--out", tmp_path / out, "--train_rows", 120, "--eval_rows", 40)
    made = {split: rows(tmp_path / "a" / "entities" / f"{split}.jsonl") for split in ("train", "dev", "dev_shift")}
    for split, found in made.items():
        assert found == rows(tmp_path / "b" / "entities" / f"{split}.jsonl"), "the same seed, the same rows"
        task = load_task_defs([tmp_path / "a" / "entities.yml"])["entities"]
        assert len(read_rows(task, tmp_path / "a" / "entities" / f"{split}.jsonl")) == len(found)
        assert all(to_bio(row["tags"]) == row["tags"] for row in found)
    texts = [{tuple(row["tokens"]) for row in found} for found in made.values()]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 200, "no sentence stands in two splits"
    kinds: dict[str, set[str]] = {}
    for row in made["train"]:
        for token, tag in zip(row["tokens"], row["tags"], strict=True):
            kinds.setdefault(token, set()).add(tag)
    assert kinds["jordan"] >= {"B-PER", "B-LOC", "B-ORG"}, "the word alone does not decide"
    with pytest.raises(UserError, match="train_rows: 0"):
        prep("sample_tags", "--out", tmp_path / "c", "--train_rows", 0)
    with pytest.raises(UserError, match="different rows can be made"):
        prep("sample_tags", "--out", tmp_path / "c", "--train_rows", 10, "--eval_rows", 100_000)
