"""The recorded files under encoder/ as a whole: no field without a test that answers for it, scalars repeated alike."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.golden.fixtures import PARTS
from tests.golden.test_uniformity import FILE


def test_every_file_has_its_tests(golden: Path) -> None:
    files = {path.name for path in (golden / "encoder").iterdir()}
    assert files == {f"{name}.npz" for name in PARTS} | {"scalars.json", f"{FILE}.json"}


@pytest.mark.parametrize("name", PARTS)
def test_every_field_belongs_to_exactly_one_test(golden: Path, name: str) -> None:
    """That test's ledger then compares the field or finds it exempt."""
    with np.load(golden / "encoder" / f"{name}.npz") as file:
        owners = {key: [part for part, pattern in PARTS[name].items() if re.match(pattern, key)] for key in file.files}
    assert {key: parts for key, parts in owners.items() if len(parts) != 1} == {}


def test_scalars_are_those_of_the_arrays(golden: Path) -> None:
    scalars = json.loads((golden / "encoder" / "scalars.json").read_text(encoding="utf-8"))
    assert scalars.keys() == {f"{name}.npz" for name in PARTS}
    for name, values in scalars.items():
        with np.load(golden / "encoder" / name) as file:
            recorded = {key: file[key] for key in file.files if file[key].shape == ()}
        assert values.keys() <= recorded.keys()
        assert {key for key in recorded if recorded[key].dtype.kind == "f"} <= values.keys()
        wrong = {k: v for k, v in values.items() if v != recorded[k] and not np.isclose(v, recorded[k], 1e-12, 0)}
        assert wrong == {}
