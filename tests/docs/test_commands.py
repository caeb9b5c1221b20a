"""Every command of the documents: its flags and values are read by the command's own parser, and all commands of a
document are run, in order, by a real shell on tiny data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs import checks, guides
from tests.docs.shell import DOCUMENTS, ROOT, Block, Command, blocks, commands, inline, recorded

WITH_SHELL = [name for name in DOCUMENTS if any(block.kind == "shell" for block in blocks(name))]


@pytest.mark.parametrize("name", WITH_SHELL)
def test_every_command_can_be_typed(name: str, tmp_path: Path):
    found = commands(name, tmp_path)
    assert found
    assert [f"{command}: {fault}" for command in found for fault in checks.faults(command)] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_within_the_text_have_flags_that_exist(name: str, tmp_path: Path):
    pages = guides.pages()
    known = {flag for parser in pages.parsers().values() if not isinstance(parser, str)
             for action in parser._actions for flag in action.option_strings}  # fmt: skip
    for text in inline(name):
        words = text.split()
        if words[1:]:
            assert words[1] in pages.COMMANDS or words[1].startswith("--") or words[1].isupper(), f"{name}: {text}"
        flags = [flag.rstrip("]") for flag in re.findall(r"(?<!\S)(--[a-z][\w.]*)", text)]
        odd = [flag for flag in flags if flag not in known and not flag.startswith("--perturb.")]
        assert odd == [], f"{name}: {text}"


@pytest.mark.slow
@pytest.mark.parametrize("name", list(guides.RUN))
def test_the_commands_and_the_python_of_a_guide_run_in_order(name: str, tmp_path: Path, guide_world, monkeypatch):
    guide_world(name, tmp_path / "world")
    monkeypatch.chdir(tmp_path)
    ran = guides.run(name, tmp_path / "world")
    assert ran.commands + ran.code + len(ran.passed_over) > 0
    assert ran.code >= guides.PIECES_OF_PYTHON.get(name, 0)


def test_what_is_left_to_ci_is_run_there():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    steps = ["scripts/install.sh dev", '"$bin/ruff" check .', '"$bin/mypy"', "scripts/docs.sh", "scripts/test.sh all"]
    assert [step for step in steps if step not in script] == []


def test_a_command_that_fails_fails_its_guide(tmp_path: Path, monkeypatch):
    loop = "for x in d*; do mtrobust check --data_dir $x --task_def {}; done | grep label\n"
    pieces = [Block("shell", "mtrobust prep sample --out data\n" + loop.format("none"))]
    monkeypatch.setattr(guides, "blocks", lambda document: pieces)
    with pytest.raises(AssertionError, match="none"):
        guides.run("x.md", tmp_path)
    pieces[:] = [Block("shell", loop.format("$x/task_def.yml"))]
    assert guides.run("x.md", tmp_path).commands == 1


# --- the check itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("mtrobust trian --seed 1", "trian: no such command"),
        ("mtrobust train --task_def glue --lerning_rate 2e-5", "--lerning_rate: unknown flag"),
        ("mtrobust train --learning_rate fast", "--learning_rate: fast: must be a number"),
        ("mtrobust train --perturb rapt --perturb.etaa 2", "etaa"),
        ("mtrobust train r.yml --perturb raptt", "raptt"),
        ("mtrobust evaluate runs/a --tsk mrpc", "--tsk: unknown flag"),
        ("mtrobust prep glu --raw x --out y", "prep glu: unknown"),
        ("mtrobust attack RUN --task mr --mlm M --top_kk 3", "--top_kk: unknown flag"),
        ("torchrun --nproc_per_node 2 -m mtrobust train --sed 1", "--sed: unknown flag"),
        ("SEEEDS=1 scripts/grid.sh", "SEEEDS: not read by it"),
        ("scripts/grid.sh --jobs 2 --bf61", "--bf61: unknown flag"),
        ("scripts/quickstart.sh --fast", "--fast: takes no such argument"),
        ("python scripts/bench/methods.py --modl M", "--modl: unknown flag"),
        ("python scripts/bench/method.py", "no such program"),
        ("python -m tests.golden.tables", "no such module"),
        ("pip install '.[plots]'", "plots: no such extra"),
        ("for run in a b; do mtrobust export $run --task mr --ot x; done", "required: --out"),
    ],
)
def test_a_typing_error_is_found(line: str, fault: str, tmp_path: Path):
    found = [text for command in recorded("x.md", [(0, line)], tmp_path) for text in checks.faults(command)]
    assert any(fault in text for text in found), found


def test_a_program_that_is_not_known_is_found(tmp_path: Path):
    with pytest.raises(AssertionError, match="mtrobsut: command not found"):
        recorded("x.md", [(0, "mtrobsut train")], tmp_path)


def test_a_shell_reads_the_commands(tmp_path: Path):
    text = "A='x y'\nfor i in 1 2; do  # twice\n    OUT=o mtrobust \\\n        embed \"$A\" $i\ndone\n"
    assert recorded("x.md", [(3, text)], tmp_path) == [
        Command("x.md", 3, ("mtrobust", "embed", "x y", number), ("OUT",)) for number in "12"
    ]


# --- what several documents say ---------------------------------------------------------------------------------------


def test_the_first_commands_are_the_same_everywhere():
    first = blocks("README.md")[0]
    assert first == blocks("docs/quickstart.md")[0]
    assert blocks("docs/index.md")[0].text == first.text.split("\n")[0] + "\n"


def test_the_table_for_who_comes_from_run_glue_names_flags_that_exist():
    from mtrobust.config import TrainConfig

    parsers = [parser for parser in guides.pages().parsers().values() if not isinstance(parser, str)]
    known = {flag for parser in parsers for action in parser._actions for flag in action.option_strings}
    text = (ROOT / "docs/from_run_glue.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*) \| (.*) \|$", text, flags=re.MULTILINE)
    assert len(rows) > 30
    for theirs, ours in rows:
        assert set(re.findall(r"(?<![\w-])--[a-z]\w*", ours)) <= known, ours
        if ours.startswith("the same") and "--" in theirs:
            assert set(re.findall(r"--(\w+)", theirs)) <= set(TrainConfig.model_fields), theirs


def test_the_quickstart_page_types_what_its_script_does():
    script = (ROOT / "scripts/quickstart.sh").read_text(encoding="utf-8")
    page = "".join(block.text for block in blocks("docs/quickstart.md") if block.kind == "shell").replace("\\\n", " ")
    trained = [line for line in page.split("\n") if line.startswith("mtrobust train")]
    assert len(trained) == 2
    for line in trained:
        flags = dict(zip(line.split()[2::2], line.split()[3::2], strict=True))
        assert flags["--perturb"] in script and f" {flags['--learning_rate']} " in script
        assert f"--per_device_train_batch_size {flags['--per_device_train_batch_size']}" in script
        assert f"epochs=${{EPOCHS:-{flags['--num_train_epochs']}}}" in script
        assert f"--perturb.eta {flags.get('--perturb.eta', '0.5')}" in script
