"""A frozen masked language model beside the encoder: what words could stand in a text's places."""

from __future__ import annotations

import inspect
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel

from mtrobust.errors import UserError
from mtrobust.models.dropout import Masks
from mtrobust.models.encoder import Encoder
from mtrobust.models.loading import errors_only, first_line, no_progress_bars
from mtrobust.models.products import Laid, fixed_weights


class MaskedLm:
    """Logits over the vocabulary for every position of a text that is not masked. Not a module: it is never saved."""

    def __init__(self, model: PreTrainedModel, name: str = "") -> None:
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.vocabulary: int = model.config.vocab_size
        self._takes = set(inspect.signature(model.forward).parameters)
        self._laid: Laid = {}

    @property
    def word_embeddings(self) -> Tensor:
        """The word-embedding table, [vocabulary, width]."""
        table: Any = self.model.get_input_embeddings()
        return table.weight

    def work(self, encoder: Encoder) -> float:
        """Multiplications of a forward pass, as a multiple of those in the encoder's layers."""
        own = sum(p.numel() for name, p in self.model.named_parameters() if p.dim() == 2 and "embeddings" not in name)
        tied = self.word_embeddings.numel() if self.model.config.tie_word_embeddings else 0
        layers = list(encoder.layer_list)
        calls = encoder.num_layers / len(layers)
        return (own + tied) / (calls * sum(p.numel() for layer in layers for p in layer.parameters() if p.dim() == 2))

    @torch.no_grad()
    def logits(self, inputs: dict[str, Tensor], bf16: bool = False) -> Tensor:
        """[B, T, vocabulary], float32, for an encoder's inputs; dropout is off. Moves the model to their device.

        bf16: the pass is in bfloat16 autocast; off, it is not, whatever the caller's is."""
        device = inputs["input_ids"].device
        if self.word_embeddings.device != device:
            self.model.to(device)
        taken = {name: value for name, value in inputs.items() if name in self._takes}
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16), fixed_weights(self._laid), Masks():
            out = self.model(**taken)
        return out.logits if out.logits.dtype == torch.float64 else out.logits.float()


def load_masked_lm(name: str, encoder: Encoder) -> MaskedLm:
    """The masked language model of a folder or hub name, loaded once however many methods ask for it.

    Raises `UserError` when there is none, its head was never trained, or its vocabulary is not the encoder's.
    """
    lm = _load(name)
    own = encoder.word_embeddings.num_embeddings
    if lm.vocabulary != own:
        raise UserError(f"mlm: {name}: has {lm.vocabulary} words, the encoder {own}: both need one vocabulary")
    theirs, ours = _vocabulary(name), _vocabulary(encoder.base.name_or_path)
    if theirs is not None and ours is not None and theirs != ours:
        word = min((word for word in ours if theirs.get(word) != ours[word]), key=ours.__getitem__, default=None)
        word = word or min(theirs.keys() - ours.keys())
        there, here = (words.get(word, "missing") for words in (ours, theirs))
        raise UserError(
            f"mlm: {name}: has another vocabulary than the encoder: '{word}' is number {there} there, {here} here; "
            "scripts/make_mlm.sh makes a masked language model for an encoder"
        )
    return lm


def masked_lm_with_tokenizer(name: str) -> tuple[MaskedLm, Any]:
    """The masked language model of a folder or hub name and its own tokenizer, whatever the vocabulary.

    Raises `UserError` when there is none, its head was never trained, or it has no tokenizer.
    """
    lm = _load(name)
    try:
        return lm, AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"mlm: {name}: its tokenizer cannot be loaded ({first_line(error)})") from error


@lru_cache(maxsize=4)
def _load(name: str) -> MaskedLm:
    if name.startswith((".", "/", "~")) and not (Path(name) / "config.json").is_file():
        raise UserError(f"mlm: {name}: no model folder (no config.json in it)")
    try:
        with no_progress_bars(), errors_only():
            model, report = AutoModelForMaskedLM.from_pretrained(name, dtype="float32", output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError, KeyError) as error:
        raise UserError(f"mlm: {name}: no masked language model can be loaded ({first_line(error)})") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"mlm: {name}: {len(missing)} weights of a masked language model are not in it (first: {missing[0]}): its "
            "head was not trained; scripts/make_mlm.sh trains one"
        )
    return MaskedLm(model, name)


@lru_cache(maxsize=8)
def _vocabulary(name: str) -> dict[str, int] | None:
    """Words and their numbers; None where a folder has no tokenizer (a model in memory)."""
    if not name:
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError):
        return None
    found: dict[str, int] = tokenizer.get_vocab()
    return found if len(found) > len(tokenizer.all_special_ids) else None
