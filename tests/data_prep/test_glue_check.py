"""The submission checker: a sound folder passes, each kind of fault is one line, the table is the predictor's own."""

from __future__ import annotations

import pytest

from data_prep.glue_check import FILES
from mtrobust.errors import UserError
from mtrobust.evaluation.predict import SUBMISSIONS
from tests.data_prep.helpers import prep


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A whole submission of the official sizes."""
    folder = tmp_path_factory.mktemp("submission")
    for name, official in FILES.items():
        cell = official.labels[0] if official.labels else "3.142"
        lines = ["index\tprediction", *(f"{i}\t{cell}" for i in range(official.rows))]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def faults_of(folder, *more):
    with pytest.raises(UserError) as caught:
        prep("glue_check", folder, *more)
    return caught.value.faults


def test_a_sound_submission(sound, capsys):
    assert prep("glue_check", sound) == 0
    out = capsys.readouterr().out
    assert len(out.strip().split("\n")) == 11 and "QQP.tsv       390965 predictions, no faults" in out


def test_names_sizes_and_labels_are_those_that_predict_writes():
    ours = {item.file: (item.rows, item.names, item.numbered) for item in SUBMISSIONS}
    assert set(ours) == set(FILES)
    for name, official in FILES.items():
        rows, names, numbered = ours[name]
        assert rows == official.rows
        wanted = tuple(map(str, range(len(names)))) if numbered else names
        assert (None if official.labels is None else set(official.labels)) == (None if wanted is None else set(wanted))


def lines_of(name):
    official = FILES[name]
    cell = official.labels[0] if official.labels else "0.0"
    return ["index\tprediction", *(f"{i}\t{cell}" for i in range(official.rows))]


@pytest.mark.parametrize(
    ("name", "line", "text", "fault"),
    [
        ("WNLI.tsv", 0, "id\tlabel", "1: the header is 'id"),
        ("WNLI.tsv", 0, "\ufeffindex\tprediction", "1: begins with a byte-order mark"),
        ("WNLI.tsv", 0, "index\tprediction\r", "1: lines end in a carriage return"),
        ("WNLI.tsv", 5, "9\t0", "6: index: '9'; needed: 4"),
        ("WNLI.tsv", 5, "4\tentailment", "6: prediction: 'entailment' (allowed: 0, 1)"),
        ("RTE.tsv", 5, "4\t1", "6: prediction: '1' (allowed: entailment, not_entailment)"),
        ("AX.tsv", 5, "4\tNeutral", "6: prediction: 'Neutral'"),
        ("WNLI.tsv", 5, "4 0", "6: 1 columns; needed: 2"),
        ("WNLI.tsv", 5, "4\t0\t", "6: 3 columns; needed: 2"),
        ("WNLI.tsv", 5, "", "6: 1 columns"),
        ("STS-B.tsv", 5, "4\t5.1", "6: prediction: '5.1' (allowed: a number from 0 to 5)"),
        ("STS-B.tsv", 5, "4\tnan", "6: prediction: 'nan'"),
        ("STS-B.tsv", 5, "4\t", "6: prediction: ''"),
    ],
)
def test_one_fault_is_one_line(tmp_path, name, line, text, fault):
    lines = lines_of(name)
    lines[line] = text
    (tmp_path / name).write_bytes(("\n".join(lines) + "\n").encode())
    (found,) = faults_of(tmp_path, "--partial")
    assert f"{name}:{fault}" in found


def test_row_counts_and_many_faults(tmp_path):
    (tmp_path / "WNLI.tsv").write_text("\n".join(lines_of("WNLI.tsv")[:-1]) + "\n", encoding="utf-8")
    (found,) = faults_of(tmp_path, "--partial")
    assert "WNLI.tsv:146: 145 predictions; the official test set has 146" in found
    shifted = ["index\tprediction", *(f"{i + 1}\t0" for i in range(145))]
    (tmp_path / "WNLI.tsv").write_text("\n".join(shifted) + "\n", encoding="utf-8")
    found = faults_of(tmp_path, "--partial")
    assert len(found) == 7 and "145 predictions" in found[5] and found[6].endswith("140 further faults")


def test_names_of_files(tmp_path):
    (tmp_path / "WNLI.tsv").write_text("\n".join(lines_of("WNLI.tsv")) + "\n", encoding="utf-8")
    (tmp_path / "sst2.tsv").write_text("", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")
    found = faults_of(tmp_path)
    assert any("sst2.tsv: no file of a submission (did you mean SST-2.tsv?)" in fault for fault in found)
    assert any("notes.txt: no file of a submission; they are CoLA.tsv" in fault for fault in found)
    assert any("missing: CoLA.tsv, SST-2.tsv, MRPC.tsv" in fault for fault in found)
    assert len(found) == 3
    (tmp_path / "empty").mkdir()
    assert "no file of a submission in it" in "\n".join(faults_of(tmp_path / "empty", "--partial"))
    with pytest.raises(UserError, match="is not a folder"):
        prep("glue_check", tmp_path / "gone")


def test_from_the_command_line(tmp_path, capsys):
    from mtrobust.cli import main

    (tmp_path / "WNLI.tsv").write_text("index\tprediction\n0\t7\n", encoding="utf-8")
    assert main(["prep", "glue_check", str(tmp_path), "--partial"]) == 2
    error = capsys.readouterr().err
    assert "WNLI.tsv:2: prediction: '7'" in error and "WNLI.tsv:2: 1 predictions" in error
