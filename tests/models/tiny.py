"""Tiny encoders of every supported family, built from a config."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    CamembertConfig,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    RobertaConfig,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
)

from mtrobust.models.encoder import Encoder

LAYERS = 3
VOCABULARY = 60
_BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}

CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "bert": lambda **kw: BertConfig(**_BERT, **kw),
    "roberta": lambda **kw: RobertaConfig(**_BERT, pad_token_id=1, **kw),
    "xlm-roberta": lambda **kw: XLMRobertaConfig(**_BERT, pad_token_id=1, **kw),
    "camembert": lambda **kw: CamembertConfig(**_BERT, pad_token_id=1, **kw),
    "electra": lambda **kw: ElectraConfig(**_BERT, embedding_size=8, **kw),
    "deberta": lambda **kw: DebertaConfig(**_BERT, **_DEBERTA, **kw),
    "deberta-v2": lambda **kw: DebertaV2Config(
        **_BERT,
        **_DEBERTA,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        conv_kernel_size=3,
        conv_act="gelu",
        position_biased_input=False,
        **kw,
    ),
    "albert": lambda **kw: AlbertConfig(**_BERT, embedding_size=8, num_hidden_groups=1, **kw),
    "distilbert": lambda **kw: DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=16,
        n_layers=LAYERS,
        n_heads=2,
        hidden_dim=32,
        max_position_embeddings=64,
        dropout=kw.get("hidden_dropout_prob", 0.1),
        attention_dropout=kw.get("attention_probs_dropout_prob", 0.1),
    ),
    "mpnet": lambda **kw: MPNetConfig(**_BERT, **kw),
    "modernbert": lambda **kw: ModernBertConfig(
        **_BERT,
        pad_token_id=0,
        cls_token_id=1,
        sep_token_id=2,
        bos_token_id=1,
        eos_token_id=2,
        embedding_dropout=kw.get("hidden_dropout_prob", 0.1),
        mlp_dropout=kw.get("hidden_dropout_prob", 0.1),
        attention_dropout=kw.get("attention_probs_dropout_prob", 0.1),
        local_attention=26,
        global_attn_every_n_layers=2,
    ),
    "t5": lambda **kw: T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=LAYERS,
        num_heads=2,
        dropout_rate=kw.get("hidden_dropout_prob", 0.1),
    ),
}
FAMILIES = list(CONFIGS)
WITHOUT_SDPA = {"deberta", "deberta-v2", "mpnet"}
WITHOUT_TYPES = {
    "roberta",
    "xlm-roberta",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "mpnet",
    "modernbert",
    "t5",
}


def tiny_encoder(family: str, dropout: float = 0.1, attention: str | None = None, seed: int = 0) -> Encoder:
    """A randomly initialised encoder of the family, in training mode."""
    torch.manual_seed(seed)
    config = CONFIGS[family](hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    if attention is not None:
        config._attn_implementation = attention
    base = T5EncoderModel(config) if family == "t5" else AutoModel.from_config(config)
    # Larger weights than the usual 0.02, so that an edit shows in the output.
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(5 if "embed" not in name else 1)
    return Encoder(base).train()


def tiny_inputs(family: str, rows: int = 4, length: int = 12, seed: int = 0) -> dict[str, torch.Tensor]:
    """Token ids with padding in all rows but the first; token types where the family has them."""
    generator = torch.Generator().manual_seed(seed)
    pad = 1 if family in ("roberta", "xlm-roberta", "camembert") else 0
    ids = torch.randint(5, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        mask[row, max(4, length - 2 * row) :] = 0
    inputs = {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask}
    if family not in WITHOUT_TYPES:
        inputs["token_type_ids"] = (torch.arange(length) > length // 2).long().repeat(rows, 1) * mask
    return inputs
