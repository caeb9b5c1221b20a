"""LayerSpec: every spelling, every fault, and the encoder's bounds."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from mtrobust.errors import UserError
from mtrobust.perturb.layers import LayerSpec


@pytest.mark.parametrize(
    ("value", "sites"),
    [
        ("words", ["words"]),
        ("embeddings", [0]),
        ("0", [0]),
        (0, [0]),
        (3, [3]),
        (" 3 ", [3]),
        ("1-3", [1, 2, 3]),
        ("1 - 3", [1, 2, 3]),
        ("0-1", [0, 1]),
        ("all", [1, 2, 3, 4, 5, 6]),
        ("ALL", [1, 2, 3, 4, 5, 6]),
        ("embeddings,2-4", [0, 2, 3, 4]),
        ("[embeddings, 2-4]", [0, 2, 3, 4]),
        (["embeddings", "2-4"], [0, 2, 3, 4]),
        (["2-4", 3, "words", 0], ["words", 0, 2, 3, 4]),
        (("5-6", ["all"]), [1, 2, 3, 4, 5, 6]),
        (["words,embeddings", "all"], ["words", 0, 1, 2, 3, 4, 5, 6]),
        ("6", [6]),
    ],
)
def test_spellings(value: object, sites: list) -> None:
    spec = LayerSpec.parse(value)
    assert spec.resolve(6) == sites
    assert LayerSpec.parse(str(spec)) == spec
    assert LayerSpec.parse(spec) is spec


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "no layer is named"),
        ([], "no layer is named"),
        ("embedings", "did you mean 'embeddings'"),
        ("word", "did you mean 'words'"),
        ("3-1", "'3-1' is an empty range"),
        ("-1", "'-1' is not a layer"),
        (-1, "-1 is not a layer"),
        (1.5, "1.5 is not a layer"),
        (True, "True is not a layer"),
        (None, "None is not a layer"),
        ({"layers": 1}, "is not a layer"),
        ("1-", "'1-' is not a layer"),
        ("\u0663", "is not a layer"),
        ("99999999999999999999", "is not a layer"),
        ("1-3,x,y", "'x' is not a layer; 'y' is not a layer"),
    ],
)
def test_faults_name_the_part_and_what_is_allowed(value: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        LayerSpec.parse(value)
    assert message in str(caught.value)
    assert "allowed: words, embeddings (= 0)" in str(caught.value)


def test_bounds_are_checked_against_the_encoder() -> None:
    with pytest.raises(UserError) as caught:
        LayerSpec.parse("1,5-7,9").resolve(6)
    assert caught.value.faults == [
        "layers: 5-7: the encoder has 6 layers; allowed: words, embeddings (= 0), 1-6",
        "layers: 9: the encoder has 6 layers; allowed: words, embeddings (= 0), 1-6",
    ]
    with pytest.raises(UserError, match="^smart.layers: 7: "):
        LayerSpec.parse(7).resolve(6, place="smart.layers")


def test_as_a_field_of_a_model() -> None:
    class Options(BaseModel):
        layers: LayerSpec = LayerSpec.parse("1-3")

    assert Options().layers.resolve(12) == [1, 2, 3]
    options = Options(layers=["words", 2])
    assert options.model_dump() == {"layers": "words,2"}
    assert Options(**options.model_dump()) == options
    assert Options.model_validate_json('{"layers": "0-1"}').layers.resolve(4) == [0, 1]
    with pytest.raises(ValidationError, match="'wrods' is not a layer; did you mean 'words'"):
        Options(layers="wrods")
