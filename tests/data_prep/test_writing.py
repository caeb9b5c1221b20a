"""Streams to files: all or nothing, what is counted and shown, gzipped raw files, the progress line."""

from __future__ import annotations

import gzip

import pytest

from data_prep.common import Reject
from data_prep.progress import Progress, duration
from data_prep.readers import read_jsonl
from data_prep.writing import Tally, write_task
from mtrobust.errors import RunError, UserError
from tests.data_prep.helpers import rows, write


def numbered(n, label="x"):
    return [{"id": str(i), "text": f"t\u2028{i}", "label": label} for i in range(n)]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [UserError("bad"), KeyboardInterrupt()])
def test_a_stream_that_breaks_off_changes_nothing(tmp_path, error):
    def broken():
        yield from numbered(3)
        raise error

    write(tmp_path / "t/train.jsonl", "old")
    with pytest.raises(type(error)):
        write_task(tmp_path, "t", {"train": numbered(2), "dev": broken()})
    assert files(tmp_path / "t") == ["train.jsonl"]
    assert (tmp_path / "t/train.jsonl").read_text(encoding="utf-8") == "old\n"
    with pytest.raises(type(error)):
        write_task(tmp_path / "new", "t", {"dev": broken()})
    assert not (tmp_path / "new").exists()


def test_rows_are_on_disk_before_the_stream_ends(tmp_path):
    """A set larger than the memory goes through: what was read is not kept."""
    sizes = []

    def long():
        yield from numbered(20_000)
        sizes.append(sum(path.stat().st_size for path in (tmp_path / "t").iterdir()))

    write_task(tmp_path, "t", {"train": long()})
    assert sizes[0] > 500_000
    assert rows(tmp_path / "t/train.jsonl") == numbered(20_000)


def test_repeated_reasons_are_counted(tmp_path, capsys):
    rejects = [Reject(f"f:{i}", "no gold label") for i in range(30)] + [Reject("f:31", "once")]
    write_task(tmp_path, "t", {"dev": [*numbered(1), *rejects]})
    out = capsys.readouterr().out
    assert "1 rows    31 rejected" in out and "and 21 more in t/dev.rejects.jsonl" in out
    assert "30 times: no gold label" in out and "times: once" not in out
    assert len(rows(tmp_path / "t/dev.rejects.jsonl")) == 31


def test_labels_in_a_line():
    tally = Tally()
    for label in (1.0, 2.5, None):
        tally.add({"id": "a", "label": label})
    assert tally.described() == "min 1, mean 1.750, max 2.5"
    tally = Tally()
    for row in ({"label": "b"}, {"label": "a"}, {"label": "b"}, {}):
        tally.add(row)
    assert tally.described() == "a 1 (25.0 %), b 2 (50.0 %), unlabelled 1 (25.0 %)"


def test_a_full_disk_is_a_failure_of_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    write(tmp_path / "t/train.jsonl", "old")
    monkeypatch.setattr("data_prep.writing.os.fsync", full)
    with pytest.raises(RunError, match="train.jsonl: cannot be written .No space left"):
        write_task(tmp_path, "t", {"train": numbered(2)})
    assert files(tmp_path / "t") == ["train.jsonl"]


def test_gzipped_lines_and_damaged_ones(tmp_path):
    packed = gzip.compress(b'\xef\xbb\xbf{"a": 1}\n{"a": "\xc2\x85"}\n')
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    assert [r.fields["a"] for r in read_jsonl(tmp_path / "a.jsonl.gz", ())] == [1, "\x85"]
    for content in (packed[:-12], b"plain text", packed[:10] + b"\0\0\0\0" + packed[14:]):
        (tmp_path / "a.jsonl.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.jsonl\.gz:\d+: the gzip file is damaged"):
            list(read_jsonl(tmp_path / "a.jsonl.gz", ()))


def test_the_progress_line(capsys):
    progress = Progress("t: ssmba", total=100, done=20)
    progress.step(40)
    assert progress.line(progress.began + 10) == "t: ssmba: 60/100 rows, 4/s, 0:10 left"
    progress.next = 0.0
    progress.step()
    assert "t: ssmba: 61/100 rows" in capsys.readouterr().err
    assert Progress("x").line(0.0) == "x: 0 rows, 0/s"
    assert [duration(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_a_first_line_that_is_not_json(tmp_path):
    path = write(tmp_path / "a.jsonl", "{", '{"a": 1}', "{", '{"b": 1}')
    found = [item.reason if isinstance(item, Reject) else item.fields for item in read_jsonl(path, ("a",))]
    assert found[1] == {"a": 1} and found[3] == "a: missing"
    assert found[0].startswith("not JSON") and found[2].startswith("not JSON")
