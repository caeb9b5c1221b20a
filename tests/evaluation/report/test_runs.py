"""Reading run folders, and which of them are seeds of the same method."""

from __future__ import annotations

import json
from pathlib import Path

from mtrobust.evaluation.report.groups import group_runs, unequal_settings
from mtrobust.evaluation.report.runs import curves, find_runs, flatten, read_runs
from tests.evaluation.report.fake import faults, groups_of, method, write_lines, write_run

# --- reading -----------------------------------------------------------------------------------------------------


def test_figures_of_any_depth_are_columns_and_counts_are_not():
    found = flatten(
        {"acc": 1, "hans": {"acc": 2.5, "lexical": {"acc": None}}, "shift/acc": 3.0, "cmat_0_1": 7, "count": 9,
         "best_f1_thresh": 0.5, "name": "x", "flag": True}, "mnli",
    )  # fmt: skip
    assert found == {"mnli/acc": 1.0, "mnli/hans/acc": 2.5, "mnli/hans/lexical/acc": None, "mnli/shift/acc": 3.0}


def test_runs_are_found_below_folders_and_by_pattern_each_once(tmp_path: Path):
    for name in ("a-2", "a-10", "b-1"):
        write_run(tmp_path / "grid" / "mr" / name)
    (tmp_path / "grid" / "mr" / "b-1.log").write_text("x", encoding="utf-8")
    found = find_runs([str(tmp_path), str(tmp_path / "grid/mr/a-*"), str(tmp_path / "grid/mr/b-1")])
    assert [path.name for path in found] == ["a-2", "a-10", "b-1"]
    (tmp_path / "empty").mkdir()
    assert [line.rpartition(": ")[2][:12] for line in faults(find_runs, [str(tmp_path / "empty"), "no/such*"])] == [
        "neither a ru", "no such fold",
    ]  # fmt: skip


def test_attack_figures_are_columns(tmp_path: Path):
    run = write_run(tmp_path / "r", figures={"mr": {"acc": 80.0}})
    (run / "attack").mkdir()
    content = {"original_accuracy": 80.0, "attack_accuracy": 20.0, "query_number": 55.5, "seconds": 3.0, "seed": 1}
    (run / "attack/mr.test.json").write_text(json.dumps(content), encoding="utf-8")
    (found,) = read_runs([run])
    assert list(found.figures) == [
        "mr/acc", "mr/attack/test/original_accuracy", "mr/attack/test/attack_accuracy", "mr/attack/test/query_number",
    ]  # fmt: skip


def test_damaged_files_are_all_named(tmp_path: Path):
    write_run(tmp_path / "a", figures={"mr": {"acc": 1.0}})
    (tmp_path / "a/all_results.json").write_text("{", encoding="utf-8")
    write_run(tmp_path / "b", seed="one", perturb=[])  # type: ignore[arg-type]
    found = faults(read_runs, [tmp_path / "a", tmp_path / "b"])
    assert "all_results.json" in found[0] and "seed: one: must be a whole number" in found[1]


def test_curves_survive_a_cut_off_line_and_keep_the_later_of_two(tmp_path: Path):
    run = write_run(tmp_path / "r")
    lines = [
        {"step": 10, "train": {"mr": {"loss": 0.7}}}, {"step": 20, "train": {"mr": {"loss": 0.9}}},
        {"step": 20, "train": {"mr": {"loss": 0.6}}},
        {"step": 20, "eval": {"mr": {"acc": 70.0, "imdb": {"acc": 60.0}}}},
    ]  # fmt: skip
    path = write_lines(run / "metrics.jsonl", lines)
    path.write_text(path.read_text(encoding="utf-8") + '{"step": 30, "tra', encoding="utf-8")
    (read,) = read_runs([run])
    assert curves(read) == {"mr/loss": {10: 0.7, 20: 0.6}, "mr/acc": {20: 70.0}, "mr/imdb/acc": {20: 60.0}}


# --- groups ------------------------------------------------------------------------------------------------------


def test_names_hold_the_composition_and_what_varies_only(tmp_path: Path):
    for seed in (1, 2):
        write_run(tmp_path / f"s-{seed}", [], seed, output_dir=f"elsewhere-{seed}")
        write_run(tmp_path / f"r1-{seed}", method("rapt", layers="1", eta=2.0), seed)
        write_run(tmp_path / f"r2-{seed}", method("rapt", eta=2.0), seed)  # layers at the default
        write_run(tmp_path / f"c-{seed}", method("vda", mlm="m") + method("smart"), seed)
    labels = [group.label for group in groups_of(tmp_path)]
    assert labels[-2:] == ["standard", "vda+smart"] and labels[0] == "rapt layers=1"
    assert labels[1].startswith("rapt layers=") and len(labels) == 4


def test_an_option_written_out_and_the_same_default_are_one_group(tmp_path: Path):
    write_run(tmp_path / "a", method("smart", alpha=1.0), 1)
    write_run(tmp_path / "b", method("smart"), 2)
    assert [group.label for group in groups_of(tmp_path)] == ["smart"]


def test_runs_of_other_tasks_with_other_settings_are_the_same_method(tmp_path: Path):
    write_run(tmp_path / "a", method("rapt"), 1, learning_rate=1e-4)
    write_run(tmp_path / "b", method("rapt"), 1, learning_rate=3e-5, train_tasks=["qa"])
    assert [group.label for group in groups_of(tmp_path)] == ["rapt"]


def test_a_task_s_own_method_is_part_of_the_name(tmp_path: Path):
    run = write_run(tmp_path / "a", [], 1)
    text = (run / "task_def.yml").read_text(encoding="utf-8")
    (run / "task_def.yml").write_text(
        text.replace("mr:", "mr:\n  perturb: [{name: rapt, options: {}}]"), encoding="utf-8"
    )
    assert [group.label for group in groups_of(tmp_path)] == ["standard; mr: rapt"]


def test_labels_and_group_by(tmp_path: Path):
    for fraction in (0.1, 1.0):
        for seed in (1, 2):
            write_run(tmp_path / f"rapt-{fraction}-{seed}", method("rapt"), seed, data_fraction=fraction)
    assert [g.label for g in groups_of(tmp_path)] == ["rapt data_fraction=0.1", "rapt data_fraction=1"]
    assert [g.label for g in groups_of(tmp_path, ["data_fraction"])] == ["data_fraction=0.1", "data_fraction=1"]
    labelled = groups_of(tmp_path, None, [("rapt-0.1-*", "few"), ("rapt-*", "all")])
    assert {g.label: len(g.runs) for g in labelled} == {"few": 2, "all": 2}
    runs = read_runs(find_runs([str(tmp_path)]))
    found = faults(group_runs, runs, ["data_fractoin"], [("x*", "y")])
    assert found == [
        "--label: x*: fits no run folder",
        "--group_by: data_fractoin: no run has this setting; did you mean 'data_fraction'?",
    ]


def test_the_same_seed_twice_is_a_fault(tmp_path: Path):
    for name in ("a", "b"):
        write_run(tmp_path / name, method("rapt"), 1, {"mr": {"acc": 1.0, "f1": 2.0}})
    (line,) = faults(groups_of, tmp_path)
    assert "both are rapt with seed 1" in line and str(tmp_path / "a") in line and "--group_by" in line


def test_settings_that_differ_between_methods_are_noted(tmp_path: Path):
    write_run(tmp_path / "a", [], 1)
    write_run(tmp_path / "b", method("rapt"), 1)
    write_run(tmp_path / "c", method("smart"), 1, learning_rate=3e-5)
    assert unequal_settings(groups_of(tmp_path)) == [
        "learning_rate differs between the methods (on mr): 0.0001, but 3e-05 (smart)"
    ]
