"""Predictions for a file of rows, and GLUE submissions."""

from __future__ import annotations

import json
import logging
import shutil

import pytest

from mtrobust.errors import UserError
from mtrobust.evaluation import predict as module
from mtrobust.evaluation.predict import glue_submission, predict, predictions
from tests.evaluation.runs import read_lines, sentence, span_rows, text_rows, write_data, write_rows


def test_one_line_per_row_in_the_order_of_the_input(run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 4)
    rows = text_rows(11, None, pair=False)
    source = write_rows(tmp_path / "in.jsonl", rows)
    told = []
    count = predict(run, "mood", source, tmp_path / "new" / "out.jsonl", progress=lambda *facts: told.append(facts))
    lines = read_lines(tmp_path / "new" / "out.jsonl")
    assert count == len(lines) == 11
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    assert all(line["prediction"] in ("sad", "calm", "glad") for line in lines)
    assert told == [(4, 11), (8, 11), (11, 11)]


def test_the_same_as_in_an_evaluation(run, run_dir, data_dir, tmp_path):
    from mtrobust.evaluation.evaluator import Evaluator

    made = Evaluator(run.model, run.tasks, data_dir, run.tokenizer, tmp_path / "cache", 64, 4)
    for task in ("mood", "stsb", "squad"):
        made.evaluate([task])
        predict(run, task, data_dir / task / "dev.jsonl", tmp_path / "out.jsonl")
        expected = [p.record for p in made.results[task, "dev"].predictions]
        for line, record in zip(read_lines(tmp_path / "out.jsonl"), expected, strict=True):
            assert line["id"] == record["id"]
            if task == "stsb":
                assert line["prediction"] == pytest.approx(record["prediction"], abs=1e-5)
            else:
                assert line["prediction"] == record["prediction"]


def test_rows_are_taken_from_an_iterator_chunk_by_chunk(run, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    task, taken = run.tasks["mood"], []

    def rows():
        for row in text_rows(7, None, pair=False):
            taken.append(row["id"])
            yield task.type.parse_row(row)

    made = predictions(run, task, rows())
    assert next(made).record["id"] == "0" and len(taken) == 3
    assert len(list(made)) == 6


def test_questions_without_answers_given(run, tmp_path):
    rows = [{key: row[key] for key in ("id", "question", "context")} for row in span_rows(5)]
    predict(run, "squad", write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    for row, line in zip(rows, read_lines(tmp_path / "out.jsonl"), strict=True):
        assert line["prediction"] and line["prediction"] in row["context"]


def test_the_tuned_threshold_comes_from_the_run(run, run_dir, tmp_path):
    from mtrobust.evaluation.run_folder import load_run, update_results
    from tests.evaluation.runs import copy_run

    source = write_rows(tmp_path / "in.jsonl", span_rows(6, unanswerable=True))
    answers = []
    for threshold in (-1000.0, 1000.0):
        copy = copy_run(run_dir, tmp_path / f"run{threshold}")
        update_results(copy, {"squad2": {"best_f1_thresh": threshold}})
        predict(load_run(copy), "squad2", source, tmp_path / "out.jsonl")
        answers.append([bool(line["prediction"]) for line in read_lines(tmp_path / "out.jsonl")])
    assert answers == [[False] * 6, [True] * 6]


def test_bad_rows_are_listed_and_nothing_is_written(run, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": "a", "text": "fine"}\n{"id": "b"}\n{"id": "c", "text": ""}\n{nope\n', encoding="utf-8")
    (tmp_path / "out.jsonl").write_text("old\n")
    with pytest.raises(UserError) as caught:
        predict(run, "mood", source, tmp_path / "out.jsonl")
    assert [fault.split(": ")[0].rpartition(":")[2] for fault in caught.value.faults] == ["2", "3", "4"]
    assert (tmp_path / "out.jsonl").read_text() == "old\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_outputs_that_cannot_be(run, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", text_rows(2, None, pair=False))
    for target, message in ((tmp_path, "a folder"), (source, "the input"), (source / "x.jsonl", "cannot be written")):
        with pytest.raises(UserError, match=message):
            predict(run, "mood", source, target)
    with pytest.raises(UserError, match="did you mean 'mood'"):
        predict(run, "moood", source, tmp_path / "out.jsonl")
    with pytest.raises(UserError, match=r"none\.jsonl"):
        predict(run, "mood", tmp_path / "none.jsonl", tmp_path / "out.jsonl")
    assert len(read_lines(source)) == 2


# --- GLUE --------------------------------------------------------------------------------------------------------


@pytest.fixture
def glue_data(tmp_path):
    return write_data(tmp_path / "glue")


def table(path):
    with open(path, encoding="utf-8") as file:
        return [line.rstrip("\n").split("\t") for line in file]


def test_a_submission(run, glue_data, tmp_path, caplog):
    write_rows(glue_data / "ax/test.jsonl", text_rows(3, None, pair=True))
    with caplog.at_level(logging.WARNING):
        written = glue_submission(run, tmp_path / "out", glue_data)
    assert written == {"CoLA.tsv": 6, "STS-B.tsv": 5, "MNLI-m.tsv": 6, "MNLI-mm.tsv": 4, "AX.tsv": 3}
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(written)
    for file, count in written.items():
        rows = table(tmp_path / "out" / file)
        assert rows[0] == ["index", "prediction"]
        assert [row[0] for row in rows[1:]] == [str(i) for i in range(count)]
    cells = {file: {row[1] for row in table(tmp_path / "out" / file)[1:]} for file in written}
    assert cells["CoLA.tsv"] <= {"0", "1"}
    assert all(0 <= float(cell) <= 5 and len(cell) == 5 for cell in cells["STS-B.tsv"])
    for file in ("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"):
        assert cells[file] <= {"contradiction", "neutral", "entailment"}
    assert any("CoLA.tsv: 6 rows" in r.getMessage() and "1063" in r.getMessage() for r in caplog.records)


def test_the_cells_are_the_predictions(run, glue_data, tmp_path):
    glue_submission(run, tmp_path / "out", glue_data)
    predict(run, "cola", glue_data / "cola/test.jsonl", tmp_path / "cola.jsonl")
    expected = [str(int(line["prediction"] == "acceptable")) for line in read_lines(tmp_path / "cola.jsonl")]
    assert [row[1] for row in table(tmp_path / "out/CoLA.tsv")[1:]] == expected


def test_rows_with_other_ids_are_counted(run, glue_data, tmp_path):
    rows = [{"id": f"t-{i}", "text": sentence(i)} for i in range(3)]
    write_rows(glue_data / "cola/test.jsonl", rows)
    glue_submission(run, tmp_path / "out", glue_data)
    assert [row[0] for row in table(tmp_path / "out/CoLA.tsv")[1:]] == ["0", "1", "2"]


def test_missing_test_rows_leave_a_file_out(run, glue_data, tmp_path, caplog):
    (glue_data / "stsb/test.jsonl").unlink()
    shutil.rmtree(glue_data / "mnli")
    with caplog.at_level(logging.WARNING):
        written = glue_submission(run, tmp_path / "out", glue_data)
    assert set(written) == {"CoLA.tsv"}
    assert any("STS-B.tsv is left out" in record.getMessage() for record in caplog.records)


def test_faults_come_before_anything_is_written(run, glue_data, tmp_path):
    (glue_data / "cola/test.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"cola.test\.jsonl:1"):
        glue_submission(run, tmp_path / "out", glue_data)
    assert not (tmp_path / "out").exists()


def test_no_test_rows_at_all(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no test rows"):
        glue_submission(run, tmp_path / "out", tmp_path / "empty")


def test_a_run_without_glue_tasks(run, tmp_path):
    from types import SimpleNamespace

    other = SimpleNamespace(config=run.config, select=lambda names: {"mood": run.tasks["mood"]})
    with pytest.raises(UserError, match="no GLUE task"):
        glue_submission(other, tmp_path / "out")


def test_labels_without_a_place_are_a_fault(run, glue_data, tmp_path):
    from types import SimpleNamespace

    odd = run.tasks["cola"].model_copy(update={"labels": ["bad", "good"]})
    other = SimpleNamespace(config=run.config, select=lambda names: {"cola": odd})
    with pytest.raises(UserError, match=r"bad, good.*CoLA\.tsv needs unacceptable, acceptable"):
        glue_submission(other, tmp_path / "out", glue_data)


def test_numbered_labels_go_through_as_they_are(run, glue_data, tmp_path):
    from types import SimpleNamespace

    plain = run.tasks["cola"].model_copy(update={"labels": ["0", "1"]})
    other = SimpleNamespace(**run._asdict(), select=lambda names: {"cola": plain})
    glue_submission(other, tmp_path / "a", glue_data)
    glue_submission(run, tmp_path / "b", glue_data)
    assert (tmp_path / "a/CoLA.tsv").read_text() == (tmp_path / "b/CoLA.tsv").read_text()


def test_json_lines_are_strict(run, tmp_path):
    predict(run, "stsb", write_rows(tmp_path / "in.jsonl", text_rows(2, None, pair=True)), tmp_path / "out.jsonl")
    for line in (tmp_path / "out.jsonl").read_text().split("\n")[:-1]:
        json.loads(line, parse_constant=pytest.fail)
