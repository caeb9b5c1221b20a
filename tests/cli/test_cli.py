"""The command itself: help, exit codes, how it ends when something goes wrong, and what it loads."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mtrobust import __version__, cli
from mtrobust.config import TrainConfig
from mtrobust.errors import RunError, UserError

ROOT = Path(__file__).resolve().parents[2]


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Makes `mtrobust tasks` end with an error."""
    from mtrobust.commands import tasks

    def run(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(tasks, "run", run)


def test_help_names_every_command_and_version_the_version(mtrobust: Callable):
    for word in ("--help", "-h", "help"):
        ended = mtrobust(word)
        assert ended.code == 0 and all(f"  {name} " in ended.out for name in cli.COMMANDS)
    assert mtrobust("--version").out == f"mtrobust {__version__}\n"


def test_no_command_is_a_fault_that_shows_the_help(mtrobust: Callable):
    ended = mtrobust()
    assert ended.code == 2 and "usage:" in ended.err and ended.out == ""


@pytest.mark.parametrize("name", [*cli.COMMANDS, "prep textcls"])
def test_every_command_has_help(name: str, mtrobust: Callable):
    ended = mtrobust(*name.split(), "--help")
    assert ended.code == 0 and ended.out.startswith(f"usage: mtrobust {name}") and ended.err == ""


def test_train_help_has_every_setting_with_its_default(mtrobust: Callable):
    out = " ".join(mtrobust("train", "--help").out.split())
    for name in TrainConfig.model_fields:
        assert f"--{name} " in out or f"--no_{name} " in out
    assert "(default: 5e-05)" in out and "(required)" in out and "--perturb.OPTION" in out


def test_methods_and_tasks_list_options_types_and_defaults(mtrobust: Callable):
    out = mtrobust("methods", "rapt").out
    assert out.startswith("rapt: ") and "1-3" in out and "eta" in out and "rpt:" not in out
    everything = mtrobust("methods").out
    assert all(f"{name}: " in everything for name in ("standard", "rapt", "rpt", "smart"))
    out = mtrobust("tasks").out
    assert "Classification: " in out and "PremiseOnly" in out and "metric_meta" in out and "dropout_p" in out
    assert "keys of a task definition" not in mtrobust("tasks", "Regression").out


def test_faults_are_single_lines_and_exit_2(mtrobust: Callable, monkeypatch: pytest.MonkeyPatch):
    raising(monkeypatch, UserError(["a: one\n  two", "b: three"]))
    ended = mtrobust("tasks")
    assert (ended.code, ended.err) == (2, "error: a: one two\nerror: b: three\n")


def test_under_a_launcher_only_the_first_process_prints_faults(mtrobust: Callable, monkeypatch: pytest.MonkeyPatch):
    raising(monkeypatch, UserError("a: b"))
    monkeypatch.setenv("RANK", "1")
    ended = mtrobust("tasks")
    assert (ended.code, ended.err) == (2, "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RunError("step 3: loss is nan"), 1, "error: step 3: loss is nan\n"),
        (KeyboardInterrupt(), 130, "error: stopped by Ctrl-C\n"),
        (OSError(errno.ENOSPC, "No space left on device", "run/x"), 1, "error: run/x: No space left on device\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "run/x"), 1, "error: run/x: No such file\n"),
    ],
)
def test_other_ends(error: BaseException, code: int, line: str, mtrobust: Callable, monkeypatch: pytest.MonkeyPatch):
    raising(monkeypatch, error)
    ended = mtrobust("tasks")
    assert (ended.code, ended.err) == (code, line)


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EBADF, "closed", "x")])
def test_bugs_keep_their_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch):
    raising(monkeypatch, error)
    with pytest.raises(type(error)):
        cli.main(["tasks"])


def test_log_lines_of_the_package_go_to_standard_error_once(mtrobust: Callable, monkeypatch: pytest.MonkeyPatch):
    import logging

    from mtrobust.commands import tasks

    def run(argv: list[str]) -> int:
        logging.getLogger("mtrobust.somewhere").warning("odd %s", "thing")
        logging.getLogger("mtrobust.somewhere").info("as usual")
        return 0

    monkeypatch.setattr(tasks, "run", run)
    mtrobust("tasks")
    assert mtrobust("tasks").err == "warning: odd thing\nas usual\n"


def command(*argv: str, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "mtrobust", *argv], env=environment, text=True, **options)


def test_a_reader_that_goes_away_is_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = command("tasks", stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["methods"], 0),
        (["train", "--task_def", "glue", "--data_dir", "nowhere", "--perturb", "rapt", "--perturb.eta", "-1"], 2),
        (["check", "--task_def", "glue", "--data_dir", "nowhere"], 2),
        (["evaluate", "nowhere"], 2),
        (["status", "nowhere"], 2),
    ],
)
def test_help_and_faults_load_nothing_that_takes_long(argv: list[str], code: int):
    """What keeps the answer below a second, without a clock: nothing heavy is imported on the way to it."""
    script = (
        "import sys\nfrom mtrobust.cli import main\n"
        "try:\n    code = main(sys.argv[1:])\nexcept SystemExit as ended:\n    code = ended.code or 0\n"
        "print(code, *{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script, *argv], env=environment, text=True, capture_output=True)
    found, *loaded = done.stderr.split("\n")[-2].split()
    assert int(found) == code
    assert not {"torch", "transformers", "datasets", "accelerate", "sklearn", "scipy", "pandas"} & set(loaded)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("evaluate run --out ''", "--out: '': must not be empty"),
        ("evaluate run --split=", "--split: '': must not be empty"),
        ("evaluate ''", "'': must not be empty"),
        ("predict run --task ' ' --input a --output b", "--task: '': must not be empty"),
        ("check --task_def glue --data_dir ''", "--data_dir: '': must not be empty"),
        ("check --task_def ''", "--task_def: '': must not be empty"),
        ("analyze layers run --out '' --task a", "--out: '': must not be empty"),
        ("prep sample --out ''", "--out: '': must not be empty"),
        ("report '' --out x", "'': must not be empty"),
    ],
)
def test_an_empty_word_is_refused_by_every_command(mtrobust: Callable, command: str, line: str):
    ended = mtrobust(*shlex.split(command))
    assert (ended.code, ended.err) == (2, f"error: {line}\n")
