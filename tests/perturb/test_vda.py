"""VDA: its formula, its language model, and what is kept of it."""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import BertForMaskedLM, BertModel

from mtrobust.errors import UserError
from mtrobust.models.masked_lm import load_masked_lm
from mtrobust.perturb.likely import LikelyWords
from tests.models.tiny import CONFIGS, VOCABULARY, tiny_encoder
from tests.perturb.cells import batch_of, gradients, spec, step_of, tiny_mlm
from tests.perturb.test_methods import passes_of

DOUBLE = {"dropout": 0.0, "dtype": torch.float64}


@pytest.mark.parametrize("mixture", ["log_posterior", "eq4", "repo"])
def test_vda_equals_its_formula(mixture):
    vda = spec("vda", mixture=mixture, top_k=0, sigma=0.2, alpha=0.5, mlm_bf16=False)
    step = step_of("bert", "Classification", [vda], **DOUBLE)
    batch = batch_of("bert", "Classification")
    passes = passes_of(step, batch)
    logits = BertForMaskedLM.from_pretrained(tiny_mlm()).eval()(**batch.inputs).logits.double()
    score = {"log_posterior": logits.log_softmax(-1), "eq4": logits.softmax(-1)}.get(mixture)
    score = logits / logits.sum(-1, keepdim=True) if score is None else score
    weights = (score + 0.2 * passes.draw("vda/0", score)).softmax(-1)
    table = step.model.encoder.word_embeddings.weight
    real = batch.inputs["attention_mask"].unsqueeze(-1).bool()
    virtual = torch.where(real, weights @ table, passes.h("words"))
    p, q = (branch.out["logits"].log_softmax(-1) for branch in (passes, passes.at("words", virtual)))
    expected = ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()
    out = step(batch)
    assert torch.isclose(out.terms["vda/reg"], expected, rtol=1e-5)
    assert torch.isclose(out.loss, out.terms["task"] + 0.5 * out.terms["vda/reg"])


def test_top_k_of_all_words_is_the_dense_mixture():
    batch = batch_of("bert", "Classification")
    values = [
        step_of("bert", "Classification", [spec("vda", top_k=k, sigma=0.0)], **DOUBLE)(batch) for k in (0, VOCABULARY)
    ]
    assert torch.isclose(values[0].terms["vda/reg"], values[1].terms["vda/reg"], rtol=1e-5)
    assert float(values[1].stats["vda/captured_mass"]) == pytest.approx(1)
    few = step_of("bert", "Classification", [spec("vda", top_k=5)], **DOUBLE)(batch)
    assert 5 / VOCABULARY < float(few.stats["vda/captured_mass"]) < 1


def test_argmax_and_sample_put_whole_words_in():
    batch = batch_of("bert", "Classification")
    real = batch.inputs["attention_mask"].bool()
    logits = BertForMaskedLM.from_pretrained(tiny_mlm()).eval()(**batch.inputs).logits
    for take in ("argmax", "sample"):
        more = {} if take == "argmax" else {"top_k": 0}
        step = step_of("bert", "Classification", [spec("vda", take=take, mlm_bf16=False, **more)])
        table, method = step.model.encoder.word_embeddings.weight, step.methods["classification"].methods["vda"]
        chosen, counts = [], torch.zeros(VOCABULARY)
        for number in range(40):
            passes = passes_of(step, batch_of("bert", "Classification", step=number))
            virtual = method.edit(passes, "words", passes.below("words"), 0)
            distance, word = torch.cdist(virtual[real], table).min(-1)
            assert (distance < 1e-3).all()
            chosen.append(word)
            counts += torch.bincount(word, minlength=VOCABULARY)
        if take == "argmax":
            assert all(torch.equal(word, logits.argmax(-1)[real]) for word in chosen)
        else:
            shares = logits.softmax(-1)[real].mean(0)
            assert (counts / counts.sum() - shares).abs().max() < 0.02


def test_kept_words_of_vda_are_those_of_the_language_model(monkeypatch):
    batch = batch_of("bert", "Classification")
    plain, kept = (
        step_of("bert", "Classification", [spec("vda", cache_mib=m, mlm_bf16=False)], **DOUBLE) for m in (0, 1)
    )
    expected = plain(batch).terms["vda/reg"]
    assert torch.isclose(kept(batch).terms["vda/reg"], expected, rtol=1e-6)
    lm, calls = kept.methods["classification"].methods["vda"].lm, []
    asked = lm.logits
    monkeypatch.setattr(
        lm, "logits", lambda inputs, bf16: calls.append(len(inputs["input_ids"])) or asked(inputs, bf16)
    )
    assert torch.isclose(kept(batch).terms["vda/reg"], expected, rtol=1e-6) and not calls, "met before"
    batch.inputs["input_ids"][1, 2] += 1
    other = step_of("bert", "Classification", [spec("vda", mlm_bf16=False)], **DOUBLE)(batch).terms["vda/reg"]
    calls.clear()  # of the same language model
    assert torch.isclose(kept(batch).terms["vda/reg"], other, rtol=1e-6) and calls == [1], "the changed row alone"


def test_words_are_kept_while_there_is_room():
    batch = batch_of("bert", "Classification")
    lm = step_of("bert", "Classification", [spec("vda")]).methods["classification"].methods["vda"].lm
    inputs, sizes = batch.inputs, []
    for room in (0, 2000, 1 << 20):
        likely = LikelyWords(lm, 8, False, room)
        words, log_p = likely(inputs)
        again = likely(inputs)
        mask = inputs["attention_mask"].bool()
        assert torch.equal(words[mask], again[0][mask]) and torch.allclose(log_p[mask], again[1][mask], atol=1e-5)
        sizes.append(len(likely._kept))
    assert sizes[0] == 0 < sizes[1] < sizes[2] == len(inputs["input_ids"])


def test_the_samples_of_vda_are_averaged():
    batch = batch_of("bert", "Classification")
    step = step_of("bert", "Classification", [spec("vda", samples=3, sigma=2.0)], **DOUBLE)
    method, passes = step.methods["classification"].methods["vda"], passes_of(step, batch)
    single = [
        method.compare(passes, passes.at("words", method.edit(passes, "words", passes.h("words"), k))).total / 4
        for k in range(3)
    ]
    assert len({value.item() for value in single}) == 3
    assert torch.isclose(step(batch).terms["vda/reg"], sum(single) / 3)


def test_other_objectives_of_vda():
    batch = batch_of("bert", "Classification")
    labels = step_of("bert", "Classification", [spec("vda", objective="labels", sigma=0.0)], **DOUBLE)
    passes, method = passes_of(labels, batch), labels.methods["classification"].methods["vda"]
    assert not method.uses_unlabelled
    virtual = passes.at("words", method.edit(passes, "words", passes.h("words"), 0))
    assert torch.isclose(labels(batch).terms["vda/reg"], virtual.loss().total / 4)
    whole, half = (
        step_of("bert", "Classification", [spec("vda", factor=f)], **DOUBLE)(batch).terms["vda/reg"]
        for f in ("sum", "half_mean")
    )
    assert torch.isclose(half, whole / 2 / 3)


def test_the_half_mean_is_for_classes():
    with pytest.raises(UserError, match="vda: task regression: factor: half_mean: is a mean over named classes"):
        step_of("bert", "Regression", [spec("vda", factor="half_mean")])


def test_mixing_the_language_models_own_embeddings():
    step = step_of("bert", "Classification", [spec("vda", embeddings="mlm", take="argmax")])
    passes, method = passes_of(step, batch_of("bert", "Classification")), step.methods["classification"].methods["vda"]
    virtual = method.edit(passes, "words", passes.below("words"), 0)
    distance = torch.cdist(virtual[passes.noise_mask.bool()], method.lm.word_embeddings).min(-1).values
    assert (distance < 1e-3).all()


def test_the_language_model_is_loaded_once_and_neither_trains_nor_is_saved():
    encoder = tiny_encoder("bert")
    assert load_masked_lm(tiny_mlm(), encoder) is load_masked_lm(tiny_mlm(), encoder)
    step = step_of("bert", "Classification", [spec("vda")])
    assert step.state_dict().keys() == step_of("bert", "Classification", []).state_dict().keys()
    _, grads = gradients(step, batch_of("bert", "Classification"))
    lm = step.methods["classification"].methods["vda"].lm
    assert all(not p.requires_grad and p.grad is None for p in lm.model.parameters()) and not lm.model.training


@pytest.mark.parametrize("run_bf16", [False, True])
def test_the_precision_of_the_language_model_is_its_own(run_bf16):
    inputs, lm = batch_of("bert", "Classification").inputs, load_masked_lm(tiny_mlm(), tiny_encoder("bert"))
    exact, rough = lm.logits(inputs), lm.logits(inputs, bf16=True)
    assert 0 < float((exact - rough).abs().max()) < 0.05
    with torch.autocast("cpu", torch.bfloat16, enabled=run_bf16):
        assert torch.equal(lm.logits(inputs), exact)
        assert torch.equal(lm.logits(inputs, bf16=True), rough)


def test_language_models_that_do_not_fit_are_refused(tmp_path):
    def refused(match, family="bert", **options):
        with pytest.raises(UserError, match=match):
            step_of(family, "Classification", [spec("vda", **options)])

    with pytest.raises(UserError, match="perturb.vda.mlm: is needed: masked language model: folder or hub name"):
        from mtrobust.config import PerturbSpec

        step_of("bert", "Classification", [PerturbSpec(name="vda")])
    refused("vda.mlm: .*none: no model folder .no config.json in it.", mlm=str(tmp_path / "none"))
    refused("vda.mlm: .*no masked language model can be loaded", mlm="no such name")
    config = CONFIGS["bert"](hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    BertModel(config).save_pretrained(tmp_path / "bare")
    refused("vda.mlm: .*its head was not trained; scripts/make_mlm.sh", mlm=str(tmp_path / "bare"))
    config.vocab_size = 50
    BertForMaskedLM(config).save_pretrained(tmp_path / "other")
    refused("vda.mlm: .*has 50 words, the encoder 60", mlm=str(tmp_path / "other"))
    config.vocab_size, config.hidden_size = VOCABULARY, 8
    BertForMaskedLM(config).save_pretrained(tmp_path / "narrow")
    refused("embeddings: mlm: .*8 wide, the encoder's are 16", mlm=str(tmp_path / "narrow"), embeddings="mlm")


def test_another_vocabulary_of_the_same_size_is_refused(tmp_path):
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(VOCABULARY - 5))]

    def tokenizer(order):
        return BertTokenizerFast(vocab={word: i for i, word in enumerate(order)})

    shutil.copytree(tiny_mlm(), tmp_path / "lm")
    tokenizer([*words[:5], *reversed(words[5:])]).save_pretrained(tmp_path / "lm")
    encoder = tiny_encoder("bert")
    encoder.base.save_pretrained(tmp_path / "encoder")
    tokenizer(words).save_pretrained(tmp_path / "encoder")
    encoder.base.name_or_path = str(tmp_path / "encoder")
    with pytest.raises(UserError, match="has another vocabulary than the encoder: 'w0' is number 5 there, 59 here"):
        load_masked_lm(str(tmp_path / "lm"), encoder)
