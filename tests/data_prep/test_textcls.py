"""Text classification: the known sets in their layouts, own files with named columns, held-out examples, and faults."""

from __future__ import annotations

import json

import pytest

from data_prep.textcls_sets import letters
from mtrobust.errors import UserError
from tests.data_prep.helpers import prep, rows, write


@pytest.fixture
def mr(tmp_path):
    """rt-polarity in small, with the single bytes that break naive readers."""
    folder = tmp_path / "MR"
    folder.mkdir()
    lines = {s: [f"{s} review number {i} , and more".encode() for i in range(200)] for s in ("pos", "neg")}
    lines["pos"][3] = b"a caf\xe9 film \x85 with dots \x97 and a dash "
    lines["neg"][4] = b"odd byte \x81 here"
    for side, content in lines.items():
        (folder / f"rt-polarity.{side}").write_bytes(b"\n".join(content) + b"\n")
    return folder


def read(out, task):
    return {path.stem: rows(path) for path in sorted((out / task).glob("*.jsonl"))}


def test_mr_encoding_and_fixed_split(mr, tmp_path):
    prep("textcls", "--dataset", "mr", "--raw", mr, "--out", tmp_path / "a")
    prep("textcls", "--dataset", "mr", "--raw", mr, "--out", tmp_path / "b")
    got = read(tmp_path / "a", "mr")
    assert got == read(tmp_path / "b", "mr")
    assert len(got["train"]) + len(got["dev"]) == 400 and 20 < len(got["dev"]) < 60
    by_id = {row["id"]: row for split in got.values() for row in split}
    text = "a caf\u00e9 film \u2026 with dots \u2014 and a dash"
    assert by_id["pos-4"] == {"id": "pos-4", "text": text, "label": "positive"}
    assert by_id["neg-5"]["text"] == "odd byte \x81 here"
    assert not {letters(r["text"]) for r in got["train"]} & {letters(r["text"]) for r in got["dev"]}


def test_mr_split_does_not_depend_on_the_order_of_the_file(mr, tmp_path):
    prep("textcls", "--dataset", "mr", "--raw", mr, "--out", tmp_path / "a")
    path = mr / "rt-polarity.pos"
    path.write_bytes(b"\n".join(reversed(path.read_bytes().strip().split(b"\n"))))
    prep("textcls", "--dataset", "mr", "--raw", mr, "--out", tmp_path / "b")
    dev = [{row["text"] for row in read(tmp_path / part, "mr")["dev"]} for part in "ab"]
    assert dev[0] == dev[1]


def test_held_out_examples_leave_train_and_dev(mr, tmp_path, capsys):
    attack = ("1 pos review number 7 , and  MORE", "0 neg review number 9, and more", "0 never seen")
    held = write(tmp_path / "attack", *attack)
    prep("textcls", "--dataset", "mr", "--raw", mr, "--out", tmp_path / "out", "--hold_out", held)
    got = read(tmp_path / "out", "mr")
    assert sorted(row["id"] for row in got["test"]) == ["neg-10", "pos-8"]
    assert len(got["train"]) + len(got["dev"]) == 398
    out = capsys.readouterr().out
    assert "2 rows moved" in out and "1 of 3 texts are in no split" in out and "not found: never seen" in out


def test_a_split_left_from_an_earlier_preparation_is_named(mr, tmp_path, capsys):
    held = write(tmp_path / "attack", "1 pos review number 7 , and more")
    prep("textcls", "--dataset", "mr", "--raw", mr, "--out", tmp_path / "out", "--hold_out", held)
    prep("textcls", "--dataset", "mr", "--raw", mr, "--out", tmp_path / "out")
    assert "left from an earlier preparation: test.jsonl" in capsys.readouterr().out


def test_agnews_original_and_joined(tmp_path):
    original = ['"3","Fears, ""again""","Two\\lines"', '"1","A","B"']
    write(tmp_path / "raw/test.csv", *original)
    write(tmp_path / "raw/train_sample_joined.csv", '"Joined, text",3', *[f'"text {i}",{i % 4}' for i in range(300)])
    prep("textcls", "--dataset", "agnews", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    got = read(tmp_path / "out", "agnews")
    assert got["test"][0] == {"id": "0", "text": 'Fears, "again" Two\\lines', "label": "Business"}
    assert got["test"][1]["label"] == "World"
    assert len(got["train"]) + len(got["dev"]) == 301
    write(tmp_path / "raw/train.csv", *original)  # the original wins over the sample
    prep("textcls", "--dataset", "agnews", "--raw", tmp_path / "raw", "--out", tmp_path / "full", "--dev_share", 0)
    assert set(read(tmp_path / "full", "agnews")) == {"train", "test"}
    assert len(read(tmp_path / "full", "agnews")["train"]) == 2


def test_yelp_polarity(tmp_path):
    write(tmp_path / "raw/train.csv", '"1","Bad.\\n\\nReally ""bad""."', '"2","Good, yes."', '"3","What?"')
    prep("textcls", "--dataset", "yelp", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--dev_share", 0)
    got = read(tmp_path / "out", "yelp")
    assert [(r["text"], r["label"]) for r in got["train"]] == [
        ('Bad. Really "bad".', "negative"),
        ("Good, yes.", "positive"),
    ]
    assert got["train.rejects"][0]["place"].endswith("train.csv:3")


def test_imdb_layouts(tmp_path):
    for part in ("train", "test"):
        for side in ("pos", "neg"):
            write(tmp_path / f"raw/aclImdb/{part}/{side}/0_7.txt", f"A {side} film.<br /><br />Yes.")
    prep("textcls", "--dataset", "imdb", "--raw", tmp_path / "raw", "--out", tmp_path / "a", "--dev_share", 0)
    assert read(tmp_path / "a", "imdb")["test"] == [
        {"id": "neg/0_7", "text": "A neg film. Yes.", "label": "negative"},
        {"id": "pos/0_7", "text": "A pos film. Yes.", "label": "positive"},
    ]
    lines = ("review,sentiment", '"Fine,\nreally.",positive', "Poor.,negative", "?,x")
    write(tmp_path / "kaggle/IMDB Dataset.csv", *lines)
    prep("textcls", "--dataset", "imdb", "--raw", tmp_path / "kaggle", "--out", tmp_path / "b", "--dev_share", 0)
    got = read(tmp_path / "b", "imdb")
    assert [r["text"] for r in got["train"]] == ["Fine, really.", "Poor."]
    assert got["train.rejects"][0]["place"].endswith("Dataset.csv:5")


def test_sets_that_are_not_there(tmp_path):
    for name in ("mr", "agnews", "imdb", "yelp"):
        with pytest.raises(UserError, match="found"):
            prep("textcls", "--dataset", name, "--raw", tmp_path, "--out", tmp_path / "out")
    with pytest.raises(UserError) as caught:
        prep("textcls", "--dataset", "mr", "--out", tmp_path / "o", "--dev_share", 2, "--hold_out", tmp_path / "no")
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize("name", ["../../esc", "a/b", ".", ""])
def test_names_that_lead_out_of_the_folder_are_refused(mr, tmp_path, name):
    with pytest.raises(UserError, match="--task: '.*': a task's name is made of letters"):
        prep("textcls", "--dataset", "mr", "--raw", mr, "--out", tmp_path / "o/deep", "--task", name)
    assert [path.name for path in tmp_path.iterdir()] == ["MR"]


def test_flags_of_own_files_are_refused_for_known_sets(mr, tmp_path):
    own = ["--train_file", "no.tsv", "--labels", "a,b", "--regression", "--text_column", "z", "--id_column", "i"]
    with pytest.raises(UserError) as caught:
        prep("textcls", "--dataset", "mr", "--raw", mr, "--out", tmp_path / "out", *own)
    given = ["train_file", "id_column", "labels", "text_column", "regression"]
    assert caught.value.faults == [f"--{flag}: only with --dataset file" for flag in given]
    assert not (tmp_path / "out").exists()


def test_a_share_for_dev_that_has_no_effect_is_refused(tmp_path):
    path = write(tmp_path / "a.tsv", "text\tlabel", "a\tx", "b\ty")
    arguments = ["--dataset", "file", "--task", "m", "--out", tmp_path / "out", "--dev_share", 0.5]
    with pytest.raises(UserError, match=r"--dev_share: 0.5: .* there is a dev part \(found: train, dev\)"):
        prep("textcls", *arguments, "--train_file", path, "--dev_file", path)
    with pytest.raises(UserError, match=r"--dev_share: 0.5: .* there is no train part \(found: test\)"):
        prep("textcls", *arguments, "--test_file", path)
    sample = write(tmp_path / "raw/texts.csv", "label,text,is_valid", "negative,Bad.,False", "positive,Good.,True")
    with pytest.raises(UserError, match="there is a dev part"):
        prep("textcls", "--dataset", "imdb", "--raw", sample.parent, "--out", tmp_path / "out", "--dev_share", 0.5)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"1\n", b"1 caf\xe9\n"])
def test_broken_hold_out_files(mr, tmp_path, content):
    (tmp_path / "held").write_bytes(content)
    with pytest.raises(UserError, match="--hold_out: "):
        prep("textcls", "--dataset", "mr", "--raw", mr, "--out", tmp_path / "out", "--hold_out", tmp_path / "held")


OWN = {
    "t.tsv": ["name\tbody\tother\tclass", 'k1\tsay "hi\tx y\tyes', "k2\tbye\tz\tno", "k3\tempty class\tz\t"],
    "t.csv": ["name,body,other,class", 'k1,"say ""hi","x y",yes', "k2,bye,z,no", "k3,empty class,z,"],
    "t.jsonl": [
        json.dumps({"name": "k1", "body": 'say "hi', "other": "x y", "class": "yes"}),
        json.dumps({"name": "k2", "body": "bye", "other": "z", "class": "no"}),
        json.dumps({"name": "k3", "body": "empty class", "other": "z", "class": None}),
    ],
}
COLUMNS = ["--text_column", "body", "--text_pair_column", "other", "--label_column", "class", "--id_column", "name"]


@pytest.mark.parametrize("name", OWN)
def test_own_files_with_named_columns(tmp_path, capsys, name):
    path = write(tmp_path / name, *OWN[name])
    arguments = ["--dataset", "file", "--task", "mine", "--train_file", path, "--dev_file", path, *COLUMNS]
    prep("textcls", *arguments, "--out", tmp_path / "out")
    got = read(tmp_path / "out", "mine")
    assert got["train"] == got["dev"]
    assert got["train"] == [
        {"id": "k1", "text": 'say "hi', "text_pair": "x y", "label": "yes"},
        {"id": "k2", "text": "bye", "text_pair": "z", "label": "no"},
        {"id": "k3", "text": "empty class", "text_pair": "z"},
    ]
    assert 'labels: ["no", "yes"]' in capsys.readouterr().out


def test_the_printed_definition_loads(tmp_path, capsys):
    from mtrobust.tasks.taskdef import load_task_defs

    path = write(tmp_path / "t.jsonl", *(json.dumps({"text": "a", "label": i}) for i in (0, 1)))
    prep("textcls", "--dataset", "file", "--task", "mine", "--train_file", path, "--out", tmp_path)
    (tmp_path / "d.yml").write_text(capsys.readouterr().out.split("rows:\n\n")[1], encoding="utf-8")
    assert load_task_defs([tmp_path / "d.yml"])["mine"].labels == ["0", "1"]
    scores = write(tmp_path / "s.tsv", "text\tlabel", "a\t0.5", "b\tnan", "c\tx")
    prep("textcls", "--dataset", "file", "--task", "score", "--regression", "--train_file", scores, "--out", tmp_path)
    (tmp_path / "e.yml").write_text(capsys.readouterr().out.split("rows:\n\n")[1], encoding="utf-8")
    assert load_task_defs([tmp_path / "e.yml"])["score"].task_type == "Regression"
    assert [r["label"] for r in rows(tmp_path / "score/train.jsonl")] == [0.5]


def test_labels_of_train_are_the_allowed_ones_and_can_be_named(tmp_path):
    train = write(tmp_path / "a.tsv", "text\tlabel", "a\tyes", "b\tno")
    dev = write(tmp_path / "b.tsv", "text\tlabel", "c\tyes", "d\tmaybe")
    arguments = ["--dataset", "file", "--task", "mine", "--out", tmp_path / "out", "--train_file", train]
    prep("textcls", *arguments, "--dev_file", dev)
    assert "allowed: no, yes" in rows(tmp_path / "out/mine/dev.rejects.jsonl")[0]["reason"]
    prep("textcls", *arguments, "--labels", "yes,maybe", "--dev_file", dev)
    assert len(rows(tmp_path / "out/mine/dev.jsonl")) == 2 and len(rows(tmp_path / "out/mine/train.jsonl")) == 1


@pytest.mark.parametrize(("name", "comma"), [("t.tsv", "\t"), ("t.csv", ",")])
def test_a_column_that_is_there_twice_is_refused_where_it_is_read(tmp_path, name, comma):
    lines = [["text", "label", "a", "a"], ["fine", "x", "1", "2"]]
    path = write(tmp_path / name, *map(comma.join, lines))
    arguments = ["--dataset", "file", "--task", "m", "--train_file", path, "--out", tmp_path / "out"]
    with pytest.raises(UserError, match=f"{name}:1: column a: 2 columns have this name"):
        prep("textcls", *arguments, "--id_column", "a")
    assert not (tmp_path / "out/m").exists()
    assert prep("textcls", *arguments) == 0


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.jsonl", b'{"text": "a"', "not JSON"),
        ("t.jsonl", b"[1]", "not a JSON object"),
        ("t.jsonl", b'{"label": "x"}', "text: missing"),
        ("t.jsonl", b'{"text": 3, "label": "x"}', "expected text"),
        ("t.jsonl", b'{"text": "a", "label": ["x"]}', "expected a value"),
        ("t.jsonl", b'{"text": "a", "label": NaN}', "NaN is not a number"),
        ("t.jsonl", b'{"text": "caf\xe9", "label": "x"}', "byte 0xe9"),
        ("t.jsonl", b'{"text": "a \\ud800", "label": "x"}', "lone surrogate"),
        ("t.csv", b"a,b,c", "3 columns where 2"),
        ("t.csv", b"caf\xe9,x", "byte 0xe9"),
    ],
)
def test_broken_rows_of_own_files(tmp_path, name, content, reason):
    head = {"t.csv": b"text,label\nfine,x\n", "t.jsonl": b'\xef\xbb\xbf{"text": "fine", "label": "x"}\n'}[name]
    (tmp_path / name).write_bytes(head + content + b"\n")
    prep("textcls", "--dataset", "file", "--task", "m", "--train_file", tmp_path / name, "--out", tmp_path / "out")
    assert [r["text"] for r in rows(tmp_path / "out/m/train.jsonl")] == ["fine"]
    (reject,) = rows(tmp_path / "out/m/train.rejects.jsonl")
    assert reason in reject["reason"] and name in reject["place"]


def test_faults_of_own_files(tmp_path):
    with pytest.raises(UserError) as caught:
        prep("textcls", "--dataset", "file", "--out", tmp_path / "out", "--labels", "a", "--regression")
    assert len(caught.value.faults) == 3
    with pytest.raises(UserError, match="--raw: without effect with --dataset file"):
        path = write(tmp_path / "a.tsv", "text\tlabel", "x\ty")
        prep("textcls", "--dataset", "file", "--task", "m", "--raw", "no", "--train_file", path, "--out", tmp_path)
    arguments = ["--dataset", "file", "--task", "m", "--out", tmp_path / "out", "--train_file"]
    with pytest.raises(UserError, match="unknown kind of file '.xml'"):
        prep("textcls", *arguments, write(tmp_path / "a.xml", "x"))
    with pytest.raises(UserError, match=r"no column label \(found: text\)"):
        prep("textcls", *arguments, write(tmp_path / "a.tsv", "text", "x"))
    with pytest.raises(UserError, match="no usable row"):
        prep("textcls", *arguments, write(tmp_path / "b.tsv", "text\tlabel"))


def test_published_counts(real_data, tmp_path, capsys):
    run = ["--out", tmp_path, "--dataset"]
    prep("textcls", *run, "mr", "--raw", real_data / "MR", "--hold_out", real_data / "TextFooler" / "mr")
    assert "1000 rows moved from train and dev; 0 of 1000" in capsys.readouterr().out
    prep("textcls", *run, "agnews", "--raw", real_data / "AG-News", "--hold_out", real_data / "TextFooler" / "ag")
    assert "0 rows moved from train and dev; 0 of 1000" in capsys.readouterr().out
    prep("textcls", *run, "imdb", "--raw", real_data / "IMDB")
    sizes = {task: {s: len(r) for s, r in read(tmp_path, task).items()} for task in ("mr", "agnews", "imdb")}
    assert sum(sizes["mr"].values()) == 10662 and sizes["mr"]["test"] == 1000
    assert sizes["agnews"]["test"] == 7600 and sizes["agnews"]["train"] + sizes["agnews"]["dev"] == 5000
    assert sizes["imdb"] == {"train": 800, "dev": 200, "test": 1000}
    for split in sizes["imdb"]:  # labels mean what they say, in both files
        rows = read(tmp_path, "imdb")[split]
        bad = [row["label"] for row in rows if any(word in row["text"].lower() for word in ("worst", "awful"))]
        assert bad.count("negative") > 3 * bad.count("positive"), split
    assert not list(tmp_path.rglob("*.rejects.jsonl"))
