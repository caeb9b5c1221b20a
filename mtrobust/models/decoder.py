"""The decoder of an encoder-decoder family, as a head over states of the encoder that were computed elsewhere.

The family's own class (`T5ForConditionalGeneration`) is built with a stand-in for its encoder. Embedding table and,
where the checkpoint ties it, output matrix are the encoder's word-embedding table itself: one parameter.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from mtrobust.errors import UserError
from mtrobust.models.family_head import Given
from mtrobust.models.loading import errors_only, first_line, no_progress_bars
from mtrobust.tasks.heads import IGNORED

CLASSES: dict[str, Any] = {"t5": T5ForConditionalGeneration}  # by model type; a further family is one row


class _Encoder(Given):
    """What `generate` asks of an encoder whose states it is given."""

    main_input_name = "input_ids"


class DecoderNet(nn.Module):
    """Decoder and output layer with fresh weights.

    config: of the encoder; words: its word-embedding table; dropout: of every place in the decoder when given.
    Raises `UserError` for a family without a decoder.
    """

    first_only = False

    def __init__(self, config: PreTrainedConfig, words: nn.Embedding, dropout: float | None = None) -> None:
        super().__init__()
        if config.model_type not in CLASSES:
            raise UserError(
                f"model type '{config.model_type}' has no decoder (supported: {', '.join(CLASSES)}, as whole models)"
            )
        self.config = copy.deepcopy(config)
        self.config.is_encoder_decoder = self.config.use_cache = True
        if getattr(self.config, "decoder_start_token_id", None) is None:
            self.config.decoder_start_token_id = self.config.pad_token_id
        # T5 1.0 ties its output matrix and scales what it multiplies; 1.1 does neither.
        self.tied = bool(self.config.scale_decoder_outputs)
        self.model: Any = _without_encoder(CLASSES[config.model_type], self.config, words, self.tied)
        if dropout is not None:
            _set_dropout(self.model, dropout)

    def search(self, beams: int, longest: int, penalty: float) -> None:
        """How `write` looks for a text, here and in an export. longest: in tokens, the end included."""
        config = self.config
        more = {"length_penalty": penalty} if beams > 1 else {}
        self.model.generation_config = GenerationConfig(
            num_beams=beams, max_new_tokens=longest, do_sample=False, pad_token_id=config.pad_token_id,
            eos_token_id=config.eos_token_id, decoder_start_token_id=config.decoder_start_token_id, **more,
        )  # fmt: skip

    def before(self, labels: Tensor) -> Tensor:
        """What the decoder reads to predict `labels` [B, L]: the start token and all labels but the last, with padding
        in place of `IGNORED`."""
        return self.model._shift_right(labels)

    def forward(
        self, last: Tensor, pooled: Tensor | None, inputs: dict[str, Tensor], where: Tensor | None = None
    ) -> Tensor:
        """Logits of the next token at each of `decoder_input_ids` [B, L]: [B, L, V], or with `where`, bool [B, L],
        those of its n places alone, [n, V]. last: the encoder's states [B, T, H]."""
        states = self.model.decoder(
            input_ids=inputs["decoder_input_ids"],
            encoder_hidden_states=last,
            encoder_attention_mask=inputs["attention_mask"],
            use_cache=False,
        ).last_hidden_state
        if where is not None:
            states = states[where]
        if self.config.scale_decoder_outputs:
            states = states * self.config.d_model**-0.5
        return self.model.lm_head(states)

    def write(self, last: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The text that the search finds for each row: (ids [B, L] with padding behind the end, the same as labels,
        with `IGNORED` there)."""
        found = self.model.generate(encoder_outputs=BaseModelOutput(last_hidden_state=last), attention_mask=mask)
        ids = found[:, 1:]  # without the start token
        ends = torch.tensor(self.model.generation_config.eos_token_id, device=ids.device).reshape(-1)
        inside = up_to_end(ids, ends)
        return ids.masked_fill(~inside, self.config.pad_token_id), ids.masked_fill(~inside, IGNORED)

    @torch.no_grad()
    def take_pretrained(self, source: str) -> list[str]:
        """Copies the weights of a checkpoint, a folder or hub name. Returns what is not in it, a line each."""
        if not source:
            return ["the encoder comes from no checkpoint"]
        try:
            with no_progress_bars(), errors_only():
                whole, report = type(self.model).from_pretrained(source, dtype="float32", output_loading_info=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            return [f"{source}: cannot be loaded as {type(self.model).__name__} ({first_line(error)})"]
        missing = sorted(key for key in report["missing_keys"] if key.startswith("decoder."))
        if missing:
            return [f"{source}: {len(missing)} weights of the decoder are not in it (first: {missing[0]})"]
        if self.tied and whole.lm_head.weight is not whole.shared.weight:
            return [f"{source}: its output matrix is not the word-embedding table, which its configuration says it is"]
        own = dict(self.model.named_parameters(remove_duplicate=False))
        for name, value in whole.named_parameters(remove_duplicate=False):
            if name.startswith("decoder.") or (name.startswith("lm_head.") and not self.tied):
                own[name].copy_(value)  # the tied table too, with the values that it has
        return []

    def full_model(self, base: PreTrainedModel) -> PreTrainedModel:
        """The family's class with the real encoder in it; weights are shared with `base` and this head."""
        full = copy.copy(self.model)
        full._modules = dict(self.model._modules)
        full._modules["encoder"] = base.encoder
        full.config = copy.deepcopy(self.config)
        full.generation_config = copy.deepcopy(self.model.generation_config)
        return full


def _without_encoder(cls: Any, config: PreTrainedConfig, words: nn.Embedding, tied: bool) -> PreTrainedModel:
    """An instance of the class whose encoder, never allocated, is a stand-in and whose embeddings are `words`."""
    with torch.device("meta"):
        model = cls(config)
    model.encoder = _Encoder()
    for module in (model.shared, model.decoder.embed_tokens, model.lm_head):
        module.weight = nn.Parameter(module.weight[:0])
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor._is_hf_initialized = False
    model.decoder.apply(model._init_weights)
    table = cast(nn.Parameter, words.weight)
    model.shared.weight = model.decoder.embed_tokens.weight = table
    if tied:
        model.lm_head.weight = table
    else:
        model.lm_head.weight = nn.Parameter(torch.empty_like(table, device="cpu"))
        nn.init.normal_(model.lm_head.weight, std=config.hidden_size**-0.5)
    return model


def up_to_end(ids: Tensor, ends: Tensor) -> Tensor:
    """bool [B, L]: which of the tokens belong to a text: up to its first end token, that included. ends: their ids."""
    end = torch.isin(ids, ends).long()
    return end.cumsum(1) - end == 0


def _set_dropout(model: nn.Module, p: float) -> None:
    """In dropout modules, and where an attention has its probability as a number."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p
        elif isinstance(getattr(module, "dropout", None), float | int):
            setattr(module, "dropout", p)  # noqa: B010 (not an attribute that a module declares)
