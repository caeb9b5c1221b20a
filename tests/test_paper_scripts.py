"""Every script of a paper runs to its end on small files in the official formats, and reports what it promises."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from mtrobust.config_parse import parse_train
from tests.raw_world import write_raw
from tests.tiny import write_tiny_model

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*_*.sh") if "lib/paper.sh" in path.read_text("utf-8"))
FAMILIES = ("pdr", "rapt", "swep", "vda")
LIMITS = [
    "--small", "--max_steps", "2", "--max_train_samples", "12", "--max_eval_samples", "8",
    "--max_seq_length", "48", "--use_cpu",
]  # fmt: skip
# What each is run with, so that a test ends soon; words that must stand in its report.
RUNS: dict[str, tuple[dict[str, str], list[str]]] = {
    "pdr_indomain.sh": ({"METHODS": "standard vat-jsd"}, ["vat-jsd", "sst2/acc", "squad/f1", "Table 2"]),
    "pdr_domain_shift.sh": ({"METHODS": "standard vat-jsd"}, ["sst2/imdb/acc", "Table 3"]),
    "pdr_adversarial.sh": ({"METHODS": "standard vat-jsd"}, ["addonesent/worst/f1", "mnli/hans/lexical_overlap/acc"]),
    "pdr_semisupervised.sh": ({"METHODS": "standard half rpt-kl", "TASKS": "sst2"}, ["rpt-kl", "half", "Table 5"]),
    "rapt_glue.sh": ({"METHODS": "standard rapt"}, ["rapt", "cola/mcc", "stsb/spearman", "average"]),
    "rapt_layer_sweep.sh": ({"LAYERS": "2"}, ["rapt.layers", "mrpc/acc"]),
    "rapt_time.sh": ({"METHODS": "standard rapt", "TASKS": "mrpc"}, ["rapt", "mrpc/f1"]),
    "swep_qa.sh": ({"METHODS": "standard swep ssmba"}, ["swep", "ssmba", "squad/squadshifts_new_wiki/f1"]),
    "swep_low_resource.sh": ({"FRACTIONS": "0.5 1"}, ["data_fraction", "squad/f1"]),
    "swep_ablation.sh": ({"METHODS": "standard swep-fixed_mu"}, ["swep-fixed_mu", "Table 3"]),
    "swep_synthetic.sh": ({"PAIRS": "8", "METHODS": "standard standard-pairs8"}, ["standard-pairs8", "squad/em"]),
    "swep_t5.sh": (
        {"METHODS": "standard swep ssmba", "MODEL": "t5"},
        ["swep", "ssmba", "squad_gen/squadshifts_new_wiki/f1", "Table 2"],
    ),
    "vda_attack.sh": ({"METHODS": "standard vda"}, ["attack_accuracy", "Table 2"]),
    "vda_pairs.sh": ({"METHODS": "standard vda"}, ["mrpc/attack/dev/query_number", "Table 3"]),
    "vda_ablation.sh": ({"METHODS": "standard vda-argmax", "TASKS": "agnews"}, ["vda-argmax", "Table 4"]),
    "vda_ada.sh": (
        {"METHODS": "standard standard+ada", "TASKS": "mr", "TRAIN_EXAMPLES": "4"},
        ["Table 5", "mr/attack/dev"],
    ),
    "vda_sweep.sh": ({"TASKS": "mr", "SIGMAS": "0.1 0.2", "SAMPLES": "2"}, ["vda.samples"]),
    "vda_epochs.sh": ({"TASKS": "mrpc", "EPOCHS": "1 2"}, ["mrpc/attack/dev/attack_accuracy"]),
}


def test_every_script_of_a_paper_is_run():
    assert sorted(RUNS) == SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_help_names_the_paper_and_the_variables(script: str):
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / script), "--help"], capture_output=True, text=True, check=True
    )
    assert "et al." in done.stdout and "--small" in done.stdout and "MTROBUST_DATA" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("path", sorted((ROOT / "scripts/published").glob("*.yml")), ids=lambda path: path.stem)
def test_published_figures_belong_to_rows_of_the_script(path: Path):
    script = (ROOT / f"scripts/{path.stem}.sh").read_text("utf-8")
    library = (ROOT / f"scripts/lib/{path.stem.split('_')[0]}.sh").read_text("utf-8")
    for column, figures in yaml.safe_load(path.read_text("utf-8")).items():
        if column == "source":
            continue
        assert column.partition("/")[0] in script + library
        for method in figures:
            parts = method.replace("+", "-").split("-")
            assert all(part in script + library for part in parts), f"{column}: {method}"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_scripts_run_to_their_end(family: str, tmp_path: Path, installed: dict[str, str]):
    raw = write_raw(tmp_path / "raw")
    # the windows of questions are 384 tokens long
    write_tiny_model("bert", tmp_path / "models/minilm-l6-h384-uncased", max_position_embeddings=384)
    write_tiny_model("t5", tmp_path / "models/t5", whole=True)
    variables = {
        "MTROBUST_DATA": str(raw), "MTROBUST_MODELS": str(tmp_path / "models"), "OUT": str(tmp_path / "out"),
        "SEEDS": "1", "EXAMPLES": "4", "MLM_STEPS": "2",
    }  # fmt: skip
    for script in (name for name in SCRIPTS if name.startswith(family)):
        own, expected = RUNS[script]
        own = own | ({"MODEL": str(tmp_path / "models" / own["MODEL"])} if "MODEL" in own else {})
        limits = LIMITS if script == "rapt_time.sh" else [*LIMITS, "--jobs", "2"]  # which times one run after the other
        done = subprocess.run(
            ["bash", str(ROOT / "scripts" / script), *limits],
            env={**installed, **variables, **own}, capture_output=True, text=True,
        )  # fmt: skip
        logs = "".join(path.read_text("utf-8")[-600:] for path in (tmp_path / "out").rglob("*.log"))
        assert done.returncode == 0, f"{script}\n{done.stdout[-800:]}\n{done.stderr[-2000:]}\n{logs[-3000:]}"
        text = (tmp_path / "out/small/report" / script.removesuffix(".sh") / "report.md").read_text("utf-8")
        # a model of two steps is not fooled, so there is nothing to add
        assert script != "vda_ada.sh" or "no adversarial texts for mr" in done.stderr
        assert [word for word in expected if word not in text] == [], f"{script}\n{text}"


STUB = """#!/usr/bin/env bash
# notes what it is asked for, and leaves the files behind that scripts look for
printf '%q ' "$@" >>"$CALLS"; echo >>"$CALLS"
previous=''
for word in "$@"; do
    case "$previous" in --output_dir) run=$word ;; --out) out=$word ;; --tasks | --task | --dataset) task=$word ;; esac
    previous=$word
done
case "$1" in
    train) mkdir -p "$run/model" && touch "$run/config.yml" && echo '{}' >"$run/all_results.json" ;;
    attack) mkdir -p "$2/attack" && echo '{"success": true}' >"$2/attack/$task.train.jsonl" ;;
    prep) [ "$2" != squad ] || task=${task:-squad}; mkdir -p "$out/$task" && touch "$out/$task/train.jsonl" ;;
esac
"""
OFFICIAL = ("SQuAD-v2.0/train-v2.0.json", "MNLI/dev_matched.tsv", "MRQA/BioASQ.jsonl.gz", "Yelp/train.csv",
            "QNLI/train.tsv", "RTE/train.tsv", "QQP/train.tsv")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("mode", [[], ["--small"]], ids=["paper", "small"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_cell_of_a_script_is_a_sound_configuration(script: str, mode: list[str], tmp_path: Path, installed):
    """All methods on all tasks, in a folder with blanks in its name; nothing is trained."""
    raw = write_raw(tmp_path / "raw")
    for name in OFFICIAL:
        (raw / name).parent.mkdir(exist_ok=True)
        (raw / name).touch()
    stub = Path(installed["MTROBUST_VENV"]) / "bin/mtrobust"
    stub.write_text(STUB, encoding="utf-8")
    out, calls = tmp_path / "with blanks", tmp_path / "calls"
    variables = {"MTROBUST_DATA": str(raw), "OUT": str(out), "SEEDS": "1", "MLM": "my mlm", "MODEL": "bert",
                 "SYNTHETIC": str(raw / "SQuAD-v1.1/dev-v1.1.json"), "CALLS": str(calls)}  # fmt: skip
    command = ["bash", str(ROOT / "scripts" / script), *mode]
    done = subprocess.run(command, env={**installed, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-800:] + done.stderr[-2000:]
    lines = [shlex.split(line) for line in calls.read_text("utf-8").split("\n") if line]
    trained = [line[1:] for line in lines if line[0] == "train"]
    assert trained and [(line, found) for line in trained if (found := parse_train(line).faults)] == []
    assert len({line[line.index("--output_dir") + 1] for line in trained}) == len(trained)
    assert lines[-1][0] == "report"


@pytest.mark.slow
@pytest.mark.parametrize("script", ["vda_pairs.sh", "vda_ada.sh"])
def test_an_attack_that_is_done_is_asked_for_again(script: str, tmp_path: Path, installed):
    """It knows itself whether these are other settings or more texts; a script would let old figures pass."""
    raw, calls = write_raw(tmp_path / "raw"), tmp_path / "calls"
    stub = Path(installed["MTROBUST_VENV"]) / "bin/mtrobust"
    stub.write_text(STUB, encoding="utf-8")
    variables = {"MTROBUST_DATA": str(raw), "OUT": str(tmp_path / "out"), "SEEDS": "1", "MLM": "mlm", "MODEL": "bert",
                 "CALLS": str(calls), "TASKS": "mrpc", "METHODS": "standard standard+ada"}  # fmt: skip
    command = ["bash", str(ROOT / "scripts" / script)]
    subprocess.run(command, env={**installed, **variables}, capture_output=True, check=True)
    for run in (run for run in (tmp_path / "out").rglob("*-1") if run.is_dir()):
        (run / "attack").mkdir(exist_ok=True)
        (run / "attack/mrpc.dev.json").write_text('{"complete": true}', encoding="utf-8")
    calls.unlink()
    more = {"EXAMPLES": "7", "VECTORS": "my vectors"}
    subprocess.run(command, env={**installed, **variables, **more}, capture_output=True, check=True)
    lines = [shlex.split(line) for line in calls.read_text("utf-8").split("\n") if line]
    asked = [line for line in lines if line[0] == "attack"]
    assert len(asked) == (3 if script == "vda_ada.sh" else 1), lines  # of them one on the training rows
    for line in asked:
        assert line[line.index("--vectors") + 1] == "my vectors"
        assert line[line.index("--examples") + 1] == ("2000" if "train" in line else "7")


def test_rows_that_cannot_be_made_fail_the_script(tmp_path: Path, installed: dict[str, str]):
    raw = write_raw(tmp_path / "raw")
    (raw / "SST-2/train.tsv").write_text("no such columns\n", encoding="utf-8")
    command = ["bash", str(ROOT / "scripts/pdr_domain_shift.sh"), "--small"]
    variables = {"MTROBUST_DATA": str(raw), "OUT": str(tmp_path / "out"), "TASKS": "sst2", "MODEL": "none"}
    done = subprocess.run(command, env={**installed, **variables}, capture_output=True, text=True)
    assert done.returncode == 1 and "rows of sst2/train.jsonl" in done.stderr, done.stderr


def test_times_are_not_taken_of_runs_that_share_the_machine(tmp_path: Path, installed: dict[str, str]):
    command = ["bash", str(ROOT / "scripts/rapt_time.sh"), "--jobs", "2"]
    variables = {"MTROBUST_DATA": str(tmp_path), "OUT": str(tmp_path / "out")}
    done = subprocess.run(command, env={**installed, **variables}, capture_output=True, text=True)
    assert done.returncode == 2 and "--jobs 2" in done.stderr and "allowed: 1" in done.stderr


def test_a_script_without_any_of_its_data_says_so(tmp_path: Path, installed: dict[str, str]):
    command = ["bash", str(ROOT / "scripts/pdr_domain_shift.sh"), "--small"]
    variables = {"MTROBUST_DATA": str(tmp_path), "OUT": str(tmp_path / "out"), "MODEL": "none"}
    done = subprocess.run(command, env={**installed, **variables}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "left out: " in done.stderr and "SST-2/train.tsv is not there" in done.stderr and "no run" in done.stderr
