"""HANS: the official columns, the groups, what is rejected, and the generator's rows."""

from __future__ import annotations

from collections import Counter

import pytest

from mtrobust.errors import UserError
from tests.data_prep.helpers import prep, rows, write

HEADER = (
    "gold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
    "sentence1\tsentence2\tpairID\theuristic\tsubcase\ttemplate"
)


def line(label="entailment", one='The "actor slept .', pair="ex1", heuristic="constituent"):
    return "\t".join([label, *"abcd", one, "The actor slept .", pair, heuristic, "ce_adverb", "temp40"])


def test_official_columns_and_groups(tmp_path):
    write(tmp_path / "raw/heuristics_evaluation_set.txt", "\ufeff" + HEADER, line())
    write(tmp_path / "raw/heuristics_train_set.txt", HEADER, line("non-entailment"))
    write(tmp_path / "raw/heuristics_generated.txt", HEADER, line(pair="other"))
    assert prep("hans", "--raw", tmp_path / "raw", "--out", tmp_path / "out") == 0
    assert rows(tmp_path / "out/hans/dev.jsonl") == [
        {
            "id": "ex1",
            "text": 'The "actor slept .',
            "text_pair": "The actor slept .",
            "label": "entailment",
            "heuristic": "constituent",
            "subcase": "ce_adverb",
            "template": "temp40",
        }
    ]
    assert rows(tmp_path / "out/hans/train.jsonl")[0]["label"] == "non-entailment"


def test_broken_pairs_are_listed(tmp_path):
    bad = [line("neutral", pair="ex2"), line(), line(one=" ", pair="ex3"), line(pair=" "), "x\ty", line(heuristic="")]
    write(tmp_path / "heuristics_evaluation_set.txt", HEADER, line(), *bad)
    prep("hans", "--raw", tmp_path, "--out", tmp_path / "out")
    assert len(rows(tmp_path / "out/hans/dev.jsonl")) == 1
    reasons = [r["reason"] for r in rows(tmp_path / "out/hans/dev.rejects.jsonl")]
    wanted = [
        "unknown label 'neutral' (allowed: non-entailment, entailment)",
        "'ex1' is already used",
        "sentence1: the text is empty",
        "pairID: is empty",
        "2 columns where 11",
        "already used",
    ]
    assert len(reasons) == 6
    for reason, part in zip(reasons[:5], wanted, strict=False):
        assert part in reason


def test_missing_files_and_columns(tmp_path):
    with pytest.raises(UserError, match="none of heuristics_train_set.txt, heuristics_evaluation_set.txt"):
        prep("hans", "--raw", tmp_path, "--out", tmp_path / "out")
    write(tmp_path / "heuristics_evaluation_set.txt", HEADER.replace("heuristic\t", ""), line())
    with pytest.raises(UserError, match="no column heuristic"):
        prep("hans", "--raw", tmp_path, "--out", tmp_path / "out")


def test_the_generated_rows(real_data, tmp_path):
    prep("hans", "--raw", real_data / "HANS", "--out", tmp_path)
    got = rows(tmp_path / "hans/dev.jsonl")
    assert len(got) == 4500 and not (tmp_path / "hans/dev.rejects.jsonl").exists()
    assert Counter(r["label"] for r in got) == {"entailment": 2250, "non-entailment": 2250}
    assert Counter(r["heuristic"] for r in got) == dict.fromkeys(
        ("lexical_overlap", "subsequence", "constituent"), 1500
    )
    assert set(Counter(r["subcase"] for r in got).values()) == {150}
