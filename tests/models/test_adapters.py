"""Low-rank adapters in folders: what is written, read, merged and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file

from mtrobust.errors import UserError
from mtrobust.evaluation.run_folder import load_run
from mtrobust.models import adapters
from mtrobust.models.export import export
from mtrobust.models.multitask import MultiTaskModel, load_encoder
from tests.evaluation.runs import write_data, write_run
from tests.tiny import FAMILIES

TASKS = ["mood", "stsb", "squad"]
IDS = torch.arange(5, 25).view(2, 10)
INPUTS = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


def moved(encoder) -> None:
    """Adapters are no longer at their start, where they add nothing."""
    torch.manual_seed(4)
    with torch.no_grad():
        for weight in encoder.adapter_weights().values():
            weight.add_(0.05 * torch.randn_like(weight))


def adapted(folder: Path, **more):
    encoder = load_encoder(str(folder))
    settings = {"lora_r": 4, "lora_alpha": 8.0, "lora_dropout": 0.1, "lora_targets": None}
    adapters.new_adapters(encoder, SimpleNamespace(model_name_or_path=str(folder), **settings | more))
    moved(encoder)
    return encoder.eval()


def states(encoder) -> torch.Tensor:
    with torch.no_grad():
        return encoder.eval().record(INPUTS).last


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_read_by_us_and_by_peft_and_merges(tiny_model_dir, family, tmp_path):
    encoder = adapted(tiny_model_dir(family))
    expected = states(encoder)
    adapters.save_adapters(encoder, tmp_path)
    assert torch.equal(states(load_encoder(str(tmp_path), merge=False)), expected)
    merged = load_encoder(str(tmp_path))
    assert merged.lora is None and all(weight.requires_grad for weight in merged.parameters())
    torch.testing.assert_close(states(merged), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(states(load_encoder(str(tiny_model_dir(family)))), expected, atol=1e-2)
    auto = transformers.T5EncoderModel if family == "t5" else transformers.AutoModel
    theirs = PeftModel.from_pretrained(auto.from_pretrained(tiny_model_dir(family)), tmp_path).eval()
    with torch.no_grad():
        out = theirs(**INPUTS)
        pooled = encoder.base(**INPUTS).pooler_output if encoder.base._modules.get("pooler") is not None else None
    # ours writes attention out where no gradient is asked for: equal to rounding
    torch.testing.assert_close(out.last_hidden_state, expected, atol=1e-6, rtol=1e-5)
    assert pooled is None or torch.equal(out.pooler_output, pooled)


def test_targets(tiny_model_dir):
    def targets(family: str, wanted: list[str] | None = None) -> set[str]:
        encoder = adapted(tiny_model_dir(family), lora_targets=wanted)
        names = [name.partition(".lora_")[0] for name in encoder.adapter_weights() if ".lora_" in name]
        assert not any("pooler" in name for name in names)
        return {name.rpartition(".")[2] for name in names}

    assert targets("bert") == {"query", "value"}
    assert targets("bert", ["key", "attention.output.dense"]) == {"key", "dense"}
    assert targets("bert", ["all-linear"]) == {"query", "key", "value", "dense"}
    assert targets("distilbert") == {"q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"}  # peft has no names for it
    with pytest.raises(UserError) as caught:
        targets("bert", ["querry", "value", "word_embeddings", "pooler.dense"])
    assert [fault.split(":")[1].strip() for fault in caught.value.faults] == [
        "querry", "word_embeddings", "pooler.dense",
    ]  # fmt: skip
    assert "(allowed: all-linear, dense, key, query, value)" in caught.value.faults[0]


@pytest.fixture(scope="module")
def run_of(tmp_path_factory, tiny_model_dir):
    """`run_of(family)`: the folder of a finished run with adapters."""
    data, runs = write_data(tmp_path_factory.mktemp("data")), {}

    def make(family: str) -> Path:
        if family not in runs:
            folder = tmp_path_factory.mktemp("runs")
            shutil.copytree(tiny_model_dir(family), folder / "base")
            run = write_run(folder / "run", folder / "base", data, TASKS)
            model = MultiTaskModel.load(run / "model")
            adapters.new_adapters(
                model.encoder,
                SimpleNamespace(lora_r=4, lora_alpha=8.0, lora_dropout=0.0, lora_targets=None,
                                model_name_or_path=str(folder / "base")),
            )  # fmt: skip
            moved(model.encoder)
            (run / "model/model.safetensors").unlink()
            model.save_pretrained(run / "model", load_run_tokenizer(folder / "base"))
            runs[family] = run
        return runs[family]

    return make


def load_run_tokenizer(folder: Path):
    return transformers.AutoTokenizer.from_pretrained(folder)


def logits(model, head) -> torch.Tensor:
    with torch.no_grad():
        tape = model.encoder.record(INPUTS)
        return head.net(tape.last, tape.pooled, INPUTS)


def given(model) -> torch.Tensor:
    with torch.no_grad():
        out = model.eval()(**INPUTS)
    return out.logits if "logits" in out else torch.stack((out.start_logits, out.end_logits), dim=-1)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "t5"])
@pytest.mark.parametrize("task", ["mood", "squad"])
def test_exports(run_of, family, task, tmp_path):
    """Merged: a plain folder. Alone: a peft folder that gives the same logits on the base."""
    run = load_run(run_of(family), "cpu")
    expected = logits(run.model, run.model.heads[task])
    auto = transformers.AutoModelForQuestionAnswering if task == "squad" else (
        transformers.AutoModelForSequenceClassification
    )  # fmt: skip
    whole, report = auto.from_pretrained(export(run, task, tmp_path / "hf"), output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(given(whole), expected, atol=1e-4, rtol=1e-4)
    alone = export(run, task, tmp_path / "alone", adapters_only=True)
    assert not (alone / "model.safetensors").exists()
    base = auto.from_pretrained(run_of(family).parent / "base", config=transformers.AutoConfig.from_pretrained(alone))
    torch.testing.assert_close(given(PeftModel.from_pretrained(base, alone)), expected, atol=1e-5, rtol=1e-5)
    assert logits(run.model, run.model.heads[task]).equal(expected), "the run is left as it was"


def test_the_model_folder_is_small_and_names_its_base(run_of):
    folder = run_of("bert") / "model"
    assert not list(folder.glob("model*.safetensors"))
    names = set(load_file(folder / "adapter_model.safetensors"))
    assert all(".lora_" in name or ".pooler." in name for name in names) and len(names) == 3 * 2 * 2 + 2
    settings = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    assert settings["base_model_name_or_path"] == str(run_of("bert").parent / "base") and settings["r"] == 4


def test_another_base_is_refused(run_of, tiny_model_dir, tmp_path):
    model = tmp_path / "run/model"
    shutil.copytree(run_of("bert"), tmp_path / "run")
    path = model / "adapter_config.json"

    def base(name: str) -> str:
        settings = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps(settings | {"base_model_name_or_path": name}), encoding="utf-8")
        with pytest.raises(UserError) as caught:
            load_run(tmp_path / "run", "cpu")
        (fault,) = caught.value.faults
        return fault

    from tests.tiny import write_tiny_model

    assert "belong to other weights than those of" in base(str(write_tiny_model("bert", tmp_path / "other", seed=6)))
    assert "adapter_model.safetensors: " in base(str(tiny_model_dir("electra")))
    assert f"{path}: base_model_name_or_path: {tmp_path / 'gone'}: no model found" in base(str(tmp_path / "gone"))
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="base_model_name_or_path cannot be read"):
        load_run(tmp_path / "run", "cpu")


def test_adapters_alone_need_adapters_and_a_head_of_their_own(tiny_model_dir, run_of, tmp_path):
    plain = load_encoder(str(tiny_model_dir("bert")))
    with pytest.raises(UserError, match="--adapters_only: the run has no adapters"):
        adapters.check_alone(plain, "sequence")
    encoder = load_run(run_of("bert"), "cpu").model.encoder
    with pytest.raises(UserError, match="--adapters_only: the output matrix of a masked language model"):
        adapters.check_alone(encoder, "mlm")
    encoder.lora.base_model_name_or_path = str(run_of("bert") / "model")
    with pytest.raises(UserError, match="has adapters itself"):
        adapters.check_alone(encoder, "sequence")
