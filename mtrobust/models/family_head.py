"""A family's own task head, taken from its Hugging Face class.

`BertForSequenceClassification` and its kin differ in pooling, activation, dropout and norm. Instead of a table of
these, the class itself is built with a stand-in for its encoder that hands over states computed elsewhere: the head is
the family's by construction, and export is putting the real encoder back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_MULTIPLE_CHOICE_MAPPING,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mtrobust.errors import UserError
from mtrobust.models.families import family_of

Kind = Literal["sequence", "choice", "token", "span", "mlm"]
_MAPPINGS: dict[str, Any] = {
    "sequence": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    "choice": MODEL_FOR_MULTIPLE_CHOICE_MAPPING,
    "token": MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    "span": MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    "mlm": MODEL_FOR_MASKED_LM_MAPPING,
}
_CALLED = {
    "sequence": "sequence classification",
    "choice": "multiple choice",
    "token": "token classification",
    "span": "question answering",
    "mlm": "masked language modelling",
}
_HAVE = (
    "BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, DeBERTa, DeBERTa-v2, ALBERT, DistilBERT, MPNet and ModernBERT have one"
)
_OF_FIRST = ("sequence", "choice")  # kinds that read one vector per text
# T5's classes for these tasks read the decoder; an encoder alone takes the linear heads below.
_WITHOUT = frozenset({"t5"})


class _Given(nn.Module):
    """Stands where a model's encoder was and returns what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.out: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        return self.out


class _MeanHead(nn.Module):
    """Dropout and a linear layer over the mean of the real tokens (sequence, choice) or each token (token, span)."""

    def __init__(self, config: PreTrainedConfig, kind: Kind, num_labels: int) -> None:
        super().__init__()
        self.kind = kind
        self.dropout = nn.Dropout(getattr(config, "dropout_rate", 0.1))
        self.classifier = nn.Linear(config.hidden_size, num_labels)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, last: Tensor, mask: Tensor) -> Tensor:
        if self.kind in _OF_FIRST:
            weight = mask.to(last.dtype).unsqueeze(-1)
            last = (last * weight).sum(1) / weight.sum(1)
        return self.classifier(self.dropout(last))


class FamilyHead(nn.Module):
    """The head of the family's `AutoModelForSequenceClassification`, `…MultipleChoice`, `…TokenClassification`,
    `…QuestionAnswering` or `…MaskedLM` class.

    num_labels: outputs, not for `choice` and `mlm`; dropout: replaces the probability of every dropout in the head when
    given; words: for `mlm`, the encoder's word-embedding table, whose weight is the head's output matrix too (one
    parameter). first_only: whether nothing but the first token's last state (or the pooled one) is read.
    Where a multiple-choice class reads the encoder's pooler and the sequence class does not (RoBERTa's kin, MPNet), so
    that the shared encoder has none, the head has a pooler of its own, which becomes the encoder's on export.
    Raises `UserError` for `mlm` in a family without such a class.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        kind: Kind,
        num_labels: int | None,
        dropout: float | None = None,
        words: nn.Embedding | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.config = copy.deepcopy(config)
        self.own_class = type(config) in _MAPPINGS[kind] and config.model_type not in _WITHOUT
        if kind == "mlm":
            self.model: Any = self._language_model(words)
        elif self.own_class:
            self.config.num_labels = num_labels or 1
            self.model = _without_encoder(_MAPPINGS[kind][type(config)], self.config)
        else:
            self.model = _MeanHead(config, kind, num_labels or 1)
        self.pooler = self._own_pooler() if kind == "choice" and self.own_class else None
        # All these classes pool the first token, by a pooler of the encoder or their own.
        self.first_only = kind in _OF_FIRST and self.own_class and family_of(config.model_type).narrow != ""
        if dropout is not None:
            for module in self.model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = dropout

    def _language_model(self, words: nn.Embedding | None) -> PreTrainedModel:
        """The class without its encoder, its output matrix tied to `words`; its bias is the head's own."""
        if not self.own_class or words is None:
            raise UserError(_no_class(self.config, self.kind))
        self.config.tie_word_embeddings = True
        if getattr(self.config, "legacy", None) is False:  # DeBERTa's other form reads the encoder's table by its path
            self.config.legacy = True
        table = cast(nn.Parameter, words.weight)
        return _without_encoder(_MAPPINGS[self.kind][type(self.config)], self.config, table)

    def _own_pooler(self) -> nn.Module | None:
        """The pooler that the class wants of its encoder and the shared encoder lacks, freshly initialised."""
        if self.reads_pooler(self.config):
            return None
        cls: Any = type(self.model)
        with torch.device("meta"):
            pooler = getattr(getattr(cls(copy.deepcopy(self.config)), cls.base_model_prefix), "pooler", None)
        return None if pooler is None else _fresh(self.model, pooler)

    @staticmethod
    def reads_pooler(config: PreTrainedConfig) -> bool:
        """Whether the family's classification class reads the encoder's pooler (BERT does, RoBERTa does not)."""
        mapping = _MAPPINGS["sequence"]
        if type(config) not in mapping or config.model_type in _WITHOUT:
            return False
        cls: Any = mapping[type(config)]
        with torch.device("meta"):
            model = cls(copy.deepcopy(config))
        return getattr(getattr(model, cls.base_model_prefix), "pooler", None) is not None

    def forward(self, last: Tensor, pooled: Tensor | None, inputs: dict[str, Tensor]) -> Tensor:
        """Logits: `[B, num_labels]` (sequence), `[B, 1]` (choice), `[B, T, num_labels]` (token), `[B, T, 2]` (span:
        start, end) or `[B, T, vocabulary]` (mlm)."""
        if not self.own_class:
            return self.model(last, inputs["attention_mask"])
        stand_in = getattr(self.model, self.model.base_model_prefix)
        pooled = pooled if self.pooler is None else self.pooler(last)
        stand_in.out = BaseModelOutputWithPooling(last_hidden_state=last, pooler_output=pooled)
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        if self.kind == "choice":  # the class takes [lists, choices, T]: the batch as one list
            given = {name: tensor.unsqueeze(0) for name, tensor in given.items()}
        try:
            out = self.model(**given)
        finally:
            stand_in.out = None  # no graph is kept alive by the head
        if self.kind == "choice":
            return out.logits.transpose(0, 1)
        return torch.stack((out.start_logits, out.end_logits), dim=-1) if self.kind == "span" else out.logits

    def full_model(self, base: PreTrainedModel) -> PreTrainedModel:
        """The family's class with the real encoder in it; weights are shared with `base` and this head.

        Raises `UserError` for a family without such a class.
        """
        if not self.own_class:
            raise UserError(f"this task cannot be exported: {_no_class(self.config, self.kind)}")
        cls: Any = type(self.model)
        with torch.device("meta"):
            wanted = getattr(cls(copy.deepcopy(self.config)), cls.base_model_prefix)
        encoder = copy.copy(base)
        encoder._modules = dict(base._modules)
        if getattr(wanted, "pooler", None) is None and "pooler" in encoder._modules:
            encoder._modules["pooler"] = None
        if self.pooler is not None:
            encoder._modules["pooler"] = self.pooler
        full = copy.copy(self.model)
        full._modules = dict(self.model._modules)
        full._modules[cls.base_model_prefix] = encoder
        full.config = copy.deepcopy(self.config)
        return full

    @torch.no_grad()
    def with_pooler(
        self, base: PreTrainedModel, dense: nn.Linear, out: nn.Linear, same: Callable[..., Tensor]
    ) -> PreTrainedModel | None:
        """`full_model` with another dense layer over the first token and another output layer in its place.

        None where the class has no two such layers or, tried on a few tokens, gives other logits than
        `same(last, None, inputs)` (another activation between them, a norm).
        """
        full = self.full_model(base)
        prefix = full.base_model_prefix
        encoder = getattr(full, prefix)
        if encoder._modules.get("pooler") is not None:  # the base's own stays as it is
            encoder._modules["pooler"] = copy.deepcopy(encoder._modules["pooler"])
        linear = [
            module
            for name, module in full.named_modules()
            if isinstance(module, nn.Linear) and (not name.startswith(f"{prefix}.") or f"{prefix}.pooler" in name)
        ]
        if [tuple(module.weight.shape) for module in linear] != [tuple(dense.weight.shape), tuple(out.weight.shape)]:
            return None
        for mine, theirs in zip(linear, (dense, out), strict=True):
            mine.weight, mine.bias = theirs.weight, theirs.bias
        ids = torch.arange(1, 9, device=base.device).view(2, 4)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        modes = [(module, module.training) for module in (full, base, dense, out)]
        full.eval(), base.eval()
        wanted = same(base(**inputs).last_hidden_state, None, inputs)
        equal = torch.allclose(full(**inputs).logits, wanted, atol=1e-5, rtol=1e-5)
        for module, training in modes:
            module.train(training)
        return full if equal else None


def _no_class(config: PreTrainedConfig, kind: Kind) -> str:
    """That a family lacks a kind of head."""
    name = config.model_type
    return f"model type '{name}' has no Hugging Face class for {_CALLED[kind]} on an encoder alone; {_HAVE}"


def _without_encoder(
    cls: type[PreTrainedModel], config: PreTrainedConfig, table: nn.Parameter | None = None
) -> PreTrainedModel:
    """An instance of the class with fresh head weights and a stand-in for its encoder, which is never allocated.

    table: becomes the weight of the model's output layer, as it is; for classes that tie this to their embeddings.
    """
    with torch.device("meta"):
        model = cls(config)
    setattr(model, model.base_model_prefix, _Given())
    output: Any = model.get_output_embeddings() if table is not None else None
    if output is not None:
        output.weight = nn.Parameter(output.weight[:0])  # never allocated either
    _fresh(model, model)
    if output is not None:
        output.weight = table
        _tie_bias(model, output)
    return model


def _fresh(model: PreTrainedModel, part: nn.Module) -> nn.Module:
    """A part that was made without memory, now with weights as the model's class begins."""
    part.to_empty(device="cpu")
    for tensor in (*part.parameters(), *part.buffers()):
        setattr(tensor, "_is_hf_initialized", False)  # noqa: B010 (not an attribute that a tensor declares)
    for module in part.modules():
        if not isinstance(module, _Given):
            model._init_weights(module)
    return part


def _tie_bias(model: PreTrainedModel, output: nn.Module) -> None:
    """Zeroes the output layer's bias, and makes it one parameter again with that of the module around it, where the
    class ties the two (BERT's `predictions.bias`): each was allocated for itself."""
    if output.bias is None:
        return
    nn.init.zeros_(output.bias)  # type: ignore[arg-type]
    for name in (model._tied_weights_keys or {}).values():
        owner, _, last = name.rpartition(".")
        if last == "bias":
            setattr(model.get_submodule(owner), last, output.bias)
