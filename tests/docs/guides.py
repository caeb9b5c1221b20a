"""Running what a guide says: its commands in a shell, its Python, on tiny data and a tiny encoder.

Nothing in a command is replaced; flags and variables are added that keep it short. `NOT_RUN` names what is not run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType

from tests.docs import live
from tests.docs.shell import DOCUMENTS, ROOT, blocks

# Documents with something to run, with the run folders that stand in their world before.
RUN: dict[str, tuple[str, ...]] = {
    "docs/tasks.md": ("runs/a", "runs/b", "runs/c", "runs/rapt"),
    "docs/attack.md": ("RUN",),
    "docs/report.md": ("runs/mr/standard-1", "runs/mrpc/standard-2"),
    "docs/monitoring.md": ("runs/rapt",),
    "docs/results.md": ("runs/mrpc/standard-1", "runs/mrpc/standard-2", "runs/mrpc/standard-3"),
}
RUN = {name: RUN.get(name, ()) for name in DOCUMENTS if {one.kind for one in blocks(name)} & {"shell", "python"}}
_CI = "a step of .ci/run, which runs these tests"
# Commands that are read and not run, by how they begin, and why.
NOT_RUN = {
    "mtrobust prep glue --hub": "needs a hub; the rows are there",
    "mtrobust prep glue_check": "wants the sizes of the official test sets",
    "scripts/test.sh": _CI,
    "scripts/docs.sh": _CI,
    ".venv/bin/ruff": _CI,
    ".venv/bin/mypy": _CI,
    ".ci/run": "runs these tests",
    "pip install": "changes the environment; .ci/run installs by scripts/install.sh",
    "tensorboard": "goes on until it is stopped",
    "python run_glue.py": "an example of transformers",
    "python -m venv textattack-env": "an environment of another program",
    "textattack-env/": "an environment of another program",
    "torchrun --nnodes 2": "wants two machines",
    "accelerate launch --multi_gpu --num_machines 2": "wants two machines",
}
if not {"MTROBUST_GOLDEN", "MTROBUST_MODELS"} <= set(os.environ):
    NOT_RUN["python -m tests.golden.table"] = "wants the recorded cases and the real encoder"
PIECES_OF_PYTHON = {"README.md": 1, "docs/tutorial.md": 1, "docs/python.md": 3}  # at least
CODE_NOT_RUN = {
    "docs/attack.md": "for TextAttack's own environment",
    "CONTRIBUTING.md": "test_docs.py runs the method that it has",
}
# What keeps a command short; the last value of a flag counts.
SHORT: dict[str, tuple[str, ...]] = {
    "train": (
        *("--max_steps", "2", "--max_train_samples", "8", "--max_eval_samples", "4"),
        *("--use_cpu", "--progress", "off"),
    ),
    "prep sample": ("--train_rows", "20", "--eval_rows", "6"),
    "attack": ("--examples", "2", "--use_cpu", "--progress", "off"),
    "evaluate": ("--use_cpu",),
    "predict": ("--use_cpu",),
    "export": ("--use_cpu",),
    "embed": ("--use_cpu",),
    "doctor": ("--seconds", "0"),
}
# The same for other programs, by how they begin.
SHORT_PROGRAMS: dict[str, tuple[str, ...]] = {
    "torchrun --nproc_per_node 4": SHORT["train"],
    "accelerate launch": SHORT["train"],
    "torchrun --nproc_per_node 2 -m tests.training.sharding": ("rapt",),
    "python scripts/bench/methods.py": ("--rounds", "1", "--batch", "2", "--methods", "rapt", "--threads", "1"),
    "python scripts/bench/train.py": ("--rounds", "1", "--batch", "2", "--chunk", "1", "--methods", "rapt"),
    "python scripts/bench/inference.py": ("--rounds", "1"),
    "python scripts/bench/scale.py": ("--count", "200", "--starts", "1", "--heads", "2", "--max_tokens", "128"),
    "python scripts/bench/memory.py": ("--methods", "rapt", "--batch", "2"),
    "python scripts/bench/accuracy.py": ("--seeds", "1", "--epochs", "1", "--rows", "8"),
    "python scripts/bench/trainer_baseline.py": ("--epochs", "1"),
    "python scripts/bench/ascent.py": ("--batches", "1", "--rows", "2"),
}
# And variables of the scripts, where they are not set.
VARIABLES = {"SEEDS": "1", "EXAMPLES": "2", "TRAIN_EXAMPLES": "2"}
PROGRAMS = ("mtrobust", "python", "pip", "tensorboard", "torchrun", "accelerate", "this_python")
PLACES = (
    *("venv/bin/python", "venv/bin/mtrobust", ".venv/bin/ruff", ".venv/bin/mypy", ".venv/bin/python"),
    *("textattack-env/bin/pip", "textattack-env/bin/uv", "textattack-env/bin/textattack"),
    *("scripts/test.sh", "scripts/docs.sh", ".ci/run"),
)


@dataclass
class Ran:
    """How much of a document was run; `passed_over`: commands of `NOT_RUN`."""

    commands: int = 0
    code: int = 0
    passed_over: list[str] = field(default_factory=list)


@cache
def pages() -> ModuleType:
    """The module that makes the generated pages of the site."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs/site/pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(document: str, world: Path) -> Ran:
    """Runs the commands and the Python of a document in its world, in the order of the page."""
    ran, found = Ran(), blocks(document)
    text = ""
    for number, block in enumerate(found):
        if block.kind == "shell":
            text += f"{block.text}\n"
        elif block.kind == "python" and document not in CODE_NOT_RUN:
            text += f"this_python {number}\n"

    def answer(call: live.Call) -> tuple[int, str]:
        line = " ".join(call.words)
        if line.startswith(tuple(NOT_RUN)):
            ran.passed_over.append(line)
            return 0, ""
        with contextlib.chdir(call.folder):
            if call.words[0] == "this_python":
                ran.code += 1
                return 0, execute(found[int(call.words[1])].text, f"{document}, block {call.words[1]}")
            ran.commands += 1
            name = call.words[0].removeprefix("venv/bin/").removeprefix(".venv/bin/")
            return mtrobust(*call.words[1:]) if name == "mtrobust" else _program([name, *call.words[1:]], call)

    live.run(text, world, [*PROGRAMS, *PLACES], answer, variables(world))
    return ran


def variables(world: Path) -> dict[str, str]:
    """What the shell of a guide knows."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    quiet = {name: os.environ[name] for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TOKENIZERS_PARALLELISM")}
    folders = {"VENV": "venv", "DATA": "raw", "MODELS": "models"}
    ours = {f"MTROBUST_{name}": str(world / inside) for name, inside in folders.items()}
    return VARIABLES | quiet | ours | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def mtrobust(*words: str) -> tuple[int, str]:
    """Runs a command of ours in this process: its exit status and all that it printed."""
    from mtrobust.cli import main

    short = SHORT.get(" ".join(words[:2])) or SHORT.get(words[0], ())
    if words[0] == "export":  # a second way to the same folder
        shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            status = main([*words, *short])
        except SystemExit as end:  # after --help
            status = int(end.code or 0)
    return status, out.getvalue()


def _program(words: list[str], call: live.Call) -> tuple[int, str]:
    """Runs another program in a process of its own."""
    line = " ".join(words)
    short = next((flags for start, flags in SHORT_PROGRAMS.items() if line.startswith(start)), ())
    modules = {"torchrun": ["-m", "torch.distributed.run"], "accelerate": ["-m", "accelerate.commands.accelerate_cli"]}
    command = [sys.executable, *modules.get(words[0], []), *words[1:], *short]
    done = subprocess.run(command, env=call.variables, capture_output=True, text=True)
    return done.returncode, done.stdout + (done.stderr if done.returncode else "")


def execute(code: str, name: str) -> str:
    """Runs a piece of Python; what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, name, "exec"), {"__name__": "__main__"})
    return out.getvalue()
