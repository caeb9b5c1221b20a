"""`mtrobust doctor`: what it finds, and what its exit code says."""

from __future__ import annotations

import json

import pytest

from mtrobust.commands import machine
from mtrobust.files import refusal


def test_the_report_as_json(mtrobust):
    ended = mtrobust("doctor", "--json", "--seconds", 0.05)
    found = json.loads(ended.out)
    assert (ended.code, found["problems"], ended.err) == (0, [], "")
    for name in ("python", "torch", "transformers"):
        assert found["packages"][name]["version"] and found["packages"][name]["ok"]
    assert found["devices"]["cpu"]["threads"] >= 1 and found["devices"]["cpu"]["usable"] >= 1
    speed = found["speed"]
    assert all(speed[name] > 0 for name in ("steps_per_second", "gflops", "gflops_bf16"))
    assert speed["bf16_ratio"] == pytest.approx(speed["gflops_bf16"] / speed["gflops"])
    assert speed["bf16_hardware"] in (True, False, None)
    assert set(found["variables"]) == set(machine.VARIABLES) and all(c["ok"] for c in found["caches"].values())


def test_the_report_as_text_without_a_speed_test(mtrobust, monkeypatch):
    monkeypatch.setattr(machine, "speed", lambda seconds: pytest.fail("measured"))
    monkeypatch.setenv("HF_HOME", "somewhere")
    ended = mtrobust("doctor", "--seconds", 0)
    assert ended.code == 0 and "torch " in ended.out and "  HF_HOME=somewhere - " in ended.out
    assert ended.out.endswith("all that training needs is there\n") and "GFLOP" not in ended.out


def packages(**changed):
    entry = {"version": "1.0", "required": ">=1", "ok": True, "extras": []}
    return {"torch": entry, "drawing": entry | {"extras": ["plot"]}} | changed


def test_a_missing_requirement_is_a_problem_and_a_missing_extra_is_not(mtrobust, monkeypatch):
    lacking = {"version": None, "required": ">=3", "ok": False, "extras": ["plot"]}
    monkeypatch.setattr(machine, "versions", lambda: packages(drawing=lacking))
    ended = mtrobust("doctor", "--seconds", 0)
    assert ended.code == 0 and "  plot      missing: drawing (pip install 'mtrobust[plot]') - plots of" in ended.out
    monkeypatch.setattr(machine, "versions", lambda: packages(torch=lacking | {"extras": []}))
    ended = mtrobust("doctor", "--seconds", 0)
    assert ended.code == 1 and ended.out.endswith("problem: torch is not installed: >=3 is needed\n")


def test_what_does_not_work_is_told(mtrobust, monkeypatch, tmp_path):
    def broken():
        raise ImportError("libsomething.so")

    (tmp_path / "file").touch()
    monkeypatch.setattr(machine, "devices", broken)
    monkeypatch.setattr(machine, "caches", lambda: {"models": {"path": "m", "ok": refusal(tmp_path / "file") is None}})
    ended = mtrobust("doctor", "--json", "--seconds", 0)
    assert ended.code == 1 and json.loads(ended.out)["problems"] == [
        "PyTorch or Transformers does not work: ImportError: libsomething.so",
        "models: m: cannot be written",
    ]


def test_folders_that_are_not_there_yet(tmp_path):
    assert refusal(tmp_path / "a" / "b") is None and not (tmp_path / "a").exists()


def test_work_takes_turns():
    seen = []
    rates = machine.rates([lambda: seen.append("a"), lambda: seen.append("b")], lambda: None, 0.001)
    assert "".join(seen).replace("ab", "") == "" and len(seen) >= 4 and all(rate > 0 for rate in rates)


@pytest.mark.parametrize("words", [["--seconds", "x"], ["--seconds", "-1"], ["--fast"], ["extra"]])
def test_bad_flags_are_one_line(words, mtrobust):
    ended = mtrobust("doctor", *words)
    assert ended.code == 2 and ended.err.count("\n") == 1 and words[-1] in ended.err
