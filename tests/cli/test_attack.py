"""`mtrobust attack` on a run and on an exported model: files, going on, several processes, bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.world import fingerprint
from tests.evaluation.attacks.lm import write_tiny_lm
from tests.evaluation.runs import read_lines, write_data, write_rows, write_run

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {"mood": "text", "mnli": "text_pair"}
SPLITS = {"mood": "dev", "mnli": "matched_dev"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Callable[[str], Path]) -> Path:
    """A folder with `data/`, a finished `run/` and a masked language model `lm/`."""
    folder = tmp_path_factory.mktemp("trained")
    write_run(folder / "run", tiny_model_dir("bert"), write_data(folder / "data"), ["mood", "mnli", "stsb"])
    write_tiny_lm(tiny_model_dir("bert"), folder / "lm")
    make_undecided(folder)
    return folder


def make_undecided(folder: Path) -> None:
    """Random models hardly look at the words: the run's classes become equally likely on its rows."""
    import torch
    from transformers import AutoTokenizer

    from mtrobust.evaluation.attacks.target import labelled_rows, run_target
    from mtrobust.models.multitask import MultiTaskModel

    model = MultiTaskModel.load(folder / "run/model")
    means = {}
    for task in FIELDS:
        target = run_target(folder / "run", task)
        victim = target.open(True, 0, None)
        rows = labelled_rows(target.task, folder / "data", SPLITS[task])[1]
        means[task] = torch.from_numpy(victim.forward(victim.features(rows)).mean(0))
    with torch.no_grad():
        for task, mean in means.items():
            linear = [part for part in model.heads[task].modules() if getattr(part, "out_features", 0) == len(mean)]
            linear[-1].bias -= mean
    model.save_pretrained(folder / "run/model", AutoTokenizer.from_pretrained(folder / "run/model"))


@pytest.fixture
def flags(trained: Path, tmp_path: Path) -> Callable[..., list[object]]:
    """The command's words for a task of the run; every file goes below `tmp_path`."""

    def make(task: str = "mood", *more: object, out: str = "out") -> list[object]:
        common = ["--split", SPLITS.get(task, "dev"), "--mlm", trained / "lm", "--threshold", 0, "--use_cpu"]
        return ["attack", trained / "run", "--task", task, *common, "--output_dir", tmp_path / out, *more]

    return make


def attacked(folder: Path, task: str) -> tuple[dict, list[dict]]:
    name = folder / "attack" / f"{task}.{SPLITS[task]}"
    return json.loads(Path(f"{name}.json").read_text(encoding="utf-8")), read_lines(Path(f"{name}.jsonl"))


@pytest.mark.parametrize("task", ["mood", "mnli"])
def test_every_claimed_success_is_confirmed_by_the_exported_model(
    trained: Path, tmp_path: Path, mtrobust: Callable, flags: Callable, task: str
):
    """Each text of the file is scored anew, as plain text, by the model as transformers loads it."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    before = fingerprint(trained)
    ended = mtrobust(*flags(task))
    assert ended.code == 0, ended.err
    assert fingerprint(trained) == before
    summary, lines = attacked(tmp_path / "out", task)
    assert mtrobust("export", trained / "run", "--task", task, "--out", tmp_path / "hf", "--use_cpu").code == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()

    def label(row: dict) -> str:
        texts = [row[name] for name in ("text", "text_pair") if name in row]
        with torch.no_grad():
            logits = model(**tokenizer(*texts, truncation=True, return_tensors="pt")).logits
        return model.config.id2label[int(logits.argmax())]

    data = read_lines(trained / "data" / task / f"{SPLITS[task]}.jsonl")
    assert [line["id"] for line in lines] == [row["id"] for row in data]
    flipped = 0
    for line, row in zip(lines, data, strict=True):
        assert {key: line[key] for key in row} == row and line["field"] == FIELDS[task]
        assert line["prediction"] == label(row)
        assert (line["success"] is None) == (line["prediction"] != line["label"])
        words = row[line["field"]].split()
        assert line["words"] == len(words) and len(line["changes"]) <= max(1, int(0.4 * len(words)))
        if not line["success"]:
            assert line["adversarial"] is line["adversarial_prediction"] is None and not line["changes"]
            continue
        flipped += 1
        assert label({**row, line["field"]: line["adversarial"]}) == line["adversarial_prediction"] != line["label"]
        for change in line["changes"]:
            words[change["index"]] = words[change["index"]].replace(change["from"], change["to"])
        assert " ".join(words) == line["adversarial"]
        assert line["queries"] > 1 + len(words)
    assert flipped and summary["succeeded"] == flipped and summary["complete"] is True
    right = sum(line["success"] is not None for line in lines)
    assert summary["original_accuracy"] == pytest.approx(100 * right / len(lines))
    assert summary["attack_accuracy"] == pytest.approx(100 * (right - flipped) / len(lines))
    assert summary["settings"]["field"] == FIELDS[task] and summary["settings"]["threshold"] == 0
    assert f"{summary['attack_accuracy']:.1f}" in ended.out and "no counter-fitted vectors were given" in ended.out


def test_an_exported_model_gives_the_same(trained: Path, tmp_path: Path, mtrobust: Callable, flags: Callable):
    assert mtrobust(*flags("mnli")).code == 0
    assert mtrobust("export", trained / "run", "--task", "mnli", "--out", tmp_path / "hf", "--use_cpu").code == 0
    words = [*flags("mnli", "--data_dir", trained / "data", "--batch_size", 1, out="again")]
    words[1:2] = ["--model", tmp_path / "hf"]
    ended = mtrobust(*words)
    assert ended.code == 0, ended.err
    assert attacked(tmp_path / "again", "mnli")[1] == attacked(tmp_path / "out", "mnli")[1]


def test_it_goes_on_where_it_stopped_and_takes_more_rows(tmp_path: Path, mtrobust: Callable, flags: Callable):
    assert mtrobust(*flags()).code == 0
    whole = fingerprint(tmp_path / "out")
    path = tmp_path / "out/attack/mood.dev.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    ended = mtrobust(*flags())
    assert ended.code == 0 and "the last line is cut off" in ended.err and "12 of 13 rows are done" in ended.err
    assert fingerprint(tmp_path / "out") == whole
    assert mtrobust(*flags("mood", "--examples", 5, out="few")).code == 0
    assert len(attacked(tmp_path / "few", "mood")[1]) == 5
    assert mtrobust(*flags("mood", out="few")).code == 0
    assert fingerprint(tmp_path / "few") == whole
    fewer = mtrobust(*flags("mood", "--examples", 5, "--first", out="few"))
    assert fewer.code == 2 and "an attack with other settings (choice: seed 1 there, first now)" in fewer.err
    assert mtrobust(*flags("mood", "--examples", 5, "--first", "--overwrite", out="few")).code == 0
    assert [line["id"] for line in attacked(tmp_path / "few", "mood")[1]] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("changed", ["lm/model.safetensors", "lm/tokenizer.json", "vectors.txt"])
def test_other_contents_of_what_it_reads_are_other_settings(
    trained: Path, tmp_path: Path, mtrobust: Callable, flags: Callable, changed: str
):
    shutil.copytree(trained / "lm", tmp_path / "lm")
    (tmp_path / "vectors.txt").write_text("cat 1 0\nred 0 1\n", encoding="utf-8")
    words = flags("mood", "--mlm", tmp_path / "lm", "--vectors", tmp_path / "vectors.txt", "--examples", 3)
    assert mtrobust(*words).code == 0
    with (tmp_path / changed).open("ab") as file:
        file.write(b"\n")
    ended = mtrobust(*words)
    what = "vectors" if changed == "vectors.txt" else "mlm"
    assert ended.code == 2 and f"other settings ({what}_digest: " in ended.err, ended.err


def command(words: list[object]) -> list[str]:
    return [sys.executable, "-m", "mtrobust", *map(str, words)]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_several_processes_and_a_kill_give_the_same_file(tmp_path: Path, mtrobust: Callable, flags: Callable):
    assert mtrobust(*flags("mood", out="whole")).code == 0
    whole, path = fingerprint(tmp_path / "whole"), tmp_path / "out/attack/mood.dev.jsonl"
    words = command(flags("mood", "--num_processes", 2))
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(words, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        before = path.stat().st_size if path.exists() else 0
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if path.exists() and path.stat().st_size > before:
                process.send_signal(number)
                break
            time.sleep(0.001)
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (-number, 130, 0), errors
        if process.returncode == 130:
            assert re.search(r"stopped after \d+ of 13 rows, which are written; the same command goes on", errors)
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert fingerprint(tmp_path / "out") == whole


@pytest.mark.slow
def test_a_fault_in_a_process_is_one_line(trained: Path, tmp_path: Path, flags: Callable, tiny_model_dir: Callable):
    words = flags("mood", "--num_processes", 2, "--mlm", tiny_model_dir("electra"))
    done = subprocess.run(command(words), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "its head was not trained" in done.stderr


def test_a_model_that_cannot_be_loaded_blocks_nothing(
    tmp_path: Path, mtrobust: Callable, flags: Callable, tiny_model_dir: Callable
):
    ended = mtrobust(*flags("mood", "--mlm", tiny_model_dir("electra")))
    assert ended.code == 2 and "its head was not trained" in ended.err
    assert mtrobust(*flags("mood")).code == 0


def test_another_attack_is_one_class(tmp_path: Path, mtrobust: Callable, flags: Callable, monkeypatch):
    """Its options are flags, its texts are files, it is refused for what it does not know."""
    from pydantic import Field

    from mtrobust.evaluation.attacks import ATTACKS, Attack, AttackOptions, Change, Outcome

    monkeypatch.setattr(ATTACKS, "_items", dict(ATTACKS.items()))

    class Options(AttackOptions):
        times: int = Field(2, ge=1, description="how often the last word is said again")

    @ATTACKS.register("echo")
    class Echo(Attack):
        name, summary, paper = "echo", "the last word again and again", "-"

        def __init__(self, options, victim, field):
            super().__init__(options, victim, field)
            self.times = options.times

        def run(self, row):
            words = row[self.field].split()
            text = " ".join([*words, *words[-1:] * self.times])
            before, after = (
                int(self.victim.probabilities(self.victim.features([one]))[0].argmax())
                for one in (row, {**row, self.field: text})
            )
            if before != row["label"] or after == before:
                return Outcome(before, None if before != row["label"] else False, 2, len(words))
            return Outcome(before, True, 2, len(words), text, after, [Change(len(words) - 1, words[-1], text)])

    Echo.Options = Options
    words = [word for word in flags("mood", "--attack", "echo") if word not in ("--threshold", 0)]
    at = words.index("--mlm")
    del words[at : at + 2]
    assert mtrobust(*words, "--times", 0).err == "error: --times: 0: must be an integer >= 1\n"
    assert "--mlm: unknown flag" in mtrobust(*words, "--mlm", "x").err
    ended = mtrobust(*words, "--times", 3)
    assert ended.code == 0, ended.err
    summary, lines = attacked(tmp_path / "out", "mood")
    assert summary["settings"]["attack"] == "echo" and summary["settings"]["times"] == 3 and len(lines) == 13
    shown = mtrobust("attack", "--attack", "echo", "--help").out
    assert "echo: the last word again and again (-)" in shown and "(default: 2)" in shown and "--top_k" not in shown


def test_all_faults_at_once(trained: Path, tmp_path: Path, mtrobust: Callable):
    (tmp_path / "file").touch()
    ended = mtrobust(
        "attack", trained / "run", "--task", "mod", "--mlm", "./none", "--top_k", 0, "--threshold", "nan", "--first",
        "--vectors", "v.txt", "--data_dir", "nowhere", "--output_dir", tmp_path / "file",
    )  # fmt: skip
    assert ended.code == 2 and "Traceback" not in ended.err
    assert ended.err.strip().split("\n") == [
        "error: --threshold: nan: must be a number >= 0 (finite)",
        "error: --top_k: 0: must be an integer >= 1",
        "error: --mlm: ./none: no config.json there; expected the folder of a masked language model",
        "error: --vectors: v.txt: no such file",
        "error: --first: without effect without --examples",
        "error: --data_dir: nowhere: no such folder",
        f"error: --output_dir: {tmp_path / 'file'}: is a file; name a folder",
        "error: --task: mod: no such task; did you mean 'mood'? (defined: mood, mnli, stsb)",
    ]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--task", "stsb"], "--task: stsb: is of type Regression; bert_attack attacks tasks of type Classification"),
        (["--task", "mood", "--field", "text_pair"], "--field: text_pair: mood has rows with text only"),
        (["--task", "mood", "--split", "test"], "test.jsonl: no row has a label"),
        (["--task", "mood", "--split", "train"], "no file of split 'train' for task mood"),
        (["--task", "mood", "--attack", "bert_atack"], "unknown attack 'bert_atack'; did you mean 'bert_attack'?"),
        (["--task", "mood", "--min_cosine", "0.5"], "--min_cosine: without effect without --vectors"),
        (["--task", "mood", "--topk", "5"], "--topk: unknown flag; did you mean '--top_k'?"),
    ],
)
def test_what_cannot_be_attacked_is_refused(trained: Path, mtrobust: Callable, words: list[str], fault: str):
    before = fingerprint(trained)
    ended = mtrobust("attack", trained / "run", "--mlm", trained / "lm", *words)
    assert ended.code == 2 and fault in ended.err, ended.err
    assert fingerprint(trained) == before


def test_the_masked_language_model_is_needed(trained: Path, mtrobust: Callable):
    ended = mtrobust("attack", trained / "run", "--task", "mood")
    assert ended.code == 2 and "--mlm: missing: masked language model that proposes substitutes" in ended.err


def test_a_run_s_own_figures_are_not_mixed_with_those_of_other_data(trained: Path, tmp_path: Path, mtrobust: Callable):
    write_rows(tmp_path / "data/mood/dev.jsonl", [{"text": "a film", "label": "sad"}])
    words = ["--task", "mood", "--mlm", trained / "lm", "--data_dir", tmp_path / "data"]
    ended = mtrobust("attack", trained / "run", *words)
    assert ended.code == 2 and "--output_dir: needed where --data_dir is not the run's" in ended.err


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"id2label": {"0": "a", "1": "b"}, "architectures": ["BertModel"]}, "holds BertModel with 2 labels"),
        ({"id2label": {"0": "a"}, "architectures": ["BertForSequenceClassification"]}, "with 1 labels"),
        ({"architectures": ["BertForSequenceClassification"]}, "must be a model's configuration with id2label"),
        (None, "no config.json can be read there"),
    ],
)
def test_a_folder_that_holds_something_else(
    trained: Path, tmp_path: Path, mtrobust: Callable, config: dict | None, fault: str
):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    words = ["--task", "mood", "--mlm", trained / "lm", "--data_dir", trained / "data", "--output_dir", tmp_path / "o"]
    ended = mtrobust("attack", "--model", tmp_path, *words)
    assert ended.code == 2 and f"--model: {tmp_path}" in ended.err and fault in ended.err


def test_a_run_or_a_model(trained: Path, mtrobust: Callable):
    ended = mtrobust("attack", "--task", "mood", "--mlm", trained / "lm")
    assert ended.code == 2 and "RUN or --model DIR: one of the two is needed" in ended.err
    ended = mtrobust("attack", "--model", trained / "lm", "--task", "mood", "--mlm", trained / "lm")
    assert "--data_dir: needed with --model" in ended.err and "--output_dir: needed with --model" in ended.err


def test_every_flag_is_in_the_document(mtrobust: Callable):
    shown = mtrobust("attack", "--help").out
    text = (ROOT / "docs/attack.md").read_text(encoding="utf-8")
    missing = [flag for flag in re.findall(r"^  (--\w+)", shown, flags=re.MULTILINE) if f"`{flag}" not in text]
    assert len(shown) > 2000 and missing == []
