"""What the files say, and that they can be read by what they are for."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mtrobust.evaluation.report import plots
from mtrobust.evaluation.report.choose import find_sweep
from mtrobust.evaluation.report.formats import csv_text, json_text, latex, latex_text, markdown
from mtrobust.evaluation.report.groups import Group, group_runs
from mtrobust.evaluation.report.html_page import page
from mtrobust.evaluation.report.runs import find_runs, read_runs
from mtrobust.evaluation.report.sheets import Bold, Sheet, number, sheets
from mtrobust.evaluation.report.table import Report, Settings, make_report
from tests.evaluation.report.fake import method, write_lines, write_run


@pytest.fixture
def made(tmp_path: Path) -> tuple[Report, list[Group]]:
    """Two settings of `rapt` and `standard`, two seeds, figures of two columns, curves of three steps."""
    gains = {"standard": 0.0, "rapt layers=1": 4.0, "rapt layers=2": 0.5}
    for name, gain in gains.items():
        for seed in (1, 2):
            spec = method("rapt", layers=name[-1]) if "layers" in name else []
            figures = {"mr": {"acc": 80.0 + seed + gain + (0.001 * seed if gain else 0), "test/f1": None}}
            run = write_run(tmp_path / f"{name.replace(' ', '_')}-{seed}", spec, seed, figures)
            steps = [
                {"step": s, "train": {"mr": {"loss": 1 / s}}, "eval": {"mr": {"acc": 70.0 + s}}} for s in (1, 2, 3)
            ]
            write_lines(run / "metrics.jsonl", steps)
    groups = group_runs(read_runs(find_runs([str(tmp_path)])))
    report = make_report(groups, Settings())
    report.missing = ["vda | & <b>: no run"]
    return report, groups


def test_markdown_has_rows_of_equal_width_and_names_the_gaps(made):
    report, groups = made
    text = markdown(report, sheets(report, [find_sweep(groups, "perturb.rapt.layers")]))
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        assert len({len(line) for line in table.strip().split("\n")}) == 1
    assert "| standard      | 81.5 ± 0.7 | -          | 1-2   | 1.00 × |" in text
    assert "| **+4.0 [4.0, 4.0] (s)** | - |" in re.sub(" +", " ", text)
    assert "## Missing\n\n- vda | & <b>: no run\n" in text and "## mr/acc by rapt.layers" in text


def test_a_cell_with_a_bar_stays_one_cell():
    report = Report("standard", [], [])
    text = markdown(report, [Sheet("T", ["a|b", "c"], [["x", Bold("1|2")]])])
    assert "| a\\|b | c        |" in text and "| x    | **1\\|2** |" in text


def test_latex_rows_have_as_many_cells_as_the_header_says(made):
    text = latex(made[0], sheets(made[0]))
    for spec, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, flags=re.DOTALL):
        rows = [line for line in body.split("\n") if line.endswith(r"\\")]
        assert rows and {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(spec)}
        assert body.count(r"\toprule") == body.count(r"\midrule") == body.count(r"\bottomrule") == 1
    assert "% Missing: vda" in text and r"$\pm$" in text and r"\textbf{+4.0" in text
    assert latex_text("a_b 50 % & -2.0 [-1.0] x-y") == r"a\_b 50 \% \& $-$2.0 [$-$1.0] x-y"


def test_csv_and_json_hold_all_digits_and_every_seed(made):
    report, _ = made
    rows = list(csv.DictReader(io.StringIO(csv_text(report))))
    assert [row["method"] for row in rows] == ["standard", "rapt layers=1", "rapt layers=2"]
    assert float(rows[1]["mean"]) == pytest.approx(85.5015) and rows[1]["seeds"] == "1 2"
    assert float(rows[1]["difference"]) == pytest.approx(4.0015) and rows[1]["interval_of"] == "seeds"
    assert rows[0]["difference"] == "" and rows[0]["why_no_difference"] == "baseline"
    content = json.loads(json_text(report))
    cell = content["rows"][1]["columns"]["mr/acc"]
    assert cell["values"] == pytest.approx([85.001, 86.002]) and cell["seeds"] == [1, 2]
    assert content["missing"] == report.missing and content["columns"] == ["mr/acc", "mr/test/f1"]


def test_many_columns_are_rows(tmp_path: Path):
    figures = {f"m{i}": float(i) for i in range(9)}
    for seed in (1, 2):
        write_run(tmp_path / f"s-{seed}", [], seed, {"mr": figures})
        write_run(tmp_path / f"r-{seed}", method("rapt"), seed, {"mr": {name: x + seed for name, x in figures.items()}})
    tables = sheets(make_report(group_runs(read_runs(find_runs([str(tmp_path)]))), Settings()))
    assert tables[0].header == ["", "standard", "rapt"] and [row[0] for row in tables[0].rows][-2:] == ["seeds", "time"]
    assert tables[0].rows[3] == ["mr/m3", "3.0 ± 0.0", "4.5 ± 0.7"]
    assert tables[1].header == ["", "rapt"] and tables[1].rows[3] == ["mr/m3", "+1.5 [-4.9, 7.9] (s)"]
    alone = sheets(make_report(group_runs(read_runs(find_runs([str(tmp_path / "r-*")]))), Settings()))
    assert [sheet.title for sheet in alone] == ["Figures"]


def test_numbers():
    shown = [number(1.25), number(-0.04), number(0.0, sign=True), number(None), number(float("nan"))]
    assert shown == ["1.2", "0.0", "0.0", "-", "-"]
    assert [number(x, sign=True) for x in (0.06, -0.04, -2)] == ["+0.1", "0.0", "-2.0"]


class Page(HTMLParser):
    """Tags and attributes; fails on what is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_refers_to_nothing_outside(made):
    report, _ = made
    report.plots = [("figures-x", 'a "caption" <1>')]
    text = page(report, sheets(report), {"figures-x": b"<svg/>"})
    found = Page(text)
    links = [value for _, name, value in found.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert links == ["data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode("ascii")]
    tags = {tag for tag, *_ in found.attributes} | set(re.findall(r"<(\w+)", text))
    assert not tags & {"script", "link", "iframe", "object", "embed"}
    assert not re.search(r"https?:|url\(|@import", text)
    assert "vda | & <b>: no run" in found.text and 'a "caption" <1>' in found.text and "81.5 ± 0.7" in found.text


def test_pictures_of_figures_sweeps_and_curves(made):
    pytest.importorskip("matplotlib")
    report, groups = made
    sweep = find_sweep(groups, "perturb.rapt.layers")
    drawn = {picture.stem: picture for picture in plots.draw(report, groups, [sweep])}
    assert sorted(drawn) == [
        "curve-mr.acc", "curve-mr.loss", "figures-mr.acc", "sweep-perturb.rapt.layers-mr.acc",
    ]  # fmt: skip
    for picture in drawn.values():
        assert picture.png.startswith(b"\x89PNG") and picture.svg.rstrip().endswith(b"</svg>") and picture.caption
        assert not re.search(rb'(href|src)="(?!#)', picture.svg)  # nothing outside
        assert int.from_bytes(picture.png[16:20], "big") == 1600  # pixels: 800 at twice the density
    again = {picture.stem: picture.svg for picture in plots.draw(report, groups, [sweep])}
    assert again == {stem: picture.svg for stem, picture in drawn.items()}  # the same input, the same files


def test_many_methods_have_panels_of_their_own(tmp_path: Path):
    pytest.importorskip("matplotlib")
    for name in ("standard", "rapt", "smart", "vat", "rpt", "freelb"):
        run = write_run(tmp_path / name, method(name), 1, {"mr": {"acc": 80.0}})
        write_lines(run / "metrics.jsonl", [{"step": s, "train": {"mr": {"loss": 1.0}}} for s in (1, 2)])
    groups = group_runs(read_runs(find_runs([str(tmp_path)])))
    report = make_report(groups, Settings())
    (curve,) = [picture for picture in plots.draw(report, groups, []) if picture.stem == "curve-mr.loss"]
    assert curve.caption.endswith("black: standard.")
