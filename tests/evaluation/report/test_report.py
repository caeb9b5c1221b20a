"""From groups of runs to rows: figures, differences, what may be compared, what is missing, what is chosen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mtrobust.evaluation.report.choose import add_published, choose_best, find_sweep
from mtrobust.evaluation.report.groups import group_runs
from mtrobust.evaluation.report.inputs import parse_seeds, read_expected, read_published
from mtrobust.evaluation.report.missing import Expected, find_missing, whole_numbers
from mtrobust.evaluation.report.runs import read_runs
from mtrobust.evaluation.report.table import AVERAGE, Report, Settings, make_report
from tests.evaluation.report.fake import (
    classified,
    faults,
    groups_of,
    method,
    write_lines,
    write_predictions,
    write_run,
)


def report_of(folder: Path, **settings) -> Report:
    return make_report(groups_of(folder), Settings(**settings))


def row_of(report: Report, label: str):
    return next(row for row in report.rows if row.label == label and not row.published)


def two_methods(folder: Path, rows: int = 400) -> dict[str, list[float]]:
    """`standard` and `rapt` with three seeds each on the same examples; accuracies by method."""
    generator, found = np.random.default_rng(5), {"standard": [], "rapt": []}
    hard = generator.random(rows)
    for name, bonus in (("standard", 0.75), ("rapt", 0.85)):
        for seed in (1, 2, 3):
            run = write_run(
                folder / f"{name}-{seed}", method(name), seed, {}, speed=20.0 if name == "standard" else 10.0
            )
            right = (hard + generator.normal(0, 0.02, rows) < bonus).tolist()
            acc = classified(run, right, rows // 2)
            write_run(run, method(name), seed, {"mr": {"acc": acc}}, speed=20.0 if name == "standard" else 10.0)
            found[name].append(acc)
    return found


# --- figures and differences --------------------------------------------------------------------------------------


def test_mean_deviation_difference_and_time_by_hand(tmp_path: Path):
    figures = two_methods(tmp_path)
    row = row_of(report_of(tmp_path), "rapt")
    cell = row.cells["mr/acc"]
    assert cell.mean == pytest.approx(np.mean(figures["rapt"]))
    assert cell.std == pytest.approx(np.std(figures["rapt"], ddof=1))
    assert cell.difference is not None and cell.difference.seeds == (1, 2, 3)
    assert cell.difference.mean == pytest.approx(np.mean(np.subtract(figures["rapt"], figures["standard"])))
    assert row.times == (2.0, 2.0, 2.0) and row.time == 2.0 and row.seconds == pytest.approx(0.1)


def test_the_interval_is_that_of_a_bootstrap_written_out(tmp_path: Path):
    """The examples' part against a plain loop over resampled examples with its own generator."""
    two_methods(tmp_path)
    cell = row_of(report_of(tmp_path), "rapt").cells["mr/acc"]
    right = {}
    for name in ("standard", "rapt"):
        for seed in (1, 2, 3):
            lines = (
                (tmp_path / f"{name}-{seed}/predictions/mr.dev.jsonl").read_text(encoding="utf-8").strip().split("\n")
            )
            right[name, seed] = np.array([(r := json.loads(x))["prediction"] == r["label"] for x in lines], dtype=float)
    difference = 100 * np.mean([right["rapt", s] - right["standard", s] for s in (1, 2, 3)], axis=0)
    generator = np.random.default_rng(0)
    drawn = [difference[generator.integers(400, size=400)].mean() for _ in range(3000)]
    assert cell.difference is not None and cell.difference.of_examples is not None
    assert cell.difference.of_examples[:2] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.25)
    assert cell.difference.interval.of == "seeds and examples" and cell.difference.clear


def test_seeds_alone_where_examples_differ_or_do_not_give_the_figure(tmp_path: Path):
    two_methods(tmp_path)
    path = tmp_path / "rapt-2/predictions/mr.dev.jsonl"
    lines = path.read_text(encoding="utf-8").strip().split("\n")
    path.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    cell = row_of(report_of(tmp_path), "rapt").cells["mr/acc"]
    assert cell.difference is not None and cell.difference.interval.of == "seeds"


def test_only_common_seeds_are_paired(tmp_path: Path):
    for seed, acc in ((1, 80.0), (2, 82.0)):
        write_run(tmp_path / f"s-{seed}", [], seed, {"mr": {"acc": acc}})
    for seed, acc in ((2, 85.0), (3, 90.0)):
        write_run(tmp_path / f"r-{seed}", method("rapt"), seed, {"mr": {"acc": acc}})
    write_run(tmp_path / "v-9", method("smart"), 9, {"mr": {"acc": 70.0}})
    report = report_of(tmp_path)
    cell = row_of(report, "rapt").cells["mr/acc"]
    assert cell.mean == 87.5 and cell.difference is not None
    assert cell.difference.seeds == (2,) and cell.difference.mean == 3.0 and cell.difference.interval.of == "none"
    assert row_of(report, "smart").cells["mr/acc"].why == "no common seed"


def test_the_baseline_of_a_condition_has_the_same_condition(tmp_path: Path):
    for fraction, accuracies in ((0.1, (60.0, 61.0)), (1.0, (80.0, 84.0))):
        for name, acc in zip(("standard", "rapt"), accuracies, strict=True):
            write_run(tmp_path / f"{name}-{fraction}", method(name), 1, {"mr": {"acc": acc}}, data_fraction=fraction)
    report = report_of(tmp_path)
    found = {row.label: (row.baseline, row.cells["mr/acc"].difference) for row in report.rows}
    for fraction, gain in (("0.1", 1.0), ("1", 4.0)):
        base, difference = found[f"rapt data_fraction={fraction}"]
        assert base == f"standard data_fraction={fraction}" and difference is not None and difference.mean == gain


def test_average_of_columns_by_seed(tmp_path: Path):
    for seed, (acc, f1) in enumerate([(80.0, 60.0), (82.0, 64.0)], start=1):
        write_run(tmp_path / f"s-{seed}", [], seed, {"mr": {"acc": acc, "f1": f1}})
        write_run(tmp_path / f"r-{seed}", method("rapt"), seed, {"mr": {"acc": acc + 1, "f1": f1 + 2}})
    write_run(tmp_path / "s-3", [], 3, {"mr": {"acc": 90.0}})
    report = report_of(tmp_path, average=["*"])
    cell = row_of(report, "standard").cells[AVERAGE]
    assert dict(cell.values) == {1: 70.0, 2: 73.0}  # seed 3 lacks a column
    difference = row_of(report, "rapt").cells[AVERAGE].difference
    assert difference is not None and difference.mean == 1.5
    assert report.columns == ["mr/acc", "mr/f1", AVERAGE]
    assert faults(make_report, groups_of(tmp_path), Settings(average=["mr/mcc"]))[0].startswith(
        "--average: mr/mcc: no such"
    )


def test_average_uses_the_same_draw_of_examples_in_all_columns(tmp_path: Path):
    """Twice the same column: the interval of the average is that of the column."""
    two_methods(tmp_path)
    for run in tmp_path.glob("*-*"):
        results = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
        results["mr"]["f1_micro"] = results["mr"]["acc"]
        (run / "all_results.json").write_text(json.dumps(results), encoding="utf-8")
    cells = row_of(report_of(tmp_path, average=["*"]), "rapt").cells
    one, both = cells["mr/acc"].difference, cells[AVERAGE].difference
    assert one is not None and both is not None
    assert both.interval[:2] == pytest.approx(one.interval[:2]) and both.interval.of == "seeds and examples"


# --- what may be compared ----------------------------------------------------------------------------------------


def at_accuracy(folder: Path, share: float, rows: int = 200) -> Report:
    for name in ("standard", "rapt"):
        run = folder / f"{name}-1"
        write_run(run, method(name), 1)
        acc = classified(run, [i < share * rows for i in range(rows)], rows // 2)
        write_run(run, method(name), 1, {"mr": {"acc": acc, "hans": {"x": {"acc": 30.0}}}})
    return report_of(folder)


def test_nothing_is_compared_where_the_baseline_is_within_the_majority_s_interval(tmp_path: Path):
    # majority 50.0 of 200; the bootstrap's upper end is 57.0
    report = at_accuracy(tmp_path / "low", 0.57)
    cell = row_of(report, "rapt").cells["mr/acc"]
    assert cell.difference is None and cell.why == "not compared"
    verdict = report.verdicts["standard", "mr/acc"]
    assert verdict.level is not None and verdict.level[:2] == (50.0, pytest.approx(57.0)) and not verdict.compared
    assert row_of(report, "rapt").cells["mr/hans/x/acc"].why == "not compared"  # no labels of its own: the task's
    above = at_accuracy(tmp_path / "high", 0.58)
    assert row_of(above, "rapt").cells["mr/acc"].difference is not None
    assert above.verdicts["standard", "mr/hans/x/acc"].source == "mr/acc"


def test_a_set_is_judged_by_itself_or_by_its_task(tmp_path: Path):
    for name in ("standard", "rapt"):
        run = write_run(tmp_path / f"{name}-1", method(name), 1)
        acc = classified(run, [i < 180 for i in range(200)], 100)
        shifted = classified(run, [i < 104 for i in range(200)], 100, "mr.hans")
        write_run(run, method(name), 1, {"mr": {"acc": acc, "hans": {"acc": shifted}}})
    assert row_of(report_of(tmp_path), "rapt").cells["mr/hans/acc"].why == "not compared"
    of_task = row_of(report_of(tmp_path, gate="task"), "rapt").cells["mr/hans/acc"]
    assert of_task.difference is not None and of_task.difference.interval.of == "examples"


def test_an_untrained_run_is_a_level_for_questions(tmp_path: Path):
    answers = {"text": ["the cat"], "answer_start": [0]}
    rows = [{"id": str(i), "question": "Who?", "context": "the cat sat", "answers": answers} for i in range(100)]
    write_lines(tmp_path / "data/qa/dev.jsonl", rows)

    def run(name: str, spec: list, right: int) -> Path:
        path = write_run(tmp_path / name, spec, 1, train_tasks=["qa"])
        records = [{"id": str(i), "prediction": "Cat" if i < right else "dog"} for i in range(100)]
        write_lines(path / "predictions/qa.dev.jsonl", records)
        return write_run(path, spec, 1, {"qa": {"em": float(right), "f1": float(right)}}, train_tasks=["qa"])

    low = run("untrained", [], 10)
    (untrained,) = read_runs([low])
    groups = group_runs(read_runs([run("s", [], 17), run("r", method("rapt"), 40)]))
    report = make_report(groups, Settings(untrained=untrained))
    level = report.verdicts["standard", "qa/em"].level
    assert level is not None and level.figure == 10.0 and level.upper == pytest.approx(16.0, abs=0.6)
    difference = row_of(report, "rapt").cells["qa/em"].difference
    assert difference is not None and difference.interval.of == "examples" and difference.mean == 23.0
    (low / "predictions/qa.dev.jsonl").unlink()
    again = make_report(groups, Settings(untrained=untrained)).verdicts["standard", "qa/em"]
    assert again.level is not None and again.level.upper == 13.0 and again.compared


def test_labels_of_the_rows_stand_in_for_predictions(tmp_path: Path):
    rows = [{"text": f"text {i}", "label": ["positive", "negative"][i < 3]} for i in range(10)]
    write_lines(tmp_path / "data/mr/dev.jsonl", rows)
    write_run(tmp_path / "s", [], 1, {"mr": {"acc": 60.0, "f1": 60.0}})
    report = report_of(tmp_path)
    acc, f1 = (report.verdicts["standard", f"mr/{metric}"].level for metric in ("acc", "f1"))
    assert acc is not None and acc.figure == 70.0 and f1 is not None and f1.figure == pytest.approx(140 / 1.7)
    (tmp_path / "other").mkdir()
    assert report_of(tmp_path, data_dir=tmp_path / "other").verdicts["standard", "mr/acc"].level is None


def test_attacks_have_intervals_of_their_own_lines_and_unfinished_ones_are_named(tmp_path: Path):
    """The four figures by hand; the difference of query numbers holds its examples' noise."""
    generator = np.random.default_rng(2)
    for name, strength in (("standard", 0.8), ("rapt", 0.5)):
        run = write_run(tmp_path / f"{name}-1", method(name), 1, {"mr": {"acc": 90.0}})
        hit, right = generator.random(200) < strength, generator.random(200) < 0.9
        lines = [
            {"id": str(i), "success": bool(hit[i]) if right[i] else None, "queries": int(generator.integers(5, 90)),
             "words": 20, "changes": [{}] * int(generator.integers(1, 8))} for i in range(200)
        ]  # fmt: skip
        write_lines(run / "attack/mr.dev.jsonl", lines)
        done = [line for line in lines if line["success"]]
        figures = {
            "complete": True, "original_accuracy": 100 * right.mean(), "attack_accuracy": 100 * (right & ~hit).mean(),
            "query_number": np.mean([line["queries"] for line in lines if line["success"] is not None]),
            "perturbed_percentage": np.mean([100 * len(line["changes"]) / 20 for line in done]),
        }  # fmt: skip
        (run / "attack/mr.dev.json").write_text(json.dumps(figures), encoding="utf-8")
    (run / "attack/mr.test.json").write_text('{"complete": false, "settings": {}}', encoding="utf-8")
    groups = groups_of(tmp_path)
    report = make_report(groups, Settings())
    cells = row_of(report, "rapt").cells
    assert len(cells) == 5
    for column in report.columns[1:]:
        difference = cells[column].difference
        assert difference is not None and difference.interval.of == "examples", column
    assert cells["mr/attack/dev/attack_accuracy"].difference.clear
    assert find_missing(groups, None, report.columns) == [f"rapt, seed 1: attack/mr.test.json not finished ({run})"]


def test_correlations_have_their_level(tmp_path: Path):
    run = write_run(tmp_path / "s", [], 1)
    labels = [float(i) for i in range(100)]
    write_predictions(run, "mr.dev", labels, labels[::-1])
    write_run(run, [], 1, {"mr": {"pearson": -100.0}})
    write_run(tmp_path / "r", method("rapt"), 1, {"mr": {"pearson": 50.0}})
    verdict = report_of(tmp_path).verdicts["standard", "mr/pearson"]
    assert verdict.level is not None and verdict.level.upper == pytest.approx(19.6) and not verdict.compared


# --- what is missing ---------------------------------------------------------------------------------------------


def test_gaps_are_named(tmp_path: Path):
    full = {"mr": {"acc": 80.0, "hans": {"acc": 50.0}}}
    for seed in (1, 2, 3):
        write_run(tmp_path / f"s-{seed}", [], seed, full)
    write_run(tmp_path / "r-1", method("rapt"), 1, {"mr": {"acc": 80.0}})
    write_run(tmp_path / "r-2", method("rapt"), 2, {"mr": {"acc": None, "hans": {"acc": 1.0}}})
    half = write_run(tmp_path / "v-1", method("smart"), 1)
    hint = f"goes on with `mtrobust train {half / 'config.yml'} --resume`"
    (half / "checkpoints/step-50").mkdir(parents=True)
    (half / "checkpoints/step-50/COMPLETE").touch()
    write_run(tmp_path / "q-1", [], 1, {"qa": {"em": 1.0}}, train_tasks=["qa"])
    groups = groups_of(tmp_path)
    columns = make_report(groups, Settings()).columns
    assert find_missing(groups, None, columns) == [
        f"smart, seed 1: not finished ({half}: at step-50; {hint})",
        "rapt: no run on mr with seed 3, which others have",
        "smart: no run on mr with seeds 2-3, which others have",
        "no run on qa of rapt, smart",
        "rapt, seed 1: lacks mr/hans/acc",
        "rapt, seed 2: has undefined values (null) of mr/acc",
    ]
    planned = find_missing(
        groups, Expected(["standard", "vat", "rapt"], [1, 2, 3, 4], ["mr/acc", "mr/imdb/*"], []), columns
    )
    assert planned[1:5] == [
        "standard: no run with seed 4 (expected)",
        "vat: no run (expected: seeds 1-4)",
        "rapt: no run with seeds 3-4 (expected)",
        "mr/imdb/*: no run has such a column (expected)",
    ]


def test_planned_folders_without_a_run_are_named(tmp_path: Path):
    write_run(tmp_path / "a-1", [], 1, {"mr": {"acc": 1.0}})
    half = write_run(tmp_path / "b-1", method("rapt"), 1)
    write_run(tmp_path / "other/c-1", [], 1, {"mr": {"acc": 1.0}})
    (tmp_path / "grid.yml").write_text("runs: [a-1, b-1, b-2, other/c-1]\n", encoding="utf-8")
    expected = read_expected(tmp_path / "grid.yml")
    groups = group_runs(read_runs([tmp_path / "a-1", half]))
    assert find_missing(groups, expected, ["mr/acc"]) == [
        f"rapt, seed 1: not finished ({half}: no checkpoint)",
        f"{tmp_path / 'b-2'}: no run, or it failed before its first step (expected)",
    ]


def test_whole_numbers():
    assert whole_numbers([5, 1, 2, 3, 9, 8]) == "1-3, 5, 8-9"


# --- inputs ------------------------------------------------------------------------------------------------------


def test_seeds_as_people_write_them():
    assert parse_seeds("1-3, 7") == parse_seeds([1, 2, 3, 7]) == [1, 2, 3, 7]
    assert parse_seeds(4) == [4]
    assert [parse_seeds(x) for x in (True, "a", None, [1.5], [], "3-1")] == [None] * 6


def test_the_expected_grid_and_its_faults(tmp_path: Path):
    path = tmp_path / "grid.yml"
    path.write_text("methods: [standard, rapt]\nseeds: 1-2\n", encoding="utf-8")
    assert read_expected(path) == Expected(["standard", "rapt"], [1, 2], [], [])
    path.write_text("method: [x]\nseeds: many\ncolumns: 3\n", encoding="utf-8")
    assert [line.split(": ")[1] for line in faults(read_expected, path)] == ["method", "columns", "seeds", "methods"]


def test_published_figures_stand_beside_ours_and_idle_ones_are_named(tmp_path: Path):
    write_run(tmp_path / "s", [], 1, {"mr": {"acc": 80.0}})
    write_run(tmp_path / "r", method("rapt"), 1, {"mr": {"acc": 81.0}})
    path = tmp_path / "paper.yml"
    text = "source: Someone 2020, Table 1\nmr/acc: {standard: 85.1, rapt: 86, other: 87}\nsst2/acc: {rapt: 90}\n"
    path.write_text(text, encoding="utf-8")
    report = report_of(tmp_path)
    add_published(report, [read_published(path)])
    assert [(row.label, bool(row.published), row.cells["mr/acc"].mean) for row in report.rows] == [
        ("standard", False, 80.0), ("standard", True, 85.1), ("rapt", False, 81.0), ("rapt", True, 86.0),
        ("other", True, 87.0),
    ]  # fmt: skip
    assert report.notes == ["published figures without a column here (Someone 2020, Table 1): sst2/acc"]
    odd = f"{{a: high, b: .nan, c: -.inf, d: 1.0e+999, e: 1{400 * '0'}, fine: 85}}"
    path.write_text(f"mr/acc: {odd}\nmr/f1: 3\n", encoding="utf-8")
    told = [line.split(": ")[1:3] for line in faults(read_published, path)]
    assert [place for place, _ in told] == ["source", *["mr/acc"] * 5, "mr/f1"]
    assert [method for _, method in told[1:-1]] == [*"abcde"]


# --- choosing and sweeping ---------------------------------------------------------------------------------------


def grid(folder: Path) -> None:
    figures = {"1": (80.0, 82.0), "2": (84.0, 84.0), "3": (90.0,)}
    for layers, accuracies in figures.items():
        for seed, acc in enumerate(accuracies, start=1):
            write_run(
                folder / f"r{layers}-{seed}", method("rapt", layers=layers), seed, {"mr": {"acc": acc, "ppl": acc}}
            )
    for seed in (1, 2):
        write_run(folder / f"s-{seed}", [], seed, {"mr": {"acc": 79.0, "ppl": 1.0}})


def test_the_best_setting_by_dev_mean_among_those_with_all_seeds(tmp_path: Path):
    grid(tmp_path)
    choice = choose_best(groups_of(tmp_path), "mr/acc")
    assert [group.label for group in choice.groups] == ["rapt layers=2", "standard"]
    assert choice.marks == {"rapt layers=2": "chosen on dev, of 2"}
    assert choice.lines == [
        ("rapt layers=1", "81.0 ± 1.4 (n=2)", ""),
        ("rapt layers=2", "84.0 ± 0.0 (n=2)", "chosen"),
        ("rapt layers=3", "90.0 (n=1)", "not considered: fewer seeds"),
    ]
    assert choose_best(groups_of(tmp_path), "mr/ppl").groups[0].label == "rapt layers=1"  # less is better
    assert "must be a dev metric" in faults(choose_best, groups_of(tmp_path), "mr/test/acc")[0]


def test_a_condition_is_not_chosen(tmp_path: Path):
    for fraction in (0.1, 1.0):
        write_run(
            tmp_path / f"r{fraction}", method("rapt"), 1, {"mr": {"acc": 80.0 + fraction}}, data_fraction=fraction
        )
    assert len(choose_best(groups_of(tmp_path), "mr/acc").groups) == 2


def test_a_sweep_orders_its_values_and_keeps_the_baseline_apart(tmp_path: Path):
    for seed, layers in enumerate(("10", "2", "embeddings", "words")):
        write_run(tmp_path / f"r{layers}", method("rapt", layers=layers), seed, {"mr": {"acc": 80.0}})
    write_run(tmp_path / "s", [], 1, {"mr": {"acc": 79.0}})
    sweep = find_sweep(groups_of(tmp_path), "perturb.rapt.layers")
    assert sweep.values == ["words", "embeddings", "2", "10"] and sweep.flat == ["standard"]
    assert sweep.families == {"rapt": {x: f"rapt layers={x}" for x in sweep.values}}
    assert "has one value" in faults(find_sweep, groups_of(tmp_path), "learning_rate")[0]
    assert "did you mean 'perturb.rapt.layers'" in faults(find_sweep, groups_of(tmp_path), "perturb.rapt.layer")[0]
    mixed = groups_of(tmp_path, None, [("r*", "rapt")])
    assert "do not group these together" in faults(find_sweep, mixed, "perturb.rapt.layers")[0]


def test_numbers_are_swept_by_size(tmp_path: Path):
    for fraction in (1.0, 0.05, 0.5):
        write_run(tmp_path / f"r{fraction}", method("rapt"), 1, {"mr": {"acc": 80.0}}, data_fraction=fraction)
    assert find_sweep(groups_of(tmp_path), "data_fraction").values == ["0.05", "0.5", "1"]
