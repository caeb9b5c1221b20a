"""The built package: every file of the three packages, and it runs in an empty environment in another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.test_tree import ROOT, project_files

pytestmark = pytest.mark.slow

# folder in the checkout -> folder in the wheel
HOMES = {"mtrobust": "mtrobust", "data_prep": "mtrobust/data_prep", "task_defs": "mtrobust/task_defs"}
BUILD = """
import sys, tarfile
from pathlib import Path
from setuptools import build_meta

out = Path(sys.argv[1])
source = build_meta.build_sdist(str(out))
with tarfile.open(out / source) as archive:
    archive.extractall(out, filter="data")
import os
os.chdir(out / source.removesuffix(".tar.gz"))
print(build_meta.build_wheel(str(out)))
"""


def run(command: list[str], **more) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **more)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made from the source archive, made from a copy of the project's files."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for path in project_files():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, copy / path)
    name = run([sys.executable, "-c", BUILD, str(out)], cwd=copy).strip().split("\n")[-1]
    return out / name


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the programs of an environment that holds the wheel, and sees only the libraries of this one."""
    home = tmp_path_factory.mktemp("venv")
    run([sys.executable, "-m", "venv", "--without-pip", str(home)])
    programs = home / ("Scripts" if os.name == "nt" else "bin")
    site = Path(run([str(programs / "python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    # A plain path line: libraries are found, but .pth files beside them (an editable mtrobust) are not read.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python")]
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", str(wheel)])
    return programs


def test_the_wheel_has_every_file_of_the_packages(wheel: Path):
    expected = {
        "/".join((HOMES[path.parts[0]], *path.parts[1:]))
        for path in project_files()
        if path.parts[0] in HOMES and path.name != ".gitignore"
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["methods"], ["tasks"], ["check", "--task_def", "glue,squad,textcls"], ["prep", "sample", "--help"]],
    ids=" ".join,
)
def test_the_installed_command_runs_in_another_folder(installed: Path, tmp_path: Path, arguments: list[str]):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    assert run([str(installed / "mtrobust"), *arguments], cwd=tmp_path, env=environment)


def test_the_installed_package_is_the_wheel_not_the_checkout(installed: Path, tmp_path: Path):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    code = "import mtrobust.data_prep as d, mtrobust.task_defs as t; print(*d.__path__, *t.__path__)"
    printed = run([str(installed / "python"), "-c", code], cwd=tmp_path, env=environment)
    assert str(ROOT) not in printed
