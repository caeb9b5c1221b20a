"""`mtrobust analyze` as a user has it: files, TensorBoard, bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from mtrobust.analysis import ANALYSES

TEXT = ["--text", "the doctor met a warm cat near the river."]
FLAGS: dict[str, list[str]] = {
    "neighbours": ["--word", "cat", "--words_rows", "6", *TEXT],
    "drift": ["--rows", "2"],
    "heatmap": ["--draws", "2", *TEXT],
    "frequency": ["--rows", "2", "--draws", "1"],
    "space": [*TEXT],
    "layers": ["--rows", "2", "--sizes", "1,2"],
    "smoothness": ["--rows", "3", "--steps", "1"],
}
TAGS = {
    "drift": {"analysis/drift/swep/product", "analysis/drift/swep/distance"},
    "layers": {f"analysis/layers/mood/eta={size}/{name}" for size in (1, 2) for name in ("divergence", "changed")},
    "smoothness": {f"analysis/smoothness/mood/{run}/{name}" for run in ("swep", "mu")
                   for name in ("jacobian", "lipschitz")},
}  # fmt: skip


@pytest.mark.cli
@pytest.mark.parametrize("name", list(ANALYSES))
def test_every_analysis_writes_its_files(name: str, mtrobust, runs: Path, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "out"
    ended = mtrobust("analyze", name, runs / "swep", runs / "mu", "--task", "mood", *FLAGS[name], "--out", out)
    assert ended.code == 0, ended.err
    stem = f"{name}-mood"
    wanted = [f"{stem}.{ending}" for ending in ("csv", "json", "png", "svg")] + ["tensorboard"]
    wanted += [f"{stem}.html"] if name == "heatmap" else []
    assert sorted(path.name for path in out.iterdir()) == sorted(wanted)
    with open(out / f"{stem}.csv", encoding="utf-8", newline="") as file:
        assert {line["run"] for line in csv.DictReader(file) if "run" in line} in ({"swep", "mu"}, set())
    data = json.loads((out / f"{stem}.json").read_text(encoding="utf-8"))
    assert data["analysis"] == name and data["caption"]
    png = (out / f"{stem}.png").read_bytes()
    assert png.startswith(b"\x89PNG") and int.from_bytes(png[16:20], "big") == 1000  # 8 inches
    board = EventAccumulator(str(out / "tensorboard" / stem), size_guidance={"images": 0})
    board.Reload()
    assert f"analysis/{stem}" in board.Tags()["images"]
    assert board.Images(f"analysis/{stem}")[0].encoded_image_string == png
    assert TAGS.get(name, set()) <= set(board.Tags()["scalars"])
    if name == "space":
        config = (out / "tensorboard" / stem / "projector_config.pbtxt").read_text(encoding="utf-8")
        assert config.count("analysis/space/swep/") == 2


def test_the_curve_of_drift_is_read_back(mtrobust, runs: Path, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert mtrobust("analyze", "drift", runs / "swep", "--task", "mood", "--rows", 2, "--out", tmp_path).code == 0
    board = EventAccumulator(str(tmp_path / "tensorboard" / "drift-mood"))
    board.Reload()
    points = json.loads((tmp_path / "drift-mood.json").read_text(encoding="utf-8"))["points"]
    events = board.Scalars("analysis/drift/swep/distance")
    assert [event.step for event in events] == [2, 4]
    assert [event.value for event in events] == pytest.approx([point["distance"] for point in points])


def test_all_tasks_without_a_name(mtrobust, runs: Path, tmp_path: Path):
    ended = mtrobust("analyze", "layers", runs / "standard", "--rows", 1, "--sizes", 1, "--out", tmp_path)
    assert ended.code == 0, ended.err
    assert (tmp_path / "layers-mood.csv").is_file() and (tmp_path / "layers-squad.csv").is_file()


def test_without_matplotlib_the_data_are_written(mtrobust, runs: Path, tmp_path: Path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ended = mtrobust("analyze", "heatmap", runs / "swep", "--task", "mood", *FLAGS["heatmap"], "--out", tmp_path)
    assert ended.code == 0, ended.err
    assert ended.out.endswith("no pictures: matplotlib is not installed (pip install 'mtrobust[plot]')\n")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".html", ".json"]


BAD = {
    "unknown analysis": (["drifts", "RUN/swep"], "drifts: unknown analysis; did you mean 'drift'?"),
    "no run": (["drift", "RUN/none", "--task", "mood"], "none: no such run folder"),
    "task": (["drift", "RUN/swep", "--task", "moods"], "--task: moods: no such task; did you mean 'mood'?"),
    "several tasks": (["drift", "RUN/swep"], "--task: needed: the runs have several (mood, squad)"),
    "no checkpoint": (["drift", "RUN/rapt", "--task", "mood"], "no complete checkpoint to look at; train with"),
    "option": (["drift", "RUN/swep", "--task", "mood", "--rows", "0"], "--rows: 0: must be an integer >= 1"),
    "flag": (["drift", "RUN/swep", "--task", "mood", "--row", "1"], "--row: unknown flag; did you mean '--rows'?"),
    "word": (["neighbours", "RUN/rapt", "--task", "mood", "--word", "bridge", *TEXT], "--word: bridge: not in the"),
    "long": (["heatmap", "RUN/rapt", "--task", "mood", "--text", "cat " * 90], "--text: 92 tokens; task mood of"),
    "layer": (["space", "RUN/rapt", "--task", "mood", "--layer", "9", *TEXT], "--layer: 9: the encoder has 3 layers"),
    "layers": (["space", "RUN/rapt", "--task", "mood", "--layer", "1-2", *TEXT], "layer: 1-2: names several places"),
    "row": (["heatmap", "RUN/rapt", "--task", "mood", "--row", "x"], "--row: x: no such id in the dev split of mood"),
    "passage": (["heatmap", "RUN/rapt", "--task", "squad", "--text", "Who?"], "--text_pair: task squad: "),
    "pair alone": (["heatmap", "RUN/rapt", "--task", "mood", "--text_pair", "x"], "text_pair: without effect without"),
    "split": (["layers", "RUN/rapt", "--task", "mood", "--split", "tests"], "no file of split 'tests'"),
    "data": (["layers", "RUN/rapt", "--data_dir", "nowhere"], "--data_dir: nowhere: no such folder"),
    "method": (["layers", "RUN/rapt", "--method", "rap"], "--method: rap: unknown; did you mean 'rapt'?"),
    "vary": (["layers", "RUN/rapt", "--vary", "etas"], "--vary: etas: no option of rapt; did you mean 'eta'?"),
    "sizes": (["layers", "RUN/rapt", "--sizes", "1,-2"], "--sizes: -2.0: must be a number >= 0"),
    "no edit": (["layers", "RUN/rapt", "--method", "standard"], "--method: standard: edits no states"),
    "twice": (["layers", "RUN/rapt", "RUN/rapt"], "RUN: the same run is named twice"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_line(case: str, mtrobust, runs: Path, tmp_path: Path):
    words, message = BAD[case]
    words = [word.replace("RUN", str(runs)) for word in words]
    ended = mtrobust("analyze", *words, "--out", tmp_path / "out")
    assert ended.code == 2 and message in ended.err, ended.err
    assert all(line.startswith("error: ") for line in ended.err.splitlines())
    assert not list((tmp_path / "out").glob("*"))


def test_all_faults_at_once(mtrobust, runs: Path, tmp_path: Path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    ended = mtrobust("analyze", "drift", runs / "rapt", runs / "none", "--task", "mood", "--rows", "x",
                     "--out", tmp_path / "file")  # fmt: skip
    assert ended.code == 2
    for part in ("--rows: x: must be", "none: no such run folder", "--out: ", "is a file; name a folder"):
        assert part in ended.err


def test_an_unwritable_folder_is_said_before_the_work(mtrobust, runs: Path):
    ended = mtrobust("analyze", "drift", runs / "swep", "--task", "mood", "--out", "/proc/here")
    assert ended.code == 2 and "--out: /proc/here: cannot be written" in ended.err


def test_help_lists_the_analyses(mtrobust):
    ended = mtrobust("analyze", "--help")
    assert ended.code == 0 and all(f"  {name} " in ended.out for name in ANALYSES)
    one = mtrobust("analyze", "layers", "--help")
    assert one.code == 0 and "--sizes" in one.out


def test_every_analysis_and_option_is_documented():
    text = (Path(__file__).resolve().parents[2] / "docs" / "analysis.md").read_text(encoding="utf-8")
    for name, kind in ANALYSES.items():
        assert f"\n## {name}\n" in text and kind.summary
        assert [option for option in kind.Options.model_fields if f"`--{option}`" not in text] == []
