"""A real shell, whose programs are answered by this process: loops, globs, pipes and scripts are the shell's own, and a
command of ours costs no start of Python."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

CLIENT = Path(__file__).with_name("client.py")


@dataclass(frozen=True)
class Call:
    """A call of a program: its words (the program's name first), folder, and variables."""

    words: list[str]
    folder: str
    variables: dict[str, str]


Answer = Callable[[Call], tuple[int, str]]  # exit status, output


def run(text: str, folder: Path, programs: Iterable[str], answer: Answer, variables: dict[str, str]) -> None:
    """Runs shell text in a folder. programs: those that `answer` stands for: paths below the folder, or names that are
    found before the system's. Asserts that the shell ended well."""
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as server:  # a socket's path is short
        server.bind(f"{place}/calls")
        server.listen(16)
        server.settimeout(0.2)
        for program in programs:
            _stand_in(folder / program if "/" in program else Path(place) / "bin" / program, program, f"{place}/calls")
        script, log = Path(place) / "all.sh", Path(place) / "log"
        script.write_text(text, encoding="utf-8")
        environment = {"PATH": f"{place}/bin:/usr/bin:/bin", "HOME": str(folder), **variables}
        with log.open("wb") as out:
            shell = subprocess.Popen(["/bin/bash", "-eux", str(script)], cwd=folder, env=environment, stdout=out,
                                     stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
            try:
                _serve(server, shell, answer)
            finally:
                if shell.poll() is None:
                    os.killpg(shell.pid, signal.SIGKILL)
                    shell.wait()
        assert shell.returncode == 0, log.read_text(encoding="utf-8", errors="replace")[-4000:]


def _stand_in(path: Path, name: str, address: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{CLIENT}" "{address}" {name} "$@"\n', encoding="utf-8")
    path.chmod(0o755)


def _serve(server: socket.socket, shell: subprocess.Popen[bytes], answer: Answer) -> None:
    """Answers calls, one at a time, until the shell has ended."""
    while True:
        try:
            connection, _ = server.accept()
        except TimeoutError:
            if shell.poll() is not None:
                return
            continue
        with connection, connection.makefile("rwb") as stream:
            status, output = answer(Call(**json.loads(stream.read())))
            stream.write(json.dumps({"status": status, "output": output}).encode())
