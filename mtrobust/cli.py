"""The `mtrobust` command. This module imports nothing heavy; a subcommand's room is imported when it runs.

Exit codes: 0 done · 1 a failure during the run (one line) · 2 bad input, found before any work (one line per fault) ·
130 stopped with Ctrl-C or by a termination signal · 141 the reader of the output went away. An exception that is
neither of the kinds in `mtrobust.errors` nor a trouble of the machine (disk full, no permission, a folder gone or a
file in its place) is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from mtrobust import __version__
from mtrobust.errors import RunError, UserError
from mtrobust.registry import suggestion

# name -> (module with `run(argv)`, one line of help), in the order in which one meets them
COMMANDS = {
    "prep": ("mtrobust.commands.prep", "raw benchmark files (or the hub) to rows, with counts and every rejected line"),
    "check": ("mtrobust.commands.check", "validate task definitions, and the rows where a data folder is given"),
    "convert": ("mtrobust.commands.convert", "MT-DNN's task definitions and data in the forms of this package"),
    "train": ("mtrobust.commands.train", "fine-tune one encoder jointly on the tasks of a task definition"),
    "status": ("mtrobust.commands.status", "where runs stand: how far, how well, whether they still run"),
    "evaluate": ("mtrobust.commands.evaluate", "metrics of a finished run on a labelled split"),
    "predict": ("mtrobust.commands.predict", "predictions of a finished run for a file of rows, or a GLUE submission"),
    "attack": ("mtrobust.commands.attack", "right predictions of a finished run that survive an attack on the text"),
    "embed": (
        "mtrobust.commands.embed",
        "hidden states of a run's encoder, pooled or of every token",
    ),
    "export": ("mtrobust.commands.export", "one task of a run as a plain Hugging Face model folder"),
    "report": ("mtrobust.commands.report", "tables and plots that compare finished runs over seeds and methods"),
    "analyze": (
        "mtrobust.commands.analyze",
        "what the methods of finished runs do to states and posteriors: data and pictures",
    ),
    "methods": ("mtrobust.commands.methods", "the perturbation methods with their options and defaults"),
    "tasks": ("mtrobust.commands.tasks", "the task types, and the keys of a task definition"),
    "doctor": ("mtrobust.commands.doctor", "what this machine and installation can do: versions, devices, speed"),
}
# troubles of the machine, not of the program: one line says what to do, a traceback would not
_MACHINE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; prints faults to standard error, one a line."""
    words = list(sys.argv[1:] if argv is None else argv)
    _log_to_stderr()
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _fail(error.faults, 2)
    except RunError as error:
        return _fail([str(error)], error.exit_code)
    except KeyboardInterrupt:
        return _fail(["stopped by Ctrl-C"], 130)
    except BrokenPipeError:
        # nothing may be written to the pipe any more, not even when the interpreter flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in _MACHINE:
            raise
        return _fail([": ".join(filter(None, [str(error.filename or ""), error.strerror or str(error)]))], 1)
    except SystemExit as error:  # argparse after --help
        return error.code if isinstance(error.code, int) else 0


def _dispatch(words: list[str]) -> int:
    if not words:
        print(_help(), file=sys.stderr)
        return 2
    name, *rest = words
    if name in ("-h", "--help", "help"):
        print(_help())
        return 0
    if name in ("-V", "--version"):
        print(f"mtrobust {__version__}")
        return 0
    if name not in COMMANDS:
        kind = "flag" if name.startswith("-") else "command"
        raise UserError(f"{name}: unknown {kind}{suggestion(name, COMMANDS)} (commands: {', '.join(COMMANDS)})")
    return int(importlib.import_module(COMMANDS[name][0]).run(rest))


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mtrobust COMMAND [ARGUMENTS]",
            "",
            "Robust multi-task fine-tuning of pretrained encoders.",
            "",
            *lines,
            "",
            "mtrobust COMMAND --help says more · mtrobust --version",
        ]
    )


class _Stderr(logging.Handler):
    """Writes to whatever standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        print(level + self.format(record), file=sys.stderr)


def _log_to_stderr() -> None:
    """The package's own log lines become lines on standard error; of several processes the first one's."""
    logger = logging.getLogger("mtrobust")
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        logger.addHandler(_Stderr())
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)


def _fail(faults: Sequence[str], code: int) -> int:
    """Prints faults; under a launcher of several processes the first one speaks for input that all of them read."""
    if code != 2 or os.environ.get("RANK", "0") == "0":
        for fault in faults:
            print(f"error: {' '.join(fault.split())}", file=sys.stderr)
    return code
