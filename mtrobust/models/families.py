"""Where each supported encoder family keeps its layers. A new family is one line here."""

from __future__ import annotations

from dataclasses import dataclass

from mtrobust.errors import UserError


@dataclass(frozen=True)
class Family:
    """layers: path of the module list whose items are called in order; words: path of the word-embedding module
    (empty: `get_input_embeddings()`); block: path of the embedding block where its output is read by more than the
    first layer, so that an edit of site 0 must be made there; auto_class: the transformers class that loads the bare
    encoder; checkpointing: whether transformers can recompute its activations in the backward pass; narrow: name of
    the module within a layer from which on every token is on its own; empty where sequence heads read more than the
    first token; narrow_inputs: whether that begins with its inputs, `[B, T, H]` all, or with its output (or the first
    item of it)."""

    layers: str = "encoder.layer"
    words: str = ""
    block: str = ""
    auto_class: str = "AutoModel"
    checkpointing: bool = True
    narrow: str = "attention.output"
    narrow_inputs: bool = True


FAMILIES: dict[str, Family] = {
    "bert": Family(),
    "roberta": Family(),
    "xlm-roberta": Family(),
    "camembert": Family(),
    "electra": Family(),
    "deberta": Family(),
    "deberta-v2": Family(block="embeddings"),  # its convolution reads the embedding output too
    "mpnet": Family(checkpointing=False, narrow="attention", narrow_inputs=False),
    # ALBERT calls one group of shared layers again and again: sites count calls, not modules.
    "albert": Family(
        layers="encoder.albert_layer_groups", checkpointing=False, narrow="attention", narrow_inputs=False
    ),
    "distilbert": Family(layers="transformer.layer", narrow="sa_layer_norm", narrow_inputs=False),
    "modernbert": Family(layers="layers", narrow=""),
    "t5": Family(layers="encoder.block", words="encoder.embed_tokens", auto_class="T5EncoderModel", narrow=""),
}

REFUSED = {
    "xlnet": "its two-stream layers and relative segment memory cannot be resumed from a layer",
}


def family_of(model_type: str) -> Family:
    """The family table's entry. Raises `UserError` naming the supported families otherwise."""
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    why = f" ({REFUSED[model_type]})" if model_type in REFUSED else ""
    raise UserError(f"model type '{model_type}' is not supported{why}; supported: {', '.join(sorted(FAMILIES))}")
