"""Runs with low-rank adapters: what they save, resume and start from, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mtrobust.config import PerturbSpec
from mtrobust.errors import UserError
from mtrobust.evaluation.run_folder import load_run
from mtrobust.models.export import export
from mtrobust.models.multitask import load_encoder
from mtrobust.training import checks
from mtrobust.training.run import train
from tests.training.world import losses, settings, write_world

LORA = {"lora_r": 4, "lora_dropout": 0.1, "save_steps": 4, "eval_steps": 5, "max_steps": 11}
METHODS = [PerturbSpec(name="swep"), PerturbSpec(name="smart", options={"bregman": 0.9, "layers": "1"})]


class Killed(Exception):
    """Stands for the end of the process."""


def killing(step: int):
    def on_event(happened: str, at: int) -> None:
        if (happened, at) == ("step", step):
            raise Killed

    return on_event


@pytest.fixture(scope="module")
def fresh(tmp_path_factory, tiny_model_dir) -> Path:
    return write_world(tmp_path_factory.mktemp("adapters"), tiny_model_dir("bert"))


@pytest.fixture(scope="module")
def world(fresh) -> Path:
    """A world with a finished run `whole`."""
    before = (fresh / "model/model.safetensors").read_bytes()
    train(settings(fresh, "whole", perturb=METHODS, **LORA))
    assert (fresh / "model/model.safetensors").read_bytes() == before
    return fresh


def saved(run: Path) -> dict[str, torch.Tensor]:
    files = [run / "model/adapter_model.safetensors", run / "model/heads.safetensors"]
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.mark.slow
def test_only_what_learns_is_saved(world, caplog):
    names = set(load_file(world / "whole/checkpoints/last/step.safetensors"))
    encoder = {name for name in names if "encoder.base." in name}
    assert encoder and all(".lora_" in name or ".pooler." in name for name in encoder)
    assert any(name.startswith("owned.") and ".copy." in name for name in encoder)  # the average of `smart`
    assert any("swep" in name for name in names) and any(".heads." in name for name in names)
    caplog.set_level("INFO")
    train(settings(world, "counted", max_steps=1, lora_r=4, max_train_samples=4))
    width, layers = 32, 3
    adapters, pooler = layers * 2 * (width * 4 + 4 * width), width * width + width
    heads = (width * 3 + 3) + (width + 1) + (width * 2 + 2)
    assert f"; {adapters + pooler + heads:,} of " in caplog.text


@pytest.mark.slow
def test_resuming_gives_the_same_bits(world):
    for step in (3, 6, 9):
        with pytest.raises(Killed):
            train(settings(world, "half", perturb=METHODS, resume=step > 3, **LORA), killing(step))
    train(settings(world, "half", perturb=METHODS, resume=True, **LORA))
    whole, half = saved(world / "whole"), saved(world / "half")
    assert whole.keys() == half.keys() and all(torch.equal(whole[name], half[name]) for name in whole)
    assert losses(world / "whole") == losses(world / "half")


@pytest.mark.slow
def test_the_run_folder_gives_what_was_trained(world):
    opened = load_run(world / "whole", "cpu")
    last = load_file(world / "whole/checkpoints/last/step.safetensors")
    own = opened.model.encoder.adapter_weights()
    assert own and all(torch.equal(last[f"model.encoder.base.{name}"], weight) for name, weight in own.items())
    assert (export(opened, "mood", world / "hf") / "model.safetensors").is_file()


@pytest.mark.slow
def test_going_on_with_another_base_is_refused(world):
    with pytest.raises(Killed):
        train(settings(world, "moved", **LORA), killing(6))
    shutil.copytree(world / "model", world / "other")
    weights = load_file(world / "other/model.safetensors")
    changed = {name: tensor + 0.01 for name, tensor in weights.items()}
    save_file(changed, world / "other/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="belongs to an encoder with other weights than the one given"):
        train(settings(world, "moved", resume=True, model_name_or_path=str(world / "other"), **LORA))
    shutil.copytree(world / "model", world / "copied")
    train(settings(world, "moved", resume=True, model_name_or_path=str(world / "copied"), **LORA))


@pytest.mark.slow
@pytest.mark.parametrize("again", [{}, {"lora_r": 2, "lora_targets": ["key"]}], ids=["all weights", "new adapters"])
def test_starting_from_a_run_with_adapters(world, again):
    """Its adapters become part of the weights; a new run may train these, or adapters of its own on top."""
    name = f"from-{len(again)}"
    start = {"init_from": world / "whole", "model_name_or_path": str(world / "whole/model")}
    train(settings(world, name, max_steps=2, learning_rate=1e-9, **start, **again))
    before, after = load_run(world / "whole", "cpu"), load_run(world / name, "cpu")
    assert (world / name / "model/model.safetensors").exists() == (not again)
    ids = torch.arange(5, 25).view(2, 10)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        one, other = (run.model.encoder.record(inputs).last for run in (before, after))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(one, load_encoder(str(world / "model")).eval().record(inputs).last, atol=1e-4)
    heads = [dict(run.model.heads.named_parameters()) for run in (before, after)]
    assert all(torch.allclose(weight, heads[1][name], atol=1e-6) for name, weight in heads[0].items())


def test_settings_that_do_not_go_together(fresh, monkeypatch):
    def faults(**values) -> list[str]:
        with pytest.raises(UserError) as caught:
            checks.check_run(settings(fresh, "new", **values))
        return caught.value.faults

    assert faults(lora_alpha=8.0, lora_dropout=0.1, lora_targets=["query"]) == [
        "lora_alpha: 8.0: without effect without lora_r",
        "lora_dropout: 0.1: without effect without lora_r",
        "lora_targets: ['query']: without effect without lora_r",
    ]
    assert faults(lora_r=4, freeze_embeddings=True, freeze_layers=2) == [
        f"{key}: {value}: not together with lora_r, which keeps all weights of the encoder as they are"
        for key, value in (("freeze_embeddings", True), ("freeze_layers", 2))
    ]
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert faults(lora_r=4) == ["lora_r: 4: needs the package peft: pip install 'mtrobust[lora]'"]


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_engines_that_split_the_weights_are_refused(fresh, monkeypatch, variable):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(UserError) as caught:
        checks.check_run(settings(fresh, "new"))
    (fault,) = caught.value.faults
    assert "is not supported, since methods differentiate inside a step" in fault and "torchrun" in fault
    monkeypatch.setenv(variable, "false")
    checks.check_run(settings(fresh, "new"))
