"""From plain text to a masked language model, by the commands and by the script."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import TEXT

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path, tiny_model_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Texts of two kinds and an encoder without a language-model head; the current folder."""
    shutil.copytree(tiny_model_dir("bert"), tmp_path / "encoder")
    (tmp_path / "a.txt").write_text("\n".join(["= Title =", *TEXT]) + "\n", encoding="utf-8")
    (tmp_path / "dev.txt").write_text("\n".join(TEXT[:6]) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


FLAGS = ["--max_seq_length", 32, "--max_steps", 4, "--per_device_train_batch_size", 4, "--progress", "off", "--use_cpu"]


def test_prep_check_train_evaluate_predict_export(folder: Path, mtrobust: Callable):
    prepared = mtrobust("prep", "text", "--file", "a.txt", "--dev_file", "dev.txt", "--out", "data", "--task", "mlm")
    assert prepared.code == 0 and "18 rows" in prepared.out, prepared.err
    checked = mtrobust("check", "--task_def", "mlm", "--data_dir", "data")
    assert checked.code == 0 and checked.out.split("\n")[1].split()[:5] == ["mlm", "MaskLM", "train", "18", "18"]

    common = ["--task_def", "mlm", "--data_dir", "data", "--model_name_or_path", "encoder", "--output_dir", "run"]
    trained = mtrobust("train", *common, *FLAGS, "--perturb", "rapt", "--perturb.layers", 1)
    assert trained.code == 0, trained.err
    results = json.loads((folder / "run" / "all_results.json").read_text(encoding="utf-8"))
    assert results["mlm"].keys() == {"acc", "ppl"}
    assert mtrobust("evaluate", "run", "--use_cpu").code == 0
    again = json.loads((folder / "run" / "all_results.json").read_text(encoding="utf-8"))
    assert again["mlm"] == pytest.approx(results["mlm"])
    flags = ["--task", "mlm", "--input", "data/mlm/dev.jsonl", "--output", "out.jsonl", "--use_cpu"]
    assert mtrobust("predict", "run", *flags).code == 0
    assert len((folder / "out.jsonl").read_text(encoding="utf-8").strip().split("\n")) == 6

    exported = mtrobust("export", "run", "--task", "mlm", "--out", "hf", "--use_cpu")
    assert exported.code == 0, exported.err
    from transformers import AutoModelForMaskedLM

    assert AutoModelForMaskedLM.from_pretrained(folder / "hf").config.architectures == ["BertForMaskedLM"]


def test_the_rows_of_another_task_are_text_too(folder: Path, mtrobust: Callable):
    (folder / "data" / "mood").mkdir(parents=True)
    rows = [json.dumps({"text": text, "label": i % 2}) + "\n" for i, text in enumerate(TEXT[:6])]
    for split in ("train", "dev"):
        (folder / "data" / "mood" / f"{split}.jsonl").write_text("".join(rows), encoding="utf-8")
    defs = "mood:\n  task_type: Classification\n  data_format: PremiseOnly\n  labels: [bad, good]\n"
    defs += "lm:\n  task_type: MaskLM\n  data_format: MLM\n  data: mood\n  whole_word_masking: true\n"
    (folder / "defs.yml").write_text(defs, encoding="utf-8")
    common = ["--task_def", "defs.yml", "--data_dir", "data", "--model_name_or_path", "encoder", "--output_dir", "run"]
    trained = mtrobust("train", *common, *FLAGS)
    assert trained.code == 0, trained.err
    assert {"mood", "lm"} <= set(json.loads((folder / "run" / "all_results.json").read_text(encoding="utf-8")))


def test_t5_is_refused_in_one_line(folder: Path, mtrobust: Callable, tiny_model_dir: Callable[[str], Path]):
    mtrobust("prep", "text", "--file", "a.txt", "--dev_file", "dev.txt", "--out", "data")
    common = ["--task_def", "mlm", "--data_dir", "data", "--model_name_or_path", tiny_model_dir("t5")]
    ended = mtrobust("train", *common, *FLAGS, "--output_dir", "run")
    assert ended.code == 2 and "mlm.task_type: MaskLM: model type 't5' has no Hugging Face class" in ended.err
    assert "Traceback" not in ended.err and not (folder / "run").exists()


@pytest.mark.slow
def test_the_script(folder: Path, tmp_path: Path):
    """As a user runs it, with an installed command of the same name in place of a fresh environment."""
    import sys

    venv = folder / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    (venv / "mtrobust").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mtrobust "$@"\n', encoding="utf-8")
    for file in venv.iterdir():
        file.chmod(0o755)
    (folder / "venv" / ".mtrobust-plain").touch()
    os.utime(folder / "venv" / ".mtrobust-plain", (2**31 - 1, 2**31 - 1))  # newer than any file it is compared with
    variables = {
        "TEXT": str(folder / "a.txt"), "DEV_TEXT": str(folder / "dev.txt"), "MODEL": str(folder / "encoder"),
        "OUT": str(folder / "out"), "STEPS": "3", "BATCH": "4", "FREEZE": "1", "WHOLE_WORDS": "1",
        "MTROBUST_VENV": str(folder / "venv"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = ["bash", str(ROOT / "scripts/make_mlm.sh"), "--use_cpu"]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert (folder / "out" / "model" / "model.safetensors").is_file()
    assert "whole_word_masking: true" in (folder / "out" / "run" / "task_def.yml").read_text(encoding="utf-8")
    again = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    assert again.returncode == 2 and "is there already" in again.stderr
