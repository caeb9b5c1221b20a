"""The family's language-model head: tied to the word embeddings, saved once, loaded, exported, refused for T5."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from mtrobust.config import TrainConfig
from mtrobust.data.collator import evaluation_batches
from mtrobust.errors import UserError
from mtrobust.evaluation.run_folder import Run
from mtrobust.models.export import export
from mtrobust.models.multitask import HEADS_FILE, MultiTaskModel
from mtrobust.tasks.base import Batch
from mtrobust.tasks.taskdef import TaskDef
from mtrobust.training.state import load_module_tensors, module_tensors
from tests.models.tiny import FAMILIES as IN_MEMORY
from tests.models.tiny import tiny_encoder, tiny_inputs
from tests.tiny import FAMILIES, TEXT

LM = TaskDef(name="lm", task_type="MaskLM", data_format="MLM", mlm_probability=0.3)
MOOD = TaskDef(name="mood", task_type="Classification", data_format="PremiseOnly", labels=["bad", "good"])
HAVE_ONE = [family for family in FAMILIES if family != "t5"]


def shaken(model: MultiTaskModel) -> MultiTaskModel:
    """With weights and biases that are not those of a fresh model."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def output_of(model: MultiTaskModel, task: str = "lm"):
    return model.heads[task].net.model.get_output_embeddings()


def is_tied(model: MultiTaskModel) -> bool:
    return output_of(model).weight is model.encoder.word_embeddings.weight


@pytest.fixture(scope="module")
def run_of(tiny_model_dir):
    def make(family: str) -> Run:
        folder = tiny_model_dir(family)
        config = TrainConfig(
            task_def=["x.yml"], data_dir=Path("data"), model_name_or_path=str(folder), output_dir=Path("run")
        )
        tasks = {"lm": LM, "mood": MOOD}
        model = shaken(MultiTaskModel.from_encoder(config, tasks))
        return Run(config, tasks, model, AutoTokenizer.from_pretrained(folder))

    return make


def batch_of(run: Run):
    rows = [{"id": str(i), "text": text} for i, text in enumerate(TEXT[:6])]
    return evaluation_batches(LM, run.tokenizer)(LM.type.featurize(rows, run.tokenizer, 48, training=False))


@pytest.mark.parametrize("family", [family for family in IN_MEMORY if family != "t5"])
def test_the_output_matrix_is_the_word_embeddings(family):
    encoder = tiny_encoder(family)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = MultiTaskModel(encoder, {"lm": LM})
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items()), "left as it was"
    assert is_tied(model) and output_of(model).bias.abs().sum() == 0
    names = [name for name, parameter in model.named_parameters() if parameter is encoder.word_embeddings.weight]
    assert len(names) == 1 and ".encoder." in f".{names[0]}"
    assert not any("decoder.weight" in name or "projector.weight" in name for name in model.own_by_heads())
    assert is_tied(model.double()) and encoder.word_embeddings.weight.dtype == torch.float64


@pytest.mark.parametrize("family", [family for family in IN_MEMORY if family != "t5"])
def test_logits_at_masked_positions_are_those_of_the_whole_class(family):
    model = shaken(MultiTaskModel(tiny_encoder(family), {"lm": LM}))
    inputs = tiny_inputs(family)
    labels = torch.where(torch.arange(12) % 3 == 1, inputs["input_ids"], -100)
    labels[inputs["attention_mask"] == 0] = -100
    targets = {"labels": labels, "labelled": torch.ones(4, dtype=torch.bool)}
    full = model.heads["lm"].net.full_model(model.encoder.base).eval()
    with torch.no_grad():
        given = model(Batch("lm", inputs, targets, torch.arange(4)))["logits"]
        torch.testing.assert_close(given, full(**inputs).logits[labels != -100], atol=1e-5, rtol=1e-5)


def test_t5_is_refused_with_the_families_that_have_one():
    with pytest.raises(UserError) as caught:
        MultiTaskModel(tiny_encoder("t5"), {"lm": LM})
    (fault,) = caught.value.faults
    assert fault.startswith("lm.task_type: MaskLM: model type 't5' has no Hugging Face class for masked language")
    assert "BERT" in fault and "ModernBERT" in fault and "\n" not in fault


@pytest.mark.parametrize("family", ["bert", "electra", "albert", "distilbert", "modernbert"])
def test_saved_once_and_tied_when_loaded(run_of, family, tmp_path):
    run = run_of(family)
    run.model.save_pretrained(tmp_path, run.tokenizer)
    words = run.model.encoder.word_embeddings.weight
    with safe_open(tmp_path / HEADS_FILE, "pt") as file:
        shapes = [tuple(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118 (not a mapping)
    assert tuple(words.shape) not in shapes and shapes.count((len(words),)) == 1, "no matrix, one bias"
    loaded = MultiTaskModel.load(tmp_path).eval()
    assert is_tied(loaded)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    with torch.no_grad():
        loaded.encoder.word_embeddings.weight[5] += 1
    assert torch.equal(output_of(loaded).weight[5], loaded.encoder.word_embeddings.weight[5])


def test_a_heads_file_that_lacks_a_weight_is_refused(run_of, tmp_path):
    run = run_of("bert")
    run.model.save_pretrained(tmp_path, run.tokenizer)
    heads = load_file(tmp_path / HEADS_FILE)
    del heads["lm.net.model.cls.predictions.bias"]
    save_file(heads, tmp_path / HEADS_FILE)
    with pytest.raises(UserError, match="does not fit"):
        MultiTaskModel.load(tmp_path)


def test_a_checkpoint_holds_the_matrix_once_and_keeps_the_tie(run_of):
    one, two = run_of("bert").model, run_of("bert").model
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(1)
    saved = {name: value.clone() for name, value in module_tensors(one).items()}
    assert [name for name in saved if saved[name].shape == one.encoder.word_embeddings.weight.shape] == [
        "encoder.base.embeddings.word_embeddings.weight"
    ]
    load_module_tensors(two, saved, "here")
    assert is_tied(two) and all(torch.equal(v, one.state_dict()[k]) for k, v in two.state_dict().items())


@pytest.mark.parametrize("family", HAVE_ONE)
def test_the_exported_model_gives_the_same_logits(run_of, family, tmp_path):
    run = run_of(family)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    out = export(run, "lm", tmp_path / "out")
    loaded, report = AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert loaded.config.architectures == [type(loaded).__name__]
    batch = batch_of(run)
    with torch.no_grad():
        given = loaded(**batch.inputs).logits[batch.targets["labels"] != -100]
        expected = run.model(batch)["logits"]
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)
    assert expected.std(0).max() > 1e-3
    assert is_tied(run.model) and all(torch.equal(v, before[k]) for k, v in run.model.state_dict().items())


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_the_pipeline_fills_the_mask(run_of, family, tmp_path, capsys):
    out = export(run_of(family), "lm", tmp_path / "out")
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"]
    fill = pipeline("fill-mask", model=str(out), device="cpu")
    (best, *_) = fill(f"The cat {fill.tokenizer.mask_token} well.")
    assert 0 < best["score"] <= 1 and best["token_str"]
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: fill-mask" in card and "AutoModelForMaskedLM" in card
    exec(card.split("```python\n")[1].split("```")[0].replace("this/folder", str(out)), {})  # noqa: S102
    assert "score" in capsys.readouterr().out


def test_the_exported_folder_is_an_encoder_to_start_from(run_of, tmp_path):
    """Round trip: what was exported is trained on, head left behind, its words and layers kept."""
    run = run_of("bert")
    config = run.config.model_copy(update={"model_name_or_path": str(export(run, "lm", tmp_path / "out"))})
    again = MultiTaskModel.from_encoder(config, {"lm": LM})
    for name, value in run.model.encoder.state_dict().items():
        if not name.startswith("base.pooler"):
            assert torch.equal(again.encoder.state_dict()[name], value), name
