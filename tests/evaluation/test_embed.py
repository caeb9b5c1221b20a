"""Hidden states of a run against those that the plain model gives, in both formats."""

from __future__ import annotations

import json
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mtrobust.errors import UserError
from mtrobust.evaluation import embed as module
from mtrobust.evaluation.embed import Embedded, embed
from mtrobust.evaluation.run_folder import load_run
from mtrobust.perturb.layers import LayerSpec
from tests.evaluation.runs import read_lines, text_rows, write_data, write_rows, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir):
    folder = tmp_path_factory.mktemp("embed")
    write_run(folder / "run", tiny_model_dir("bert"), write_data(folder / "data"), ["mood", "squad"])
    return load_run(folder / "run", device="cpu"), folder


def reference(run, text: str) -> list[torch.Tensor]:
    """Every layer's states of one text by itself, [T, width] each, from the plain base model."""
    inputs = run.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        return [state[0] for state in run.model.encoder.base(**inputs, output_hidden_states=True).hidden_states]


@pytest.mark.parametrize("pool", ["mean", "first", "none"])
@pytest.mark.parametrize("suffix", [".jsonl", ".safetensors"])
def test_states_are_those_of_the_plain_model(run, tmp_path: Path, pool: str, suffix: str):
    opened, _ = run
    rows = write_rows(tmp_path / "in.jsonl", text_rows(7, None, pair=False))
    out = tmp_path / f"out{suffix}"
    count = embed(opened, "mood", rows, out, layers=LayerSpec.parse("embeddings,2"), pool=pool, batch_size=3)
    texts = [row["text"] for row in read_lines(rows)]
    assert count == len(texts) == 7
    found = _read(out, pool)
    for i, text in enumerate(texts):
        states = reference(opened, text)
        for site in (0, 2):
            wanted = {"mean": states[site].mean(0), "first": states[site][0], "none": states[site]}[pool]
            np.testing.assert_allclose(found[i][f"layer_{site}"], wanted.numpy(), atol=2e-6)


def _read(path: Path, pool: str) -> list[dict[str, np.ndarray]]:
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text("utf-8").strip().split("\n")]
        assert [line["window"] for line in lines] == [0] * len(lines)
        return [{key: np.array(value) for key, value in line.items() if key.startswith("layer")} for line in lines]
    with safe_open(path, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        ids = json.loads(file.metadata()["ids"])
    if pool != "none":
        return [{name: value[i] for name, value in tensors.items()} for i in range(len(ids))]
    at = tensors.pop("offsets")
    assert len(tensors.pop("input_ids")) == at[-1]
    return [{name: value[at[i] : at[i + 1]] for name, value in tensors.items()} for i in range(len(ids))]


def test_windows_of_a_long_context_are_told_apart(run, tmp_path: Path):
    opened, folder = run
    count = embed(opened, "squad", folder / "data/squad/dev.jsonl", tmp_path / "out.jsonl", batch_size=2)
    lines = read_lines(tmp_path / "out.jsonl")
    assert count == len(lines) and {"id", "window", "layer_3"} == set(lines[0])
    assert len({(line["id"], line["window"]) for line in lines}) == count


def test_faults_before_anything_is_written(run, tmp_path: Path):
    opened, folder = run
    rows = folder / "data/mood/dev.jsonl"
    with pytest.raises(UserError, match="--layers: 9: the encoder has 3 layers"):
        embed(opened, "mood", rows, tmp_path / "out.jsonl", layers=LayerSpec.parse("9"))
    with pytest.raises(UserError, match="must end in .jsonl or .safetensors"):
        embed(opened, "mood", rows, tmp_path / "out.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".jsonl", ".safetensors"])
def test_the_file_has_the_permissions_of_a_new_one(run, tmp_path: Path, suffix: str):
    opened, _ = run
    rows = write_rows(tmp_path / "in.jsonl", text_rows(2, None, pair=False))
    before = os.umask(0o027)
    try:
        embed(opened, "mood", rows, tmp_path / f"out{suffix}")
    finally:
        os.umask(before)
    assert (tmp_path / f"out{suffix}").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", f"out{suffix}"]


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_tensors_are_written_as_they_come(tmp_path: Path, pool):
    """No more than the last features are alive at any time."""
    made: list[weakref.ref[Embedded]] = []
    most = 0

    def features():
        nonlocal most
        for i in range(50):
            size = (3 + i % 4, 8) if pool == "none" else (8,)
            one = Embedded(str(i), 0, np.arange(3 + i % 4, dtype=np.int32), {"words": np.full(size, i, np.float32)})
            made.append(weakref.ref(one))
            most = max(most, sum(ref() is not None for ref in made))
            yield one
            del one

    assert module._write_tensors(features(), tmp_path / "out.safetensors", pool) == 50
    assert most <= 2
    found = _read(tmp_path / "out.safetensors", pool)
    assert all((found[i]["words"] == i).all() and found[i]["words"].dtype == np.float32 for i in range(50))
