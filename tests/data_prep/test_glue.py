"""GLUE: every task on small files in the official format, the published counts on the real ones, and broken rows."""

from __future__ import annotations

import datasets
import pytest

from data_prep.glue import TASKS
from data_prep.labels import LABELS
from mtrobust.errors import UserError
from tests.data_prep.helpers import prep, rows, write

MNLI_12 = "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse"
MRPC = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
MNLI_TRAIN = "\t".join([*MNLI_12.split(), "sentence1", "sentence2", "label1", "gold_label"])
MNLI_DEV = "\t".join([*MNLI_12.split(), "sentence1", "sentence2", *(f"label{i}" for i in range(1, 6)), "gold_label"])
MNLI_TEST = "\t".join([*MNLI_12.split(), "sentence1", "sentence2"])


def mnli(label: str, votes: int) -> str:
    return "\t".join(["0", "1", "1e", "fiction", *"pqrs", "A man.", "A person.", *(["entailment"] * votes), label])


# task -> split -> (lines of the official file, expected row without its id)
OFFICIAL = {
    "CoLA": {
        "train.tsv": (["gj04\t1\t\tOur friends won't buy it.", "gj04\t0\t*\tThey drank the pub."], "acceptable"),
        "dev.tsv": (['gj04\t1\t\tOne more "quote.'], "acceptable"),
        "test.tsv": (["index\tsentence", "0\tBill whistled past the house."], None),
    },
    "SST-2": {
        "train.tsv": (["sentence\tlabel", "hide new secretions \t0"], "negative"),
        "test.tsv": (["index\tsentence", "0\tuneasy mishmash"], None),
    },
    "MRPC": {
        "train.tsv": ([MRPC, '1\t7\t8\tHe "said so.\tSo he said.'], "equivalent"),
        "test.tsv": (["index\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t7\t8\tHe said.\tHe did."], None),
    },
    "STS-B": {
        "train.tsv": (
            ["index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"]
            + ["0\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\tA plane.\tA plane is there.\t3.800"],
            3.8,
        ),
        "test.tsv": (
            ["index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"]
            + ["0\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\tA girl.\tA boy."],
            None,
        ),
    },
    "QQP": {
        "train.tsv": (["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "5\t1\t2\tWhy?\tWhy so?\t1"], "duplicate"),
        "test.tsv": (["id\tquestion1\tquestion2", "0\tWho?\tWho else?"], None),
    },
    "MNLI": {
        "train.tsv": ([MNLI_TRAIN, mnli("neutral", 1)], "neutral"),
        "dev_matched.tsv": ([MNLI_DEV, mnli("contradiction", 5)], "contradiction"),
        "dev_mismatched.tsv": ([MNLI_DEV, mnli("entailment", 5)], "entailment"),
        "test_matched.tsv": ([MNLI_TEST, "\t".join(["0", "1", "1", "fiction", *"pqrs", "A.", "B."])], None),
        "test_mismatched.tsv": ([MNLI_TEST, "\t".join(["0", "1", "1", "fiction", *"pqrs", "A.", "B."])], None),
    },
    "QNLI": {
        "train.tsv": (["index\tquestion\tsentence\tlabel", "0\tWhen?\tIn 1990.\tentailment"], "entailment"),
        "dev.tsv": (["index\tquestion\tsentence\tlabel", "0\tWhen?\tHere.\tnot_entailment"], "not_entailment"),
        "test.tsv": (["index\tquestion\tsentence", "0\tWhen?\tHere."], None),
    },
    "RTE": {
        "train.tsv": (["index\tsentence1\tsentence2\tlabel", "0\tNo.\tYes.\tnot_entailment"], "not_entailment"),
        "test.tsv": (["index\tsentence1\tsentence2", "0\tA.\tB."], None),
    },
    "WNLI": {
        "train.tsv": (["index\tsentence1\tsentence2\tlabel", "0\tI stuck a pin.\tThe pin.\t1"], "entailment"),
        "test.tsv": (["index\tsentence1\tsentence2", "0\tA.\tB."], None),
    },
    "diagnostic": {"diagnostic.tsv": (["index\tsentence1\tsentence2", '0\tA "cat.\tA cat.'], None)},
}


@pytest.fixture
def raw(tmp_path):
    """All folders in the layout of the original download."""
    for folder, files in OFFICIAL.items():
        for name, (lines, _) in files.items():
            write(tmp_path / "raw" / folder / name, *lines)
    return tmp_path / "raw"


@pytest.mark.parametrize("task", TASKS)
def test_official_format(raw, tmp_path, task):
    assert prep("glue", "--raw", raw, "--out", tmp_path / "out", "--tasks", task) == 0
    spec = TASKS[task]
    for split, file in spec.files.items():
        if file not in OFFICIAL[spec.folder]:
            assert not (tmp_path / "out" / task / f"{split}.jsonl").exists()
            continue
        lines, label = OFFICIAL[spec.folder][file]
        got = rows(tmp_path / "out" / task / f"{split}.jsonl")
        headerless = spec.headerless is not None and label is not None
        assert len(got) == len(lines) - (not headerless)
        assert got[0]["id"] == "0"
        assert got[0].get("label") == label
        assert got[0]["text"].strip() == got[0]["text"] != ""
        assert ("text_pair" in got[0]) == (len(spec.texts) == 2)


def test_every_task_without_naming_them(raw, tmp_path):
    assert prep("glue", "--raw", raw, "--out", tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(TASKS)


FULL = ["Lexical Semantics", "Predicate-Argument Structure", "Logic", "Knowledge", "Domain"]


@pytest.mark.parametrize(
    ("place", "header", "before", "labels"),
    [
        ("AX.tsv", ["index", "sentence1", "sentence2"], ["0"], []),
        ("AX/AX.tsv", ["index", "sentence1", "sentence2", "label"], ["0"], ["neutral", ""]),
        ("diagnostic/diagnostic-full.tsv", [*FULL, "Premise", "Hypothesis", "Label"], [""] * 5, ["neutral", ""]),
    ],
)
def test_the_diagnostic_set_in_its_other_places(tmp_path, place, header, before, labels):
    lines = [[*before, "A cat.", "A dog.", *labels[:1]], [*before, "A.", "B.", *labels[1:]]]
    write(tmp_path / "raw" / place, *map("\t".join, [header, *lines]))
    assert prep("glue", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--tasks", "ax") == 0
    assert rows(tmp_path / "out/ax/test.jsonl") == [
        {"id": "0", "text": "A cat.", "text_pair": "A dog."} | ({"label": "neutral"} if labels else {}),
        {"id": "1", "text": "A.", "text_pair": "B."},
    ]


def test_a_diagnostic_set_that_is_not_there(raw, tmp_path, capsys):
    (raw / "diagnostic/diagnostic.tsv").unlink()
    assert prep("glue", "--raw", raw, "--out", tmp_path / "out") == 0
    assert "ax: missing" in capsys.readouterr().out and not (tmp_path / "out/ax").exists()
    with pytest.raises(UserError, match="--tasks: ax: none of diagnostic.tsv is in"):
        prep("glue", "--raw", raw, "--out", tmp_path / "named", "--tasks", "ax")


def test_missing_folders_are_reported_but_only_fatal_when_named(raw, tmp_path, capsys):
    for path in sorted((raw / "RTE").iterdir()):
        path.unlink()
    (raw / "RTE").rmdir()
    assert prep("glue", "--raw", raw, "--out", tmp_path / "out") == 0
    assert "rte: missing" in capsys.readouterr().out
    with pytest.raises(UserError, match="--tasks: rte: no folder"):
        prep("glue", "--raw", raw, "--out", tmp_path / "named", "--tasks", "sst2,rte")
    assert not (tmp_path / "named").exists()


@pytest.mark.parametrize(
    ("tasks", "message"),
    [("sst", "unknown task 'sst'"), ("sst2,xx", "unknown task 'xx'"), (",", "no task named")],
)
def test_unknown_tasks(raw, tmp_path, tasks, message):
    with pytest.raises(UserError, match=message):
        prep("glue", "--raw", raw, "--out", tmp_path / "out", "--tasks", tasks)


def test_a_folder_without_any_task(tmp_path):
    with pytest.raises(UserError, match="holds none of"):
        prep("glue", "--raw", tmp_path, "--out", tmp_path / "out")
    with pytest.raises(UserError, match="is not a folder"):
        prep("glue", "--raw", tmp_path / "nothing", "--out", tmp_path / "out")


def test_broken_rows_are_rejected_with_their_line(tmp_path, capsys):
    path = tmp_path / "raw" / "SST-2" / "train.tsv"
    write(path, "sentence\tlabel", "fine\t1", "no label", "odd\t2", " \t0", "next\u2028line\x85here\t0")
    with open(path, "ab") as file:
        file.write(b"caf\xe9\t1\nwindows end\t1\r\n")
    assert prep("glue", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--tasks", "sst2") == 0
    got = rows(tmp_path / "out/sst2/train.jsonl")
    assert [(r["id"], r["text"]) for r in got] == [
        ("0", "fine"),
        ("4", "next\u2028line\x85here"),
        ("6", "windows end"),
    ]
    rejects = rows(tmp_path / "out/sst2/train.rejects.jsonl")
    assert [r["place"].rsplit(":", 1)[1] for r in rejects] == ["3", "4", "5", "7"]
    for reject, part in zip(rejects, ["1 columns where 2", "allowed: 0, 1", "text is empty", "0xe9"], strict=True):
        assert part in reject["reason"]
    out = capsys.readouterr().out
    assert "3 rows     4 rejected" in out and "train.tsv:4: label: unknown label '2'" in out


def test_rejects_of_an_earlier_run_go_away_and_only_ten_are_printed(tmp_path, capsys):
    path = tmp_path / "raw" / "SST-2" / "train.tsv"
    write(path, "sentence\tlabel", "fine\t1", *["bad"] * 12)
    prep("glue", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    assert "and 2 more in sst2/train.rejects.jsonl" in capsys.readouterr().out
    write(path, "sentence\tlabel", "fine\t1")
    prep("glue", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    assert not (tmp_path / "out/sst2/train.rejects.jsonl").exists()


@pytest.mark.parametrize("score", ["nan", "inf", "5.1", "-1", "", "high"])
def test_scores_must_be_numbers_from_0_to_5(tmp_path, score):
    lines, _ = OFFICIAL["STS-B"]["train.tsv"]
    write(tmp_path / "raw" / "STS-B" / "train.tsv", *lines, lines[1].replace("3.800", score))
    prep("glue", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--tasks", "stsb")
    assert len(rows(tmp_path / "out/stsb/train.jsonl")) == 1
    assert "score" in rows(tmp_path / "out/stsb/train.rejects.jsonl")[0]["reason"]


def test_nothing_is_written_when_no_row_is_usable_or_a_column_lacks(tmp_path):
    path = tmp_path / "raw" / "RTE" / "train.tsv"
    write(path, "index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\tmaybe")
    write(tmp_path / "out/rte/train.jsonl", "kept")
    with pytest.raises(UserError, match="rte: train: no usable row; first: .*train.tsv:2: label"):
        prep("glue", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--tasks", "rte")
    write(path, "index\tpremise\thypothesis\tlabel", "0\tA.\tB.\tentailment")
    with pytest.raises(UserError, match="no column sentence1, sentence2"):
        prep("glue", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--tasks", "rte")
    assert (tmp_path / "out/rte/train.jsonl").read_text(encoding="utf-8") == "kept\n"


def test_an_unwritable_place(raw, tmp_path):
    write(tmp_path / "file", "x")
    with pytest.raises(UserError, match="--out: .*: cannot be written: .*file: Not a directory"):
        prep("glue", "--raw", raw, "--out", tmp_path / "file" / "out")


def msr(n: int) -> list[str]:
    head = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    return [head, *(f"{i % 2}\t{i}\t{i + 1}\tFirst {i}.\tSecond {i}." for i in range(n))]


def test_mrpc_from_the_original_files(tmp_path, capsys):
    folder = tmp_path / "raw" / "MRPC"
    write(folder / "msr_paraphrase_train.txt", *msr(60))
    write(folder / "msr_paraphrase_test.txt", *msr(5))
    prep("glue", "--raw", tmp_path / "raw", "--out", tmp_path / "own")
    assert "not GLUE's dev set" in capsys.readouterr().out
    own = {name: rows(tmp_path / f"own/mrpc/{name}.jsonl") for name in ("train", "dev", "test")}
    assert len(own["train"]) + len(own["dev"]) == 60 and own["dev"] and len(own["test"]) == 5
    assert own["test"][1]["label"] == "equivalent"
    write(folder / "dev_ids.tsv", "3\t4", "10\t11")
    prep("glue", "--raw", tmp_path / "raw", "--out", tmp_path / "listed")
    assert [r["text"] for r in rows(tmp_path / "listed/mrpc/dev.jsonl")] == ["First 3.", "First 10."]
    assert len(rows(tmp_path / "listed/mrpc/train.jsonl")) == 58


def fake_hub(features, splits):
    return {
        name: datasets.Dataset.from_list(items, features=datasets.Features(features)) for name, items in splits.items()
    }


def test_from_the_hub(tmp_path, monkeypatch):
    text = datasets.Value("string")
    names = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    sets = {
        "mnli": fake_hub(
            {"premise": text, "hypothesis": text, "label": names, "idx": datasets.Value("int32")},
            {
                "train": [{"premise": "A.", "hypothesis": "B.", "label": 2, "idx": 0}],
                "validation_matched": [{"premise": "A.", "hypothesis": "B.", "label": 0, "idx": 0}],
                "test_matched": [{"premise": "A.", "hypothesis": "B.", "label": -1, "idx": 0}],
            },
        ),
        "stsb": fake_hub(
            {"sentence1": text, "sentence2": text, "label": datasets.Value("float32")},
            {"validation": [{"sentence1": "A.", "sentence2": "B.", "label": 2.5}]},
        ),
    }
    sets["ax"] = fake_hub(
        {"premise": text, "hypothesis": text, "label": names, "idx": datasets.Value("int32")},
        {"test": [{"premise": "A.", "hypothesis": "B.", "label": -1, "idx": 0}]},
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name: sets[name])
    assert prep("glue", "--hub", "--out", tmp_path, "--tasks", "mnli,stsb,ax") == 0
    assert rows(tmp_path / "ax/test.jsonl") == [{"id": "0", "text": "A.", "text_pair": "B."}]
    (row,) = rows(tmp_path / "mnli/train.jsonl")
    assert row == {"id": "0", "text": "A.", "text_pair": "B.", "label": "contradiction"}
    assert rows(tmp_path / "mnli/matched_dev.jsonl")[0]["label"] == "entailment"
    assert "label" not in rows(tmp_path / "mnli/matched_test.jsonl")[0]
    assert rows(tmp_path / "stsb/dev.jsonl")[0]["label"] == 2.5
    with pytest.raises(UserError, match="--hub: nyu-mll/glue: cannot be loaded"):
        prep("glue", "--hub", "--out", tmp_path, "--tasks", "rte")


COUNTS = {
    "mrpc": {"train": 3668, "dev": 408, "test": 1725},
    "cola": {"train": 8551, "dev": 1043, "test": 1063},
    "sst2": {"train": 67349, "dev": 872},
    "stsb": {"train": 5749, "dev": 1500},
}


@pytest.mark.parametrize("task", COUNTS)
def test_published_counts(real_data, tmp_path, task):
    assert prep("glue", "--raw", real_data, "--out", tmp_path, "--tasks", task) == 0
    for split, count in COUNTS[task].items():
        got = rows(tmp_path / task / f"{split}.jsonl")
        assert len(got) == count == len({row["id"] for row in got})
        assert not (tmp_path / task / f"{split}.rejects.jsonl").exists()
        labels = {row.get("label") for row in got}
        assert labels == {None} if split == "test" else task == "stsb" or labels == set(LABELS[task])


def test_the_real_training_part_of_mnli(real_data, tmp_path):
    prep("glue", "--raw", real_data, "--out", tmp_path, "--tasks", "mnli")
    assert len(rows(tmp_path / "mnli/train.jsonl")) == 8999


def test_both_sources_of_mrpc_hold_the_same_rows(real_data, tmp_path):
    folder = tmp_path / "raw" / "MRPC"
    folder.mkdir(parents=True)
    for name in ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt"):
        (folder / name).write_bytes((real_data / "MRPC" / name).read_bytes())
    prep("glue", "--raw", tmp_path / "raw", "--out", tmp_path / "msr")
    prep("glue", "--raw", real_data, "--out", tmp_path / "glue", "--tasks", "mrpc")

    def pairs(source):
        found = [rows(tmp_path / source / "mrpc" / f"{s}.jsonl") for s in ("train", "dev")]
        return sorted((r["text"], r["text_pair"], r["label"]) for part in found for r in part)

    assert pairs("msr") == pairs("glue") and len(pairs("msr")) == 4076
    assert len(rows(tmp_path / "msr/mrpc/test.jsonl")) == 1725
