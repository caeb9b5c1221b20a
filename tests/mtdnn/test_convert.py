"""`mtrobust convert`: each kind of old file, and what is said of those that cannot be converted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtrobust.cli import main
from mtrobust.data.rows import find_split, read_rows
from mtrobust.tasks.taskdef import load_task_defs
from tests.evaluation.runs import read_lines, span_rows, text_rows, write_rows
from tests.mtdnn.definitions import FILES, text_of
from tests.mtdnn.preprocessed import span_lines, text_lines

DEFS = """
mood: {task_type: Classification, data_format: PremiseOnly, n_class: 3, labels: [sad, calm, glad], metric_meta: [ACC]}
nli: {task_type: Classification, data_format: PremiseAndOneHypothesis, n_class: 2, metric_meta: [ACC]}
squad: {task_type: Span, data_format: MRC, n_class: 2, metric_meta: [EmF1], split_names: [train, dev]}
mlm: {task_type: MaskLM, data_format: MLM, n_class: 30522, metric_meta: [ACC]}
copa: {task_type: Ranking, data_format: PremiseAndMultiHypothesis, n_class: 1, metric_meta: [ACC]}
ner: {task_type: SeqenceLabeling, data_format: Seqence, n_class: 5, labels: [O, B-PER, X, CLS, SEP]}
record: {task_type: ClozeChoice, data_format: ClozeChoice, n_class: 1, metric_meta: [EmF1]}
"""


@pytest.fixture
def defs(tmp_path: Path) -> Path:
    path = tmp_path / "defs.yml"
    path.write_text(DEFS, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FILES)
def test_a_definition_file_loads_to_the_same_tasks(tmp_path: Path, name: str) -> None:
    old, new = tmp_path / "old.yml", tmp_path / "new" / "new.yml"
    old.write_text(text_of(name), encoding="utf-8")
    assert main(["convert", str(old), "--out", str(new)]) == 0
    one, other = (load_task_defs([path], use=()) for path in (old, new))
    assert {k: v.model_dump() for k, v in one.items()} == {k: v.model_dump() for k, v in other.items()}
    assert {k: v.faults() for k, v in one.items()} == {k: v.faults() for k, v in other.items()}


def test_comments_say_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.yml", tmp_path / "new.yml"
    squad, anli = FILES["squad_clue"]["squad-v2"], FILES["anli"]["fever"]
    assert (squad["task_type"], anli["n_class"]) == ("SpanYN", 2)
    old.write_text(text_of("squad_clue") + text_of("anli"), encoding="utf-8")
    assert main(["convert", str(old), "--out", str(new)]) == 0
    assert capsys.readouterr().out == f"{new}: 5 tasks\n"
    lines = new.read_text(encoding="utf-8").split("\n")
    begin = lines.index("squad-v2:")
    assert lines[begin + 1 : begin + 5] == [
        "  # task_type: was SpanYN",
        "  task_type: SpanClassificationYN",
        "  # data_format: was CLUE_SPAN",
        "  data_format: MRC",
    ]
    assert "  # kd_loss: was MseCriterion" in lines and "  kd_loss: mse" in lines
    assert "  # left out, being as they are by default: enable_san" in lines
    refused = "  # cannot be used by this version: n_class: 2: but 3 labels (contradiction, neutral, entailment)"
    assert lines[lines.index("fever:") + 1] == refused


def convert(defs: Path, data: Path, out: Path, *more: str) -> int:
    return main(["convert", "--task_def", str(defs), "--data_dir", str(data), "--out", str(out), *more])


def test_canonical_tsv_becomes_rows_with_the_same_content(tmp_path: Path, defs: Path) -> None:
    data, out = tmp_path / "old", tmp_path / "new"
    data.mkdir()
    (data / "mood_train.tsv").write_text("0\tglad\tA warm film.\n1\t0\tDull.\n2\t\tWell.\n", encoding="utf-8")
    (data / "nli_dev.tsv").write_text('7\t1\tAn "odd\tquote\n', encoding="utf-8")
    (data / "squad_train.tsv").write_text("q\t5:::9:::0:::Rome\tSee: Rome.\tWhere?\n", encoding="utf-8")
    (data / "copa_dev.tsv").write_text("3\t3,3\t0,1\tIt rained.\tso dry\tso wet\n", encoding="utf-8")
    (data / "ner_test.tsv").write_text("0\t['B-PER', 'O']\t['Anna', 'won']\n", encoding="utf-8")
    (data / "mlm_train.json").write_text('{"text": "Anything."}\n', encoding="utf-8")
    assert convert(defs, data, out) == 0
    assert read_lines(out / "mood" / "train.jsonl") == [
        {"id": "0", "label": "glad", "text": "A warm film."},
        {"id": "1", "label": 0, "text": "Dull."},
        {"id": "2", "text": "Well."},
    ]
    assert read_lines(out / "copa" / "dev.jsonl")[0]["label"] == 1
    assert read_lines(out / "ner" / "test.jsonl") == [{"id": "0", "tags": ["B-PER", "O"], "tokens": ["Anna", "won"]}]
    tasks = load_task_defs([defs], use=())
    files = {"mood": "train", "nli": "dev", "squad": "train", "mlm": "train", "copa": "dev", "ner": "test"}
    for name, split in files.items():
        old, new = (read_rows(tasks[name], find_split(tasks[name], folder, split)) for folder in (data, out))
        assert old == new


def test_preprocessed_lines_become_rows_of_token_ids(
    tmp_path: Path, defs: Path, tiny_model_dir: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(tiny_model_dir("bert")))
    data, out = tmp_path / "old", tmp_path / "new"
    moods, questions = text_rows(3, ["sad", "calm"], pair=False), span_rows(4)
    write_rows(data / "mood_train.json", text_lines(moods, tokenizer, ["sad", "calm", "glad"], padded_to=40))
    write_rows(data / "squad_train.json", span_lines(questions, tokenizer, training=True))
    write_rows(data / "squad_dev.json", span_lines(questions, tokenizer, training=False))
    assert convert(defs, data, out) == 0
    said = capsys.readouterr().out
    assert f"{out / 'mood/train.jsonl'}: 3 rows of token ids from {data / 'mood_train.json'}\n" in said
    assert f"{out / 'squad/dev.jsonl'}: 4 rows of token ids" in said
    first = read_lines(out / "mood" / "train.jsonl")[0]
    assert set(first) == {"id", "label", "token_id", "type_id"} and 0 not in first["token_id"]  # no padding
    tasks = load_task_defs([defs], use=())
    for name, split in (("mood", "train"), ("squad", "train"), ("squad", "dev")):
        old, new = (read_rows(tasks[name], find_split(tasks[name], folder, split)) for folder in (data, out))
        assert [{k: v for k, v in row.items() if v is not None} for row in old] == [
            {k: v for k, v in row.items() if v is not None} for row in new
        ]


def test_nothing_is_written_where_something_cannot_be_converted(
    tmp_path: Path, defs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "old", tmp_path / "new"
    data.mkdir()
    (data / "mood_train.tsv").write_text("0\tmerry\tA warm film.\n", encoding="utf-8")
    (data / "nli_dev.tsv").write_text("7\t1\tone\tother\n", encoding="utf-8")
    (data / "record_train.json").write_text('{"uid": "0"}\n', encoding="utf-8")
    assert convert(defs, data, out) == 2 and not out.exists()
    errors = capsys.readouterr().err.strip().split("\n")
    assert len(errors) == 2
    assert errors[0].startswith("error: record.task_type: ClozeChoice: not supported yet (supported: ")
    assert errors[1].startswith(f"error: {data / 'mood_train.tsv'}:1: label: 'merry': unknown")
    assert convert(defs, data, out, "--tasks", "nli") == 0 and (out / "nli" / "dev.jsonl").is_file()
    assert convert(defs, data, out, "--tasks", "nli") == 2
    assert capsys.readouterr().err == f"error: --out: {out / 'nli/dev.jsonl'}: exists; name another folder\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x"], "--task_def: needed to convert data"),
        (["--out", "x", "--data_dir", "."], "--task_def: needed to convert data"),
        (["DEFS", "--out", "DEFS"], "--out: DEFS is the input; name another file"),
        (["DEFS", "--out", "x", "--data_dir", "."], "--data_dir: for data only; convert DEFS and the data one after"),
        (["gone.yml", "--out", "x"], "gone.yml: no such task-definition file"),
        (["--task_def", "DEFS", "--data_dir", "gone", "--out", "x"], "--data_dir: gone: no such folder"),
        (["--task_def", "DEFS", "--data_dir", "EMPTY", "--out", "x"], "--data_dir: EMPTY: no data of any of the tasks"),
        (["--task_def", "DEFS", "--data_dir", "EMPTY", "--out", "x", "--tasks", "nli"], "EMPTY: no file of task nli"),
        (["--task_def", "DEFS", "--data_dir", ".", "--out", "x", "--tasks", "nly"], "--tasks: nly: no such task; did"),
    ],
)
def test_a_wrong_call(
    tmp_path: Path, defs: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    names = {"DEFS": str(defs), "EMPTY": str(tmp_path / "empty"), "x": str(tmp_path / "x")}
    assert main(["convert", *(names.get(word, word) for word in words)]) == 2
    shown = capsys.readouterr().err
    for name in ("DEFS", "EMPTY"):
        shown = shown.replace(names[name], name)
    assert shown.startswith(f"error: {message}") and not (tmp_path / "x").exists()
