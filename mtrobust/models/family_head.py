"""A family's own task head, taken from its Hugging Face class.

`BertForSequenceClassification` and its kin differ in pooling, activation, dropout and norm. Instead of a table of
these, the class itself is built with a stand-in for its encoder that hands over states computed elsewhere: the head is
the family's by construction, and export is putting the real encoder back.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mtrobust.errors import UserError

Kind = Literal["sequence", "span"]
_MAPPINGS: dict[str, Any] = {
    "sequence": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    "span": MODEL_FOR_QUESTION_ANSWERING_MAPPING,
}
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
    """Dropout and a linear layer over the mean of the real tokens (sequence) or over each token (span)."""

    def __init__(self, config: PreTrainedConfig, kind: Kind, num_labels: int) -> None:
        super().__init__()
        self.kind = kind
        self.dropout = nn.Dropout(getattr(config, "dropout_rate", 0.1))
        self.classifier = nn.Linear(config.hidden_size, num_labels)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, last: Tensor, mask: Tensor) -> Tensor:
        if self.kind == "sequence":
            weight = mask.to(last.dtype).unsqueeze(-1)
            last = (last * weight).sum(1) / weight.sum(1)
        return self.classifier(self.dropout(last))


class FamilyHead(nn.Module):
    """The head of the family's `AutoModelForSequenceClassification` / `AutoModelForQuestionAnswering` class.

    dropout: replaces the probability of every dropout in the head when given.
    """

    def __init__(self, config: PreTrainedConfig, kind: Kind, num_labels: int, dropout: float | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.config = copy.deepcopy(config)
        self.config.num_labels = num_labels
        self.own_class = type(config) in _MAPPINGS[kind] and config.model_type not in _WITHOUT
        if self.own_class:
            self.model: Any = _without_encoder(_MAPPINGS[kind][type(config)], self.config)
        else:
            self.model = _MeanHead(config, kind, num_labels)
        if dropout is not None:
            for module in self.model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = dropout

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
        """Logits: `[B, num_labels]` (sequence) or `[B, T, 2]` (span: start, end)."""
        if not self.own_class:
            return self.model(last, inputs["attention_mask"])
        stand_in = getattr(self.model, self.model.base_model_prefix)
        stand_in.out = BaseModelOutputWithPooling(last_hidden_state=last, pooler_output=pooled)
        try:
            out = self.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        finally:
            stand_in.out = None  # no graph is kept alive by the head
        if self.kind == "sequence":
            return out.logits
        return torch.stack((out.start_logits, out.end_logits), dim=-1)

    def full_model(self, base: PreTrainedModel) -> PreTrainedModel:
        """The family's class with the real encoder in it; weights are shared with `base` and this head.

        Raises `UserError` for a family without such a class.
        """
        if not self.own_class:
            what = "sequence classification" if self.kind == "sequence" else "question answering"
            raise UserError(
                f"model type '{self.config.model_type}' has no Hugging Face class for {what} on an encoder alone, "
                "so this task cannot be exported; BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, DeBERTa, DeBERTa-v2, "
                "ALBERT, DistilBERT, MPNet and ModernBERT can"
            )
        cls: Any = type(self.model)
        with torch.device("meta"):
            wanted = getattr(cls(copy.deepcopy(self.config)), cls.base_model_prefix)
        encoder = copy.copy(base)
        encoder._modules = dict(base._modules)
        if getattr(wanted, "pooler", None) is None and "pooler" in encoder._modules:
            encoder._modules["pooler"] = None
        full = copy.copy(self.model)
        full._modules = dict(self.model._modules)
        full._modules[cls.base_model_prefix] = encoder
        full.config = copy.deepcopy(self.config)
        return full


def _without_encoder(cls: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """An instance of the class with fresh head weights and a stand-in for its encoder, which is never allocated."""
    with torch.device("meta"):
        model = cls(config)
    setattr(model, model.base_model_prefix, _Given())
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        setattr(tensor, "_is_hf_initialized", False)  # noqa: B010 (not an attribute that a tensor declares)
    for module in model.modules():
        if not isinstance(module, _Given):
            model._init_weights(module)
    return model
