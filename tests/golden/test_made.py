"""The golden tests on cases that they were not written beside; see `made.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.golden.exemptions import Ledger
from tests.golden.fixtures import Comparison, Fixture
from tests.golden.made import write_golden
from tests.golden.test_encoder import test_smart_as_in_mtdnn as smart_as_in_mtdnn


@pytest.fixture(autouse=True)
def _apart(monkeypatch):
    """These ledgers are not of recorded cases, so the table leaves them out."""
    monkeypatch.setattr(Ledger, "all", [])


CASES = [
    ("post_embed", 1, "l2", "nskl"),
    ("post_embed", 3, "inf", "symkl"),
    ("word_embed", 4, "l2", "kl"),
    ("word_embed", 10, "l2", "nssymkl"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-K{case[1]}-{case[3]}")
def test_other_steps_criteria_and_shapes(case, tmp_path: Path):
    folder = write_golden(tmp_path / "golden", [case])
    smart_as_in_mtdnn(folder, Fixture.load(folder))


@pytest.mark.parametrize("field", ["pre_norm_step2", "delta_step2", "delta_final"])
def test_a_wrong_step_is_found(field, tmp_path: Path):
    folder = write_golden(tmp_path / "golden", [("post_embed", 3, "inf", "symkl")])
    file = folder / "encoder" / "smart.npz"
    with np.load(file) as read:
        arrays = {key: 1.01 * read[key] if key.endswith(field) else read[key] for key in read.files}
    np.savez(file, **arrays)
    with pytest.raises(AssertionError, match=rf"{field}: off by"):
        smart_as_in_mtdnn(folder, Fixture.load(folder))


def test_a_criterion_without_a_form_is_named(tmp_path: Path):
    folder = write_golden(tmp_path / "golden", [("post_embed", 1, "inf", "symkl")])
    file = folder / "encoder" / "smart.npz"
    with np.load(file) as read:
        arrays = {key.replace(".symkl/", ".renyi/"): read[key] for key in read.files}
    np.savez(file, **arrays)
    with pytest.raises(KeyError, match="renyi"):
        smart_as_in_mtdnn(folder, Fixture.load(folder))


def test_float32_may_agree_with_the_recorded_float64():
    recorded = {"a/loss_fp32": np.array(1.1), "a/loss": np.array(1.0)}
    for ours, agrees in ((1.1, True), (1.0, True), (1.05, False)):
        comparison = Comparison(Ledger("made"), {key: recorded[key] for key in ("a/loss_fp32", "a/loss")})
        comparison.check("a/loss_fp32", ours, 1e-3, wide="a/loss")
        assert (comparison.wrong == []) == agrees
