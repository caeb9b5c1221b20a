"""SNLI, MultiNLI, SciTail, ANLI, AdvGLUE and TextFooler's samples: each published form, quirks, and the real files."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from data_prep.textcls_sets import letters
from mtrobust.errors import UserError
from tests.data_prep.helpers import prep, rows, write

SNLI_TXT = (
    "gold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1\t"
    "sentence2\tcaptionID\tpairID\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5"
)
ONE, TWO = 'A "man\u0085 sleeps.', "Someone sleeps."


def official(label, pair="p1"):
    return {"gold_label": label, "sentence1": ONE, "sentence2": TWO, "pairID": pair, "annotator_labels": [label]}


def txt(label, votes=5):
    return "\t".join([label, *"abcd", ONE, TWO, "c1", "p1", *[label] * votes])


FORMS = {
    "snli_1.0_train.jsonl": [json.dumps(official("neutral")), json.dumps(official("-"))],
    "snli_1.0_train.txt": [SNLI_TXT, txt("neutral"), txt("-", 1)],
    "train.tsv": [SNLI_TXT, txt("neutral", 1), txt("-")],
    "train.jsonl": [
        json.dumps({"premise": ONE, "hypothesis": TWO, "label": 1}),
        json.dumps({"premise": ONE, "hypothesis": TWO, "label": -1}),
    ],
    "train_sample.json": [
        json.dumps({str(i): {"text_a": ONE, "text_b": TWO, "label": x} for i, x in enumerate(("neutral", "-"))})
    ],
}


@pytest.mark.parametrize("name", FORMS)
def test_snli_in_each_form(tmp_path, name):
    write(tmp_path / "raw" / name, *FORMS[name])
    assert prep("nli", "--dataset", "snli", "--raw", tmp_path / "raw", "--out", tmp_path / "out") == 0
    (row,) = rows(tmp_path / "out/snli/train.jsonl")
    pair = row.pop("pairID", None)
    assert row == {"id": "0", "text": ONE, "text_pair": TWO, "label": "neutral"}
    assert pair == ("p1" if name.startswith("snli") or name == "train.tsv" else None)
    (reject,) = rows(tmp_path / "out/snli/train.rejects.jsonl")
    assert "no gold label" in reject["reason"]


def test_the_first_form_is_taken_and_told(tmp_path, capsys):
    for name in FORMS:
        write(tmp_path / "raw/snli_1.0" / name, *FORMS[name])
    prep("nli", "--dataset", "snli", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    out = capsys.readouterr().out
    assert "train from snli_1.0/snli_1.0_train.jsonl" in out and "snli: not in" in out and "dev, test" in out


def test_mnli_of_its_own_release(tmp_path):
    write(tmp_path / "raw/multinli_1.0_dev_matched.jsonl", json.dumps(official("contradiction") | {"genre": "travel"}))
    write(tmp_path / "raw/multinli_1.0_train.txt", SNLI_TXT.replace("captionID", "genre"), txt("entailment", 1))
    prep("nli", "--dataset", "mnli", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    (dev,) = rows(tmp_path / "out/mnli/matched_dev.jsonl")
    assert (dev["label"], dev["genre"], dev["pairID"]) == ("contradiction", "travel", "p1")
    assert rows(tmp_path / "out/mnli/train.jsonl")[0]["genre"] == "c1"


@pytest.mark.parametrize("top", ["", "SciTailV1.1"])
def test_scitail_in_both_forms(tmp_path, top):
    tsv = [f"{ONE}\t{TWO}\tentails", f"{ONE}\t{TWO}\tneutral", f"{ONE}\t{TWO}\tcontradiction", f"{ONE}\t{TWO}"]
    write(tmp_path / "raw" / top / "tsv_format/scitail_1.0_train.tsv", *tsv)
    jsonl = {"gold_label": "entailment", "sentence1": ONE, "sentence2": TWO, "answer": "x"}
    write(tmp_path / "raw" / top / "snli_format/scitail_1.0_dev.txt", json.dumps(jsonl))
    prep("nli", "--dataset", "scitail", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    assert [r["label"] for r in rows(tmp_path / "out/scitail/train.jsonl")] == ["entailment", "neutral"]
    reasons = [r["reason"] for r in rows(tmp_path / "out/scitail/train.rejects.jsonl")]
    assert "unknown label 'contradiction'" in reasons[0] and "2 columns where 3" in reasons[1]
    assert rows(tmp_path / "out/scitail/dev.jsonl")[0]["label"] == "entailment"


def test_anli_rounds(tmp_path):
    for n in (1, 2, 3):
        for split in ("train", "dev", "test"):
            lines = [
                {"uid": f"u{i}", "context": ONE, "hypothesis": TWO, "label": label, "genre": "wiki"}
                for i, label in enumerate("enc")
            ]
            write(tmp_path / f"raw/anli_v1.0/R{n}/{split}.jsonl", *map(json.dumps, lines))
    prep("nli", "--dataset", "anli", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    assert len(list((tmp_path / "out/anli").iterdir())) == 9
    got = rows(tmp_path / "out/anli/r3_dev.jsonl")
    assert [(r["id"], r["label"]) for r in got] == [("u0", "entailment"), ("u1", "neutral"), ("u2", "contradiction")]
    assert got[0]["genre"] == "wiki"

    from mtrobust.tasks.taskdef import load_task_defs

    names = load_task_defs(["nli"])["anli"].split_names
    assert set(names) == {path.stem for path in (tmp_path / "out/anli").iterdir()}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"premise": "a", "hypothesis": "b"}', "columns: sentence1 and sentence2"),
        ('{"text": "a", "label": 1}', "(found: text, label)"),
        ('{"premise": " ", "hypothesis": "b", "label": 1}', "premise: the text is empty"),
        ('{"premise": "a", "hypothesis": 3, "label": 1}', "hypothesis: expected text"),
        ('{"premise": "a", "hypothesis": "b", "label": 3}', "unknown label '3'"),
        ('{"premise": "a", "hypothesis": "b", "label": null}', "unknown label 'None'"),
        ('{"premise": "a"', "not JSON"),
        ("[]", "not a JSON object"),
    ],
)
def test_broken_pairs(tmp_path, line, reason):
    write(tmp_path / "raw/dev.jsonl", FORMS["train.jsonl"][0], line)
    prep("nli", "--dataset", "snli", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    (reject,) = rows(tmp_path / "out/snli/dev.rejects.jsonl")
    assert reason in reject["reason"] and reject["place"].endswith("dev.jsonl:2")


@pytest.mark.parametrize("dataset", ["snli", "mnli", "scitail", "anli"])
def test_sets_that_are_not_there(tmp_path, dataset):
    with pytest.raises(UserError, match=f"nothing of {dataset}: none of "):
        prep("nli", "--dataset", dataset, "--raw", tmp_path, "--out", tmp_path / "out")


ADVGLUE = {
    "sst2": [
        {"sentence": "a nich movie", "original_sentence": "a nice movie", "label": 1, "idx": 7, "method": "typo"},
        {"sentence": "x", "label": 2},
        "no object",
    ],
    "mnli-mm": [{"premise": "a", "hypothesis": "b", "original_hypothesis": "c", "label": 0, "data_construction": "w"}],
    "rte": [{"sentence1": "a", "sentence2": "b", "label": 0}, {"sentence1": "a", "sentence2": "b", "label": 1}],
    "qqp": [{"question1": "a", "question2": "b", "label": 1}],
    "qnli": [{"question": "a", "sentence": "b", "label": 1}],
    "mnli": [{"premise": "a", "hypothesis": "b", "label": 2}],
    "new": [],
}


def test_advglue(tmp_path, capsys):
    write(tmp_path / "raw/dev_ann.json", json.dumps(ADVGLUE))
    prep("advglue", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    got = {p.parent.name: rows(p) for p in (tmp_path / "out").rglob("dev.jsonl")}
    assert got["advglue_sst2"] == [
        {"id": "0", "text": "a nich movie", "label": "positive", "method": "typo", "original_text": "a nice movie"}
    ]
    assert got["advglue_mnli_mm"][0] | {"id": ""} == {
        **{"id": "", "text": "a", "text_pair": "b", "label": "entailment"},
        **{"data_construction": "w", "original_text_pair": "c"},
    }
    assert [r["label"] for r in got["advglue_rte"]] == ["entailment", "not_entailment"]
    labels = {name: r[0]["label"] for name, r in got.items() if name in ("advglue_qqp", "advglue_qnli", "advglue_mnli")}
    assert labels == {"advglue_qqp": "duplicate", "advglue_qnli": "not_entailment", "advglue_mnli": "contradiction"}
    places = [r["place"].rpartition(" ")[2] for r in rows(tmp_path / "out/advglue_sst2/dev.rejects.jsonl")]
    assert places == ["sst2[1]", "sst2[2]"]
    assert "the task is not known: new" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "none of dev_ann.json"),
        ("[]", "expected a JSON object"),
        ('{"x": []}', "none of the tasks"),
        ("{", "JSON"),
    ],
)
def test_files_that_are_not_advglue(tmp_path, content, message):
    if content is not None:
        write(tmp_path / "dev.json", content)
    with pytest.raises(UserError, match=message):
        prep("advglue", "--raw", tmp_path, "--out", tmp_path / "out")


def test_textfooler_formats(tmp_path):
    write(tmp_path / "raw/mr", "1 fine , really", "0 bad\u2028here", "2 odd", "0", "1  two spaces")
    write(tmp_path / "raw/yelp", "0 bad . \\n\\nour server", '1 "say good"')
    write(tmp_path / "raw/ag", "3 chips", "0 peace")
    write(tmp_path / "raw/mnli", "0\ta\tb", "2\ta\tb")
    write(tmp_path / "raw/snli", "entailment\ta\tb", "contradiction\ta", "-\ta\tb")
    with open(tmp_path / "raw/mr", "ab") as file:
        file.write(b"1 caf\xe9\n")
    prep("textfooler", "--raw", tmp_path / "raw", "--out", tmp_path / "out")

    def got(name, file="test"):
        return rows(tmp_path / f"out/textfooler_{name}/{file}.jsonl")

    assert [(r["text"], r["label"]) for r in got("mr")] == [
        ("fine , really", "positive"),
        ("bad\u2028here", "negative"),
        ("two spaces", "positive"),
    ]
    reasons = [r["reason"] for r in got("mr", "test.rejects")]
    for reason, part in zip(reasons, ["unknown label '2'", "text: the text is empty", "0xe9"], strict=True):
        assert part in reason
    assert [r["text"] for r in got("yelp")] == ["bad . our server", '"say good"']
    assert [r["label"] for r in got("ag")] == ["Sci/Tech", "World"]
    assert [r["label"] for r in got("mnli")] == ["entailment", "contradiction"]
    assert got("snli") == [{"id": "0", "text": "a", "text_pair": "b", "label": "entailment"}]
    with pytest.raises(UserError, match="none of mr, imdb"):
        prep("textfooler", "--raw", tmp_path / "out", "--out", tmp_path / "none")


def test_the_real_inference_files(real_data, tmp_path):
    prep("nli", "--dataset", "snli", "--raw", real_data / "SNLI", "--out", tmp_path)
    assert len(rows(tmp_path / "snli/dev.jsonl")) == 9842 and len(rows(tmp_path / "snli/train.jsonl")) == 8999
    assert not list(tmp_path.rglob("*.rejects.jsonl"))


def test_the_real_attack_samples(real_data, tmp_path):
    prep("textfooler", "--raw", real_data / "TextFooler", "--out", tmp_path)
    got = {path.parent.name.removeprefix("textfooler_"): rows(path) for path in tmp_path.rglob("test.jsonl")}
    assert {name: len(found) for name, found in got.items()} == dict.fromkeys(
        ("mr", "imdb", "yelp", "ag", "snli", "mnli", "mnli_matched", "mnli_mismatched"), 1000
    )
    assert not list(tmp_path.rglob("*.rejects.jsonl"))
    # the numbers of one file mean what the names of another say: both hold the same pairs
    pairs = [Counter((r["text"], r["text_pair"], r["label"]) for r in got[n]) for n in ("mnli", "mnli_mismatched")]
    assert pairs[0] == pairs[1]
    # and those of mr and ag what their own sets say
    prep("textcls", "--dataset", "mr", "--raw", real_data / "MR", "--out", tmp_path / "sets")
    prep("textcls", "--dataset", "agnews", "--raw", real_data / "AG-News", "--out", tmp_path / "sets")
    for name, task, least in (("mr", "mr", 995), ("ag", "agnews", 995)):
        labels = {}
        for path in (tmp_path / "sets" / task).glob("*.jsonl"):
            labels |= {letters(row["text"]): row["label"] for row in rows(path)}
        assert sum(labels.get(letters(row["text"])) == row["label"] for row in got[name]) >= least
