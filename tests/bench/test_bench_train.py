"""Processes that take turns, and the benchmark of training on a tiny model: what it reports, what it refuses."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"
# A side without anything to load: notes each of its turns in one file that all sides share.
SIDE = """
import json, sys
from common import Chunks, Turns
settings = json.loads(sys.argv[1])
print("chatter")
turns = Turns()
chunks = Chunks(turns, chunk=2, batch=8)
for step in range(9):
    if step >= settings.get("lasts", 9):
        sys.exit("out of ideas")
    with open(settings["notes"], "a") as notes:
        print(settings["me"], step, file=notes)
    print("more chatter")
    chunks.step()
"""


@pytest.fixture
def common() -> ModuleType:
    """scripts/bench/common.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("bench_common", BENCH / "common.py")
    assert spec and spec.loader
    sys.modules["bench_common"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Folder with 13 training rows of MR and of MRPC."""
    words = ["a clear film", "the old bridge was built near the river", "no cat", "some dogs chased the cat"]
    for task, labels in (("mr", ["negative", "positive"]), ("mrpc", ["not_equivalent", "equivalent"])):
        (tmp_path / "data" / task).mkdir(parents=True)
        rows = [{"text": words[i % 4], "label": labels[i % 2]} for i in range(13)]
        if task == "mrpc":
            rows = [{**row, "text_pair": words[i % 3]} for i, row in enumerate(rows)]
        for split in ("train", "dev"):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / "data" / task / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path / "data"


def bench(data: Path, model: Path, *flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCH / "train.py", "--model", model, "--data_dir", data, "--threads", 1, *flags]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=BENCH.parents[1])


def sides_of(common: ModuleType, folder: Path, **further: dict) -> list:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(BENCH)!r})\n{SIDE}"]
    return [
        common.Side(name, command, {"me": name, "notes": str(folder / "notes"), **further.get(name, {})})
        for name in ("a", "b")
    ]


def test_one_side_works_at_a_time_and_each_round_begins_with_another(common: ModuleType, tmp_path: Path):
    records = common.take_turns(sides_of(common, tmp_path), 2, 1, tmp_path / "sides", warm_up=1)
    assert {name: [record["examples"] for record in found] for name, found in records.items()} == {
        "a": [16, 16],
        "b": [16, 16],
    }
    assert all(record["seconds"] > 0 for found in records.values() for record in found)
    # The first step belongs to the start, which is in the order of the sides; then two steps a turn.
    assert (tmp_path / "notes").read_text(encoding="utf-8").split("\n")[:-1] == [
        *("a 0", "b 0"),
        *("a 1", "a 2", "b 1", "b 2"),
        *("b 3", "b 4", "a 3", "a 4"),
        *("a 5", "a 6", "b 5", "b 6"),
    ]


@pytest.mark.parametrize("lasts", [0, 2, 4])
def test_a_side_that_fails_ends_all_with_its_error_output(common: ModuleType, tmp_path: Path, lasts: int):
    sides = sides_of(common, tmp_path, b={"lasts": lasts})
    with pytest.raises(SystemExit, match=r"b: its process ended with code 1(.|\n)*out of ideas"):
        common.take_turns(sides, 3, 1, tmp_path / "sides")
    assert all(side._process.returncode is not None for side in sides)


def test_ratios(common: ModuleType):
    records = {
        "base": [{"examples": 10, "seconds": 1.0}, {"examples": 10, "seconds": 2.0}, {"examples": 10, "seconds": 2.0}],
        "fast": [{"examples": 10, "seconds": 0.5}, {"examples": 10, "seconds": 0.5}, {"examples": 10, "seconds": 1.0}],
    }
    base, fast = common.compared(records, ["base"])
    assert (base["side"], base["examples/s"], base["seconds"]) == ("base", 6.0, [1.0, 2.0, 2.0])
    assert base["over base"] == {"ratio": 1, "low": 1, "high": 1, "totals": 1}
    assert (fast["side"], fast["examples/s"], fast["seconds"]) == ("fast", 15.0, [0.5, 0.5, 1.0])
    assert fast["over base"] == {"ratio": 2, "low": 2, "high": 4, "totals": 2.5}


def test_all_faults_of_the_flags_at_once(data: Path):
    (data / "mr" / "train.jsonl").write_text('{"text": "a film"}\n' * 20, encoding="utf-8")
    done = bench(
        data, Path("unread"), "--tasks", "mr,mrpc,stsb,imdb,mrcp", "--batch", 14,
        "--sides", "trainer:pad64,trainer:pad128,standard", "--methods", "smrt,rapt+eta=-1",
    )  # fmt: skip
    assert done.returncode == 2
    lines = done.stderr.strip().split("\n")
    expected = [
        "--tasks: mr: .* has rows without a label; each must have one",
        "--batch: 14: .* has 13 rows; must be at most that",
        "--tasks: stsb: is of type Regression; must be",
        "--tasks: imdb: cuts texts at max_len 256; must cut at 128",
        "--tasks: mrcp: must be one of cola, ",
        "--sides: trainer:pad64: must be trainer:pad128 or trainer:dynamic",
        "--methods: smrt: .*did you mean 'smart'",
        "--methods: rapt.eta=-1: .*rapt.eta: -1: ",
    ]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.match(pattern, line), line


@pytest.mark.slow
def test_both_loops_side_by_side(data: Path, tiny_model_dir, tmp_path: Path):
    sides = ["trainer:pad128", "trainer:dynamic", "standard:bf16", "rapt+layers=2"]
    done = bench(
        data, tiny_model_dir("bert"), "--rounds", 2, "--chunk", 2, "--batch", 4, "--json", tmp_path / "out" / "t.json",
        "--sides", ",".join(sides[:3]), "--methods", sides[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "out" / "t.json").read_text(encoding="utf-8"))
    assert [(row["task"], row["side"]) for row in found["rows"]] == [("mrpc", side) for side in sides]
    for row in found["rows"]:
        assert row["examples/s"] > 0 and len(row["seconds"]) == 2
        assert row["side"] in done.stdout
        for base in sides[:2]:
            spread = row[f"over {base}"]
            assert set(spread) == {"ratio", "low", "high", "totals"} and min(spread.values()) > 0
    assert found["rows"][0]["over trainer:pad128"] == {"ratio": 1, "low": 1, "high": 1, "totals": 1}
    facts = {"rounds": 2, "chunk": 2, "batch": 4, "threads": 1, "model": tiny_model_dir("bert").name}
    assert facts.items() <= found["facts"].items() and {"torch", "transformers", "load"} <= found["facts"].keys()


@pytest.mark.slow
def test_a_loop_that_cannot_start_ends_the_benchmark(data: Path, tiny_model_dir):
    done = bench(data, tiny_model_dir("bert"), "--tasks", "mr", "--batch", 4, "--sides", "rapt+layers=7,standard")
    assert done.returncode == 1
    assert "rapt+layers=7: its process ended" in done.stderr and "the encoder has 3 layers" in done.stderr
    assert done.stdout == ""
