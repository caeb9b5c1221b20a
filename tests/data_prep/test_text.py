"""Plain text to rows: paragraphs, headings, bad bytes, odd line ends, text fields of other rows, dev, faults."""

from __future__ import annotations

import json

import pytest

from mtrobust.errors import UserError
from tests.data_prep.helpers import prep, rows, write

WIKI = (
    " ", " = Homarus = ", " ", " A lobster is blue . ", " = = Life = = ", " It is = to 5 kg . ", "", " It moults . ",
)  # fmt: skip


def read(out, task="mlm"):
    return {path.stem: rows(path) for path in sorted((out / task).glob("*.jsonl"))}


def many(path, count=200):
    return write(path, *(f"Paragraph number {i} of this file." for i in range(count)))


def test_paragraphs_without_headings_and_blank_lines(tmp_path, capsys):
    text, dev = write(tmp_path / "wiki.valid.raw", *WIKI), write(tmp_path / "dev.txt", "One.", "Two.")
    prep("text", "--file", text, "--dev_file", dev, "--out", tmp_path / "out", "--task", "wiki")
    got = read(tmp_path / "out", "wiki")
    assert got["train"] == [
        {"id": "wiki.valid-4", "text": "A lobster is blue ."},
        {"id": "wiki.valid-6", "text": "It is = to 5 kg ."},
        {"id": "wiki.valid-8", "text": "It moults ."},
    ]
    assert [row["id"] for row in got["dev"]] == ["dev-1", "dev-2"]
    out = capsys.readouterr().out
    assert "wiki train: 8 lines of 1 files; passed over: 3 blank lines, 2 headings, 0 repeated fields" in out
    assert "wiki:\n  task_type: MaskLM\n  data_format: MLM" in out and "stricter measure" not in out


def test_headings_can_stay(tmp_path):
    text, dev = write(tmp_path / "a.txt", *WIKI), write(tmp_path / "dev.txt", "One.")
    prep("text", "--file", text, "--dev_file", dev, "--out", tmp_path / "out", "--headings", "keep")
    assert [row["text"] for row in read(tmp_path / "out")["train"]][:2] == ["= Homarus =", "A lobster is blue ."]


def test_a_fixed_share_becomes_dev(tmp_path, capsys):
    text = many(tmp_path / "a.txt")
    prep("text", "--file", text, "--out", tmp_path / "a", "--dev_fraction", 0.2)
    assert "stricter measure" in capsys.readouterr().out
    prep("text", "--file", text, "--out", tmp_path / "b", "--dev_fraction", 0.2)
    got = read(tmp_path / "a")
    assert got == read(tmp_path / "b") and len(got["train"]) + len(got["dev"]) == 200 and 20 < len(got["dev"]) < 60
    assert not {row["text"] for row in got["train"]} & {row["text"] for row in got["dev"]}
    prep("text", "--file", text, "--out", tmp_path / "c")
    assert 2 <= len(read(tmp_path / "c")["dev"]) <= 20


def test_rows_that_another_command_left_in_train_have_a_dev_part_too(tmp_path):
    path = write(tmp_path / "rows.tsv", "text\tlabel", *(f"review number {i}\t{i % 2}" for i in range(400)))
    more = ("--task", "mr", "--out", tmp_path / "out")
    prep("textcls", "--dataset", "file", "--train_file", path, "--dev_share", 0.2, *more)
    prep("text", "--rows", tmp_path / "out" / "mr" / "train.jsonl", "--out", tmp_path / "out", "--dev_fraction", 0.1)
    assert 10 < len(read(tmp_path / "out")["dev"]) < 60


def test_lines_end_at_newlines_only(tmp_path):
    text = tmp_path / "a.txt"
    text.write_bytes("\ufeffone\u0085still one\r\ntwo\u2028still two\x0bthree\n\u2029\n".encode())
    prep("text", "--file", text, "--dev_file", write(tmp_path / "dev.txt", "One."), "--out", tmp_path / "out")
    assert [row["text"] for row in read(tmp_path / "out")["train"]] == [
        "one\u0085still one", "two\u2028still two\x0bthree",
    ]  # fmt: skip


def test_undecodable_lines_are_listed(tmp_path, capsys):
    text = tmp_path / "a.txt"
    text.write_bytes(b"caf\xe9 in latin-1\nplain\n= caf\xe9 =\n")
    prep("text", "--file", text, "--dev_file", write(tmp_path / "dev.txt", "One."), "--out", tmp_path / "out")
    got = read(tmp_path / "out")
    assert [row["text"] for row in got["train"]] == ["plain"]
    assert [reject["place"] for reject in got["train.rejects"]] == [f"{text}:1", f"{text}:3"]
    assert "byte 0xe9 at character 4" in got["train.rejects"][0]["reason"]
    assert "2 rejected" in capsys.readouterr().out


def test_text_fields_of_other_rows(tmp_path, capsys):
    lines = [
        {"id": "1", "text": "A film.", "label": "good"},
        {"id": "2", "text": "A pair.", "text_pair": "Of texts.", "label": 0},
        {"id": "3", "question": "Who?", "context": "A long passage.", "answers": {"text": [], "answer_start": []}},
        {"id": "4", "question": "When?", "context": "A long passage."},
        {"id": "5", "label": "nothing to read"},
        {"id": "6", "text": 5},
        {"id": "7", "text": " "},
    ]
    path = write(tmp_path / "mr" / "train.jsonl", *map(json.dumps, lines), "{broken")
    prep("text", "--rows", path, "--dev_file", path, "--out", tmp_path / "out")
    got = read(tmp_path / "out")
    assert [row["text"] for row in got["train"]] == [
        "A film.", "A pair.", "Of texts.", "Who?", "A long passage.", "When?",
    ]  # fmt: skip
    assert got["train"][0] == {"id": "train-1-text", "text": "A film."} and got["dev"] == got["train"]
    reasons = [reject["reason"] for reject in got["train.rejects"]]
    assert len(reasons) == 4 and reasons[0] == "none of text, text_pair, question, context"
    assert "expected text, got 5" in reasons[1] and "empty" in reasons[2] and "not JSON" in reasons[3]
    assert "1 repeated fields" in capsys.readouterr().out


def test_files_of_one_name_keep_their_rows_apart(tmp_path):
    one, two = write(tmp_path / "a" / "x.txt", "One."), write(tmp_path / "b" / "x.txt", "Two.")
    prep("text", "--file", one, two, "--dev_file", one, "--out", tmp_path / "out")
    assert [row["id"] for row in read(tmp_path / "out")["train"]] == ["x-1", "x.2-1"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], ["--file: name at least one"]),
        (["--file", "no.txt", "--rows", "no.jsonl"], ["--file: no file no.txt", "--rows: no file no.jsonl"]),
        (["--file", "a.txt", "--dev_fraction", "1"], ["--dev_fraction: 1.0 is outside"]),
        (["--file", "a.txt", "--dev_file", "a.txt", "--dev_fraction", ".1"], ["not together with --dev_file"]),
        (["--file", "a.txt", "--task", "a/b"], ["--task: 'a/b'"]),
        (["--rows", "a.txt"], ["--rows: a.txt: expected a .jsonl file"]),
        (["--file", "a.txt", "--dev_fraction", "0.0001"], ["of 3 rows leaves dev empty; give a --dev_file"]),
        (["--file", "blank.txt"], ["train: no usable row"]),
    ],
)
def test_faults(tmp_path, monkeypatch, flags, says):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.txt", "One.", "Two.", "Three.")
    write(tmp_path / "blank.txt", "", " ")
    with pytest.raises(UserError) as caught:
        prep("text", *flags, "--out", tmp_path / "out")
    text = "\n".join(caught.value.faults)
    assert all(part in text for part in says), text
    assert not list(tmp_path.rglob("*.rejects.jsonl")) and not (tmp_path / "out" / "mlm").exists()


def test_the_shared_wikitext(real_data, tmp_path):
    folder = real_data / "wikitext-2-raw"
    prep("text", "--file", folder / "wiki.valid.raw", "--dev_file", folder / "wiki.test.raw", "--out", tmp_path)
    got = read(tmp_path)
    assert (len(got["train"]), len(got["dev"])) == (1841, 2185)
    assert not any(row["text"].startswith("= ") and row["text"].endswith(" =") for row in got["train"] + got["dev"])
