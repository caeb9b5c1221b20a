"""What a person sees: lines without escape codes in a pipe, a live table on a terminal."""

from __future__ import annotations

import os
import re
import threading

import pytest
from rich.console import Console

from mtrobust.training.progress import Display, Report, metrics_words, number
from tests.training.fake import trainer

REPORT = Report(4, 0.5, 2e-5, 12.0, 61, {"mood": {"loss": 0.25, "task": 0.2, "rapt/reg": 1e-5}, "a": {"loss": 1.5}})


def run_into(writing, reading, monkeypatch, run, **values):
    """Trains with standard error at one end; what comes out of the other."""
    got: list[bytes] = []

    def drain():
        try:
            while part := os.read(reading, 4096):
                got.append(part)
        except OSError:  # the other end of a terminal was closed
            pass

    reader = threading.Thread(target=drain)
    reader.start()
    with os.fdopen(writing, "w", encoding="utf-8") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        trainer(run, progress="auto", **values).train()
        monkeypatch.undo()
    reader.join(10)
    os.close(reading)
    return b"".join(got).decode("utf-8")


def test_a_pipe_gets_plain_lines(tmp_path, monkeypatch):
    reading, writing = os.pipe()
    text = run_into(writing, reading, monkeypatch, tmp_path, max_steps=9, logging_steps=3, eval_steps=6)
    assert "\x1b" not in text and "\r" not in text
    lines = text.strip().split("\n")
    heads = [line for line in lines if line.startswith("step ")]
    assert [head.split(" · ")[0] for head in heads] == ["step 3/9", "step 6/9", "step 9/9"]
    pattern = r"step \d/9 · epoch \d\.\d\d · lr \d\.\d\de-\d\d · [\d.]+ ex/s · [\d:]+ left"
    assert all(re.fullmatch(pattern, head) for head in heads)
    value = r"(\d+\.\d{3}|\de-\d\d|\d\.\de-\d\d)"
    terms = rf"  [ab]  loss {value}  task {value}  fake/change {value}"
    rows = [line for line in lines if line.startswith("  ")]
    assert rows and all(re.fullmatch(rf"{terms}(  dev @6  acc \d+\.\d\d)?", row) for row in rows)
    after = lines[lines.index(next(line for line in lines if line.startswith("evaluation after step 6: a  acc"))) :]
    assert all("dev @6" in row for row in after if row.startswith("  "))


def test_a_terminal_gets_a_table_that_is_drawn_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    reading, writing = os.openpty()
    text = run_into(writing, reading, monkeypatch, tmp_path, max_steps=9, logging_steps=3, eval_steps=6)
    assert "\x1b[1A" in text  # back up over the lines of the table
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "\n")
    last = plain[plain.rindex("9/9") :].strip().split("\n")
    assert " ex/s · 0:00 left" in last[0]
    for task in ("a", "b"):
        (line,) = [line for line in last if line.startswith(f"{task}  ")]
        assert re.search(r"loss \d\.\d{3}  task \d\.\d{3}  fake/change .*dev @9  acc \d+\.\d\d", line)
    assert "evaluation after step 6: a  acc" in plain


def drawn(display, width=100):
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(display.picture())
    return [line.rstrip() for line in capture.get().rstrip().split("\n")]


def test_the_table_has_a_line_for_each_task():
    display = Display("off", 10, 2)
    assert drawn(display)[0].startswith("2/10 ━")
    display.report(REPORT)
    display.evaluated(4, {"mood": {"acc": 71.236, "hans/acc": 50.0}, "b": {"f1": 3.0}})
    display.step(5)
    display.doing("evaluating")
    head, *lines = drawn(display)
    assert head.startswith("5/10 ━") and head.endswith("epoch 0.50 · lr 2.00e-05 · 12 ex/s · 1:01 left · evaluating")
    assert [line.split() for line in lines] == [
        ["mood", "loss", "0.250", "task", "0.200", "rapt/reg", "1.0e-05", "dev", "@4", "acc", "71.24"],
        ["a", "loss", "1.500"],
        ["b", "dev", "@4", "f1", "3.00"],
    ]
    # a task that was not trained since the last report keeps its line
    display.report(Report(8, 0.9, 1e-5, 12.0, 6, {"a": {"loss": 1.25}}))
    assert "loss 0.250" in drawn(display)[1] and "loss 1.250" in drawn(display)[2]


@pytest.mark.parametrize("width", [30, 60])
def test_lines_of_the_table_are_cut_not_folded(width):
    display = Display("off", 10, 2)
    display.report(REPORT)
    lines = drawn(display, width)
    assert len(lines) == 3 and all(len(line) <= width for line in lines) and "…" in "".join(lines)


def test_a_resumed_run_shows_the_metrics_from_before(capfd):
    display = Display("lines", 10, 4, {"a": {"acc": 50.0}}, 3)
    display.report(REPORT)
    assert "  a     loss 1.500  dev @3  acc 50.00\n" in capfd.readouterr().err
    display = Display("bar", 10, 4)
    display.say("[a] line")
    display.close()
    assert "[a] line" in capfd.readouterr().err


def test_nothing_is_shown_where_nothing_is_wanted(capfd):
    display = Display("off", 10, 0)
    display.report(REPORT)
    display.say("nothing")
    display.close()
    assert capfd.readouterr().err == ""


def test_numbers_and_metrics():
    words = [number(x) for x in (0.0, 1.23456, 0.0123, 0.0004, -2e-7)]
    assert words == ["0.000", "1.235", "0.012", "4.0e-04", "-2.0e-07"]
    many = {"em": 1.0, "f1": 2.0, "hans/acc": 9.0, "c": 3.0, "d": 4.0, "e": 5.0}
    assert metrics_words(many) == "em 1.00  f1 2.00  c 3.00  d 4.00"
