"""The decoder as a head: T5's own numbers and texts, its weights from the checkpoint, ties, masks, export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5ForConditionalGeneration

from mtrobust.config import TrainConfig
from mtrobust.data.collator import evaluation_batches
from mtrobust.errors import UserError
from mtrobust.evaluation.predict import predictions
from mtrobust.evaluation.run_folder import Run
from mtrobust.models.decoder import up_to_end
from mtrobust.models.export import export
from mtrobust.models.multitask import HEADS_FILE, MultiTaskModel
from mtrobust.perturb import Passes
from mtrobust.perturb.noise import KeyedNoise
from mtrobust.perturb.passes import Needs
from mtrobust.tasks.taskdef import TaskDef
from mtrobust.training.state import load_module_tensors, module_tensors
from tests.models.tiny import FAMILIES, tiny_encoder
from tests.t5 import question_rows, write_t5

QA = TaskDef(name="qa", task_type="SequenceGeneration", data_format="Generation", num_beams=3, max_target_len=8)
MOOD = TaskDef(name="mood", task_type="Classification", data_format="PremiseOnly", labels=["bad", "good"])


@pytest.fixture(scope="module", params=[False, True], ids=["tied", "untied"])
def folder(request, tmp_path_factory) -> Path:
    return write_t5(tmp_path_factory.mktemp("t5"), dropout=0.2, untied=request.param)


def config_of(folder: Path) -> TrainConfig:
    return TrainConfig(
        task_def=["x.yml"], data_dir=Path("data"), model_name_or_path=str(folder), output_dir=Path("run"), use_cpu=True
    )


def run_of(folder: Path, **changes) -> Run:
    tasks = {"qa": QA.model_copy(update=changes), "mood": MOOD}
    config = config_of(folder)
    model = MultiTaskModel.from_encoder(config, tasks).eval()
    return Run(config, tasks, model, AutoTokenizer.from_pretrained(folder))


def parsed(count: int = 5):
    return [QA.type.parse_row(row) for row in question_rows(count, 1)]


def batch_of(run: Run, count: int = 5):
    return evaluation_batches(QA, run.tokenizer)(QA.type.featurize(parsed(count), run.tokenizer, 48, training=True))


def test_logits_loss_and_counts_are_those_of_the_whole_model(folder):
    run = run_of(folder)
    whole, batch = T5ForConditionalGeneration.from_pretrained(folder).eval(), batch_of(run)
    head, labels = run.model.heads["qa"], batch.targets["labels"]
    assert (labels == -100).any(), "the targets differ in length"
    theirs, out = whole(**batch.inputs, labels=labels), run.model(batch)
    torch.testing.assert_close(out["logits"], theirs.logits[labels != -100], atol=1e-5, rtol=1e-5)
    assert int(head.count(batch)) == int(head.items(batch)) == int((labels != -100).sum())
    torch.testing.assert_close(head.loss(out, batch).sum() / head.count(batch), theirs.loss, atol=1e-5, rtol=1e-5)
    (view,) = head.views(out, batch)
    assert view.row.tolist() == [row for row, each in enumerate(labels.tolist()) for label in each if label != -100]
    batch.targets["labelled"] = torch.tensor([True, False, True, True, True])
    assert head.loss(out, batch)[1] == 0 and head.count(batch) == (labels != -100).sum() - (labels[1] != -100).sum()


@pytest.mark.parametrize(("beams", "penalty"), [(1, 1.0), (3, 1.0), (3, -4.0)])
def test_texts_are_those_of_generate(folder, beams, penalty):
    run = run_of(folder, num_beams=beams, length_penalty=penalty)
    whole = T5ForConditionalGeneration.from_pretrained(folder).eval()
    for row, made in zip(parsed(), predictions(run, run.tasks["qa"], parsed(), batch_size=2), strict=True):
        inputs = run.tokenizer(row["text"], return_tensors="pt")
        more = {"length_penalty": penalty} if beams > 1 else {}
        theirs = whole.generate(**inputs, num_beams=beams, max_new_tokens=8, **more)
        assert made.record["prediction"] == run.tokenizer.decode(theirs[0], skip_special_tokens=True)
        ids = theirs[:, 1:]
        logits = whole(**inputs, labels=ids).logits.log_softmax(-1)
        wanted = logits.gather(-1, ids.unsqueeze(-1)).sum().item()
        assert made.record["log_probability"] == pytest.approx(wanted, abs=1e-3)


def test_rows_without_a_target_are_written_too(folder):
    run = run_of(folder)
    rows = parsed(3)
    blank = [{**row, "target": None, "targets": None} for row in rows]
    records = [[p.record for p in predictions(run, QA, each, batch_size=2)] for each in (rows, blank)]
    assert [r["prediction"] for r in records[0]] == [r["prediction"] for r in records[1]]


def test_what_is_tied_is_one_parameter_saved_once_and_loaded(folder, tmp_path):
    run = run_of(folder)
    model, table = run.model, run.model.encoder.word_embeddings.weight
    decoder, tied = model.heads["qa"].net.model, run.model.heads["qa"].net.tied
    assert decoder.decoder.embed_tokens.weight is table and (decoder.lm_head.weight is table) == tied
    learned = [name for name, parameter in model.named_parameters() if parameter is table]
    assert len(learned) == 1 and ".encoder." in f".{learned[0]}"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    batch = batch_of(run)
    model.save_pretrained(tmp_path / "model", run.tokenizer)
    with safe_open(tmp_path / "model" / HEADS_FILE, "pt") as file:
        names = set(file.keys())
    assert ("qa.net.model.lm_head.weight" in names) == (not tied)
    assert not any("shared" in name or "embed_tokens" in name for name in names)
    again = MultiTaskModel.load(tmp_path / "model").eval()
    torch.testing.assert_close(again(batch)["logits"], model(batch)["logits"])
    assert again.heads["qa"].net.model.decoder.embed_tokens.weight is again.encoder.word_embeddings.weight
    other = run_of(folder).model
    load_module_tensors(other, {name: value.clone() for name, value in module_tensors(model).items()}, "here")
    torch.testing.assert_close(other(batch)["logits"], model(batch)["logits"])


def test_the_export_writes_the_same_texts(folder, tmp_path):
    run = run_of(folder)
    out = export(run, "qa", tmp_path / "out")
    loaded, report = AutoModelForSeq2SeqLM.from_pretrained(out, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(out)
    for row, made in zip(parsed(), predictions(run, QA, parsed()), strict=True):
        written = loaded.generate(**tokenizer(row["text"], return_tensors="pt"))
        assert tokenizer.decode(written[0], skip_special_tokens=True) == made.record["prediction"]
    card = (out / "README.md").read_text("utf-8")
    assert "AutoModelForSeq2SeqLM" in card and "pipeline(" not in card
    with pytest.raises(UserError, match="no Hugging Face class for sequence classification"):
        export(run, "mood", tmp_path / "mood")


@pytest.mark.parametrize("site", ["words", 1])
def test_shared_masks_and_no_masks_reach_the_decoder(folder, site):
    run = run_of(folder)
    model, batch = run.model.train(), batch_of(run)
    needs = Needs(frozenset([site]), shared_dropout=True)

    def passes() -> Passes:
        return Passes(model.encoder, model.heads["qa"], batch, KeyedNoise(1), needs)

    one = passes()
    clean, hidden = one.out["logits"], one.h(site)
    torch.testing.assert_close(one.at(site, hidden, dropout="shared").out["logits"], clean, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(one.at(site, hidden).out["logits"], clean, atol=1e-2)
    plain = model.eval()(batch)["logits"]
    off = passes()
    with torch.no_grad():
        states = off.h(site)  # of a pass without masks below
        model.train()
        torch.testing.assert_close(off.at(site, states, dropout="off").out["logits"], plain, atol=1e-5, rtol=1e-5)
    assert model.heads["qa"].training


def test_the_definition_sets_the_dropout_of_the_whole_decoder(folder):
    model = run_of(folder, dropout_p=0.0).model.train()
    batch = batch_of(run_of(folder))
    read = torch.randn(5, batch.inputs["input_ids"].shape[1], 32)
    from mtrobust.tasks.base import HeadInput

    head = model.heads["qa"]
    first, second = (head(HeadInput(read, None), batch)["logits"] for _ in range(2))
    assert torch.equal(first, second)


def test_a_checkpoint_without_a_decoder_is_refused(folder, tmp_path):
    run_of(folder).model.encoder.base.save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:
        MultiTaskModel.from_encoder(config_of(tmp_path), {"qa": QA, "mood": MOOD})
    (fault,) = caught.value.faults
    assert fault.startswith(f"qa.task_type: SequenceGeneration: {tmp_path}: ")
    assert "of the decoder are not in it" in fault


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "t5"])
def test_other_families_are_refused_by_name(family):
    with pytest.raises(UserError, match=f"qa.task_type: SequenceGeneration: model type '{family}' has no decoder"):
        MultiTaskModel(tiny_encoder(family), {"qa": QA})


def test_a_text_ends_with_its_first_end_token():
    ids = torch.tensor([[4, 1, 0, 0], [1, 1, 5, 1], [4, 0, 5, 6]])
    assert up_to_end(ids, torch.tensor([1])).tolist() == [
        [True, True, False, False], [True, False, False, False], [True, True, True, True]
    ]  # fmt: skip
