"""`mtrobust report` as a user runs it, on run folders of given figures."""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.evaluation.report.fake import classified, method, write_run

FILES = {f"report.{suffix}" for suffix in ("md", "csv", "tex", "json", "html")}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three seeds of two methods, and a run that has not finished."""
    folder = tmp_path / "runs"
    for seed in (1, 2, 3):
        for name, right in (("standard", 150 + seed), ("rapt", 160 + seed)):
            run = write_run(folder / f"{name}-{seed}", method(name), seed)
            acc = classified(run, [i % 200 < right for i in range(200)], 100)
            write_run(run, method(name), seed, {"mr": {"acc": acc}})
    write_run(folder / "vat-1", method("vat"), 1)
    return folder


def without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest, **named):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_tables_are_printed_and_written(runs: Path, tmp_path: Path, mtrobust: Callable, monkeypatch):
    without_matplotlib(monkeypatch)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("kept", encoding="utf-8")
    ended = mtrobust("report", runs, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "| standard | 76.0 ± 0.5 | 1-3   | 1.00 × |" in ended.out
    assert "**+5.0 [" in ended.out and "- vat, seed 1: not finished" in ended.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | {"mine.txt"}
    assert "no plots: matplotlib is not installed" in ended.err and "written:" in ended.err
    content = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    cell = content["rows"][1]["columns"]["mr/acc"]
    assert cell["difference"] == pytest.approx(5.0) and cell["interval_of"] == "seeds and examples"
    assert content["levels"][0]["kind"] == "majority class" and content["plots"] == []
    before = (tmp_path / "out/report.md").read_bytes()
    assert mtrobust("report", runs, "--out", tmp_path / "out").code == 0  # again: the same
    assert (tmp_path / "out/report.md").read_bytes() == before


def test_plots_are_written_beside_and_inside_the_page(runs: Path, tmp_path: Path, mtrobust: Callable):
    pytest.importorskip("matplotlib")
    ended = mtrobust("report", runs, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert {path.name for path in (tmp_path / "out/plots").iterdir()} == {"figures-mr.acc.png", "figures-mr.acc.svg"}
    assert "data:image/svg+xml;base64," in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "(plots/figures-mr.acc.png)" in (tmp_path / "out/report.md").read_text(encoding="utf-8")


def test_all_options_together(runs: Path, tmp_path: Path, mtrobust: Callable, monkeypatch):
    without_matplotlib(monkeypatch)
    for layers in ("1", "2"):
        run = write_run(runs / f"rapt{layers}", method("smart", layers=layers), 1, {"mr": {"acc": 70.0 + int(layers)}})
    (tmp_path / "paper.yml").write_text("source: A paper\nmr/acc: {standard: 90.0}\n", encoding="utf-8")
    (tmp_path / "grid.yml").write_text("methods: [smart, rapt]\nseeds: 1-2\n", encoding="utf-8")
    ended = mtrobust(
        "report", runs / "*-[0-9]", run, runs / "rapt1", "--out", tmp_path / "out", "--baseline", "standard",
        "--columns", "mr/*", "--average", "*", "--gate", "task", "--best_by", "mr/acc", "--sweep",
        "perturb.smart.layers", "--expect", tmp_path / "grid.yml", "--published", tmp_path / "paper.yml",
        "--data_dir", runs,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    for text in (
        "smart layers=2 (chosen on dev, of 2)", "standard (published)", "- Published: A paper.", "| average ",
        "## Settings tried, by mr/acc", "- smart: no run with seed 2 (expected)", "## mr/acc by smart.layers",
    ):  # fmt: skip
        assert text in ended.out, text


def test_labels_make_rows_and_an_untrained_run_is_no_row(runs: Path, tmp_path: Path, mtrobust: Callable, monkeypatch):
    without_matplotlib(monkeypatch)
    write_run(runs / "untrained", [], 1, {"mr": {"acc": 79.0}}, learning_rate=1e-12)
    ended = mtrobust(
        "report", runs, "--untrained", runs / "untrained", "--label", "rapt-*=Ours", "--out", tmp_path / "out"
    )
    assert ended.code == 0, ended.err
    assert "| Ours " in ended.out and "learning_rate" not in ended.out
    assert "learned nothing reaches: mr/acc (76.0; untrained run 79.0, upper end of its interval 82.0)." in ended.out


def test_without_the_baseline_the_figures_stand_alone(runs: Path, tmp_path: Path, mtrobust: Callable, monkeypatch):
    without_matplotlib(monkeypatch)
    ended = mtrobust("report", runs / "rapt-*", "--out", tmp_path / "out")
    assert ended.code == 0 and "Differences" not in ended.out
    assert "no finished run of `standard`: nothing to compare with" in ended.out


def test_faults_are_named_together_before_anything_is_written(runs: Path, tmp_path: Path, mtrobust: Callable):
    (tmp_path / "file").touch()
    ended = mtrobust(
        "report", runs, "nowhere", "--out", tmp_path / "file", "--data_dir", "none", "--expect", "none.yml",
        "--untrained", runs,
    )  # fmt: skip
    assert ended.code == 2 and ended.out == ""
    lines = ended.err.strip().split("\n")
    assert [line.split(": ")[1] for line in lines] == [
        "--out", "--data_dir", "nowhere", "--untrained", "none.yml",
    ]  # fmt: skip
    assert "is a file" in lines[0] and "holds 7 run folders; name one" in lines[3]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--baseline", "standart"], "--baseline: standart: no finished run; did you mean 'standard'?"),
        (["--columns", "mr/f1"], "--columns: mr/f1: no such column"),
        (["--best_by", "mr/hans/acc"], "--best_by: mr/hans/acc: must be a dev metric"),
        (["--sweep", "learning_rate"], "--sweep: learning_rate: has one value in all runs: 0.0001"),
        (["--group_by", "size"], "--group_by: size: no run has this setting"),
        (["--label", "rapt"], "--label: 'rapt': PATTERN=NAME"),
        (["--label", "*=one"], "both are one with seed 1"),
    ],
)
def test_bad_choices(runs: Path, tmp_path: Path, mtrobust: Callable, flags: list[str], message: str):
    ended = mtrobust("report", runs, "--out", tmp_path / "out", *flags)
    assert ended.code == 2 and message in ended.err and not (tmp_path / "out").exists()


def test_nothing_finished_is_a_fault_that_says_how_to_go_on(tmp_path: Path, mtrobust: Callable):
    write_run(tmp_path / "runs/a-1", method("rapt"), 1)
    ended = mtrobust("report", tmp_path / "runs", "--out", tmp_path / "out")
    assert ended.code == 2 and "no checkpoint" in ended.err and "no finished run: nothing to report" in ended.err


def test_a_run_folder_is_no_place_for_a_report(runs: Path, mtrobust: Callable):
    ended = mtrobust("report", runs, "--out", runs / "rapt-1")
    assert ended.code == 2 and "is a run folder" in ended.err


def test_runs_of_the_trainer_can_be_read(world: Path, tiny_model_dir, mtrobust: Callable, monkeypatch):
    """All task types: the figures of the run, and predictions from which each can be computed again."""
    from mtrobust.evaluation.report.examples import read_examples, usable
    from mtrobust.evaluation.report.runs import read_runs

    without_matplotlib(monkeypatch)
    for name in ("standard", "rapt"):
        ended = mtrobust(
            "train", "--task_def", "defs.yml", "--data_dir", "data", "--model_name_or_path", tiny_model_dir("bert"),
            "--output_dir", name, "--perturb", name, "--max_steps", 2, "--use_cpu", "--progress", "off",
        )  # fmt: skip
        assert ended.code == 0, ended.err
    ended = mtrobust("report", "standard", "rapt", "--out", "out")
    assert ended.code == 0, ended.err
    recorded = json.loads(Path("rapt/all_results.json").read_text(encoding="utf-8"))["mood"]["acc"]
    assert "mood/acc" in ended.out and f" {recorded:.1f} " in ended.out and "| rapt " in ended.out
    (run,) = read_runs([Path("rapt")])
    assert set(run.figures) >= {"pairs/acc", "pairs/f1", "mood/acc", "score/pearson", "qa/em", "qa/f1"}
    for column, value in run.figures.items():
        if value is not None:
            assert usable(read_examples(run, column), column, value) is not None, column


@pytest.mark.slow
def test_real_rows_and_a_real_encoder(
    real_data: Path, real_model: Path, tmp_path: Path, mtrobust: Callable, monkeypatch
):
    """The real encoder on a few real rows: two methods, two steps each, through preparation, training and report."""
    without_matplotlib(monkeypatch)
    assert mtrobust("prep", "glue", "--raw", real_data, "--tasks", "mrpc", "--out", tmp_path / "data").code == 0
    for name in ("standard", "word_dropout"):
        ended = mtrobust(
            "train", "--task_def", "glue", "--data_dir", tmp_path / "data", "--train_tasks", "mrpc", "--seed", 1,
            "--model_name_or_path", real_model, "--output_dir", tmp_path / f"runs/{name}-1", "--perturb", name,
            "--max_train_samples", 32, "--max_eval_samples", 48, "--max_seq_length", 48, "--max_steps", 2, "--use_cpu",
            "--progress", "off",
        )  # fmt: skip
        assert ended.code == 0, ended.err
    ended = mtrobust("report", tmp_path / "runs", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    content = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in content["rows"]] == ["standard", "word_dropout"]
    (level,) = [level for level in content["levels"] if level["column"] == "mrpc/acc"]
    lines = (tmp_path / "runs/standard-1/predictions/mrpc.dev.jsonl").read_text(encoding="utf-8").strip().split("\n")
    labels = [json.loads(line)["label"] for line in lines]
    assert level["figure"] == pytest.approx(100 * max(map(labels.count, set(labels))) / len(labels))
    assert not level["compared"] and "learned nothing reaches: mrpc/acc (" in ended.out  # two steps teach nothing


def test_the_guide_names_every_flag_and_its_files_can_be_read(tmp_path: Path):
    from mtrobust.commands.report import _parser
    from mtrobust.evaluation.report.inputs import read_expected, read_published

    text = (Path(__file__).resolve().parents[2] / "docs/report.md").read_text(encoding="utf-8")
    flags = [flag for action in _parser()._actions for flag in action.option_strings if flag.startswith("--")]
    assert [flag for flag in flags if flag not in text and flag != "--help"] == []
    grid, paper = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "grid.yml").write_text(grid, encoding="utf-8")
    (tmp_path / "paper.yml").write_text(paper, encoding="utf-8")
    assert read_expected(tmp_path / "grid.yml").seeds == [1, 2, 3]
    assert read_published(tmp_path / "paper.yml").figures == {"mrpc/acc": {"standard": 84.0, "rapt": 86.0}}
