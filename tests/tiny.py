"""Tiny random encoders with a tokenizer of the family's own kind, saved as `from_pretrained` reads them.

Vocabularies are made of a few fixed sentences, so that nothing is downloaded and every run has the same ids.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXT = [
    "A clear film with a warm heart and a dull end.",
    "The doctor who met the lawyers slept, and the lawyers did not sleep.",
    "Where was the old bridge built? It was built near the river in 1886.",
    "Shares of the firm fell 3.5 percent; the market rose.",
    "No cat chased every dog, but some dogs chased the cat!",
    'He said: "the team won (2-1) in Zürich" - naïve café prices.',
] * 3

_WORDPIECE_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_BPE_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def _words(lowercase: bool) -> Counter[str]:
    """Words and single punctuation marks of TEXT with how often they occur."""
    return Counter(word for text in TEXT for word in re.findall(r"\w+|[^\w\s]", text.lower() if lowercase else text))


def _wordpiece(specials: list[str] | None = None) -> dict[str, int]:
    """Token to id, BERT's special tokens first: characters, words and the two halves of each word.

    Not learned: the trainer of `tokenizers` breaks ties by the order of a hash table, which is another in each process.
    """
    words = [unicodedata.normalize("NFD", word) for word in _words(lowercase=True)]
    words = ["".join(letter for letter in word if not unicodedata.combining(letter)) for word in words]
    pieces = {letter for word in words for letter in word} | {f"##{letter}" for word in words for letter in word[1:]}
    for word in words:
        middle = (len(word) + 1) // 2
        pieces |= {word, word[:middle]} | ({f"##{word[middle:]}"} if len(word) > 1 else set())
    return {token: index for index, token in enumerate([*(specials or _WORDPIECE_SPECIALS), *sorted(pieces)])}


def _bpe(specials: list[str]) -> dict[str, Any]:
    """Keywords `vocab` and `merges` of a byte-level tokenizer."""
    import json

    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXT, vocab_size=330, min_frequency=1, special_tokens=specials, show_progress=False)
    model = json.loads(trained.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def _unigram(specials: list[str]) -> list[tuple[str, float]]:
    """Pieces with their log-probabilities, special tokens first: words by how often they occur, halves and characters.

    Not learned, for the reason given in `_wordpiece`.
    """
    counts: Counter[str] = Counter({"▁": 1})
    for word, number in _words(lowercase=False).items():
        middle = (len(word) + 1) // 2
        counts[f"▁{word}"] += 100 * number
        for part in (f"▁{word[:middle]}", word[middle:], *word):
            counts[part] += len(part)
    del counts[""]
    total = sum(counts.values())
    pieces = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [*((token, 0.0) for token in specials), *((piece, math.log(number / total)) for piece, number in pieces)]


def _tokenizer(family: str) -> Any:
    import transformers as hf

    deberta = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    makers: dict[str, Callable[[], Any]] = {
        "bert": lambda: hf.BertTokenizer(vocab=_wordpiece()),
        "electra": lambda: hf.ElectraTokenizer(vocab=_wordpiece()),
        "distilbert": lambda: hf.DistilBertTokenizer(
            vocab=_wordpiece(), model_input_names=["input_ids", "attention_mask"]
        ),
        "mpnet": lambda: hf.MPNetTokenizer(
            vocab=_wordpiece(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]),
            model_input_names=["input_ids", "attention_mask"],
        ),
        "roberta": lambda: hf.RobertaTokenizer(**_bpe(_BPE_SPECIALS)),
        "deberta": lambda: hf.DebertaTokenizer(**_bpe(deberta)),
        "modernbert": _modernbert_tokenizer,
        "xlm-roberta": lambda: hf.XLMRobertaTokenizer(vocab=_unigram(["<s>", "<pad>", "</s>", "<unk>"])),
        "albert": lambda: hf.AlbertTokenizer(vocab=_unigram(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"])),
        "deberta-v2": lambda: hf.DebertaV2Tokenizer(vocab=_unigram(deberta), unk_id=3),
        "t5": lambda: hf.T5Tokenizer(vocab=_unigram(["<pad>", "</s>", "<unk>"]), extra_ids=0),
    }
    return makers[family]()


def _modernbert_tokenizer() -> Any:
    """Byte-level pieces with BERT's special tokens and template, as the released ModernBERT has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    parts = _bpe(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    raw = Tokenizer(models.BPE(vocab=parts["vocab"], merges=parts["merges"]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, parts["vocab"][token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )


_SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
_CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**_SIZE},
    "electra": {**_SIZE, "embedding_size": 24},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48},
    "mpnet": {**_SIZE},
    "roberta": {**_SIZE, "max_position_embeddings": 130},
    "xlm-roberta": {**_SIZE, "max_position_embeddings": 130},
    "deberta": {**_SIZE, "relative_attention": True, "pos_att_type": "c2p|p2c", "position_biased_input": False},
    "deberta-v2": {
        **_SIZE,
        "relative_attention": True,
        "pos_att_type": "c2p|p2c",
        "position_biased_input": False,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_buckets": 16,
        "conv_kernel_size": 3,
        "conv_act": "gelu",
    },
    "albert": {**_SIZE, "embedding_size": 24, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    "modernbert": {
        **_SIZE,
        "global_attn_every_n_layers": 2,
        "local_attention": 8,
        "embedding_dropout": 0.1,
        "bos_token_id": None,
        "eos_token_id": None,
    },
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4},
}
FAMILIES = tuple(_CONFIGS)


def write_tiny_model(family: str, folder: Path, seed: int = 5, whole: bool = False, **changes: Any) -> Path:
    """A random model of three layers, width 32, and its tokenizer in `folder`; families are in `FAMILIES`. whole: of T5
    with its decoder; changes: to the settings of its configuration."""
    tokenizer = _tokenizer(family)
    tokenizer.save_pretrained(folder)
    return _write_model(family, folder, tokenizer, seed, changes, whole)


def _write_model(
    family: str, folder: Path, tokenizer: Any, seed: int, changes: dict[str, Any], whole: bool = False
) -> Path:
    """The random model for a tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModel, T5EncoderModel, T5ForConditionalGeneration

    settings: dict[str, Any] = {"max_position_embeddings": 128} if family != "t5" else {}
    settings |= _CONFIGS.get(family, _CONFIGS["roberta"]) | changes
    for name in ("pad", "cls", "sep", "bos", "eos"):
        if getattr(tokenizer, f"{name}_token_id", None) is not None:
            settings[f"{name}_token_id"] = getattr(tokenizer, f"{name}_token_id")
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        t5 = T5ForConditionalGeneration if whole else T5EncoderModel
        model = t5(config) if family == "t5" else AutoModel.from_config(config)
    model.save_pretrained(folder)
    return folder


# --- as the families are released: vocabulary files of their own kind, which transformers makes a tokenizer of --------

_SENTENCEPIECE: dict[str, tuple[str, dict[str, Any]]] = {
    "xlm-roberta": ("sentencepiece.bpe.model", {}),
    "camembert": ("sentencepiece.bpe.model", {}),
    "albert": ("spiece.model", {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1,
                                "user_defined_symbols": "[CLS],[SEP],[MASK]"}),
    "deberta-v2": ("spm.model", {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "[PAD]",
                                 "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}),
    "t5": ("spiece.model", {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}),
}  # fmt: skip
_WORDPIECE = {"bert": None, "electra": None, "distilbert": None, "mpnet": ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]}
_BYTE_LEVEL = {"roberta": _BPE_SPECIALS, "deberta": ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]}
RELEASED = (*_WORDPIECE, *_BYTE_LEVEL, *_SENTENCEPIECE, "modernbert")


def write_released_model(family: str, folder: Path) -> Path:
    """A random model of a family in `RELEASED`, its tokenizer in the files that the family was released with."""
    import json

    import sentencepiece
    from transformers import AutoTokenizer

    if family == "modernbert":  # released with a tokenizer.json alone
        return write_tiny_model(family, folder)
    folder.mkdir(parents=True)
    if family in _WORDPIECE:
        vocabulary = _wordpiece(_WORDPIECE[family])
        lines = "".join(f"{piece}\n" for piece in sorted(vocabulary, key=vocabulary.__getitem__))
        (folder / "vocab.txt").write_text(lines, encoding="utf-8")
    elif family in _BYTE_LEVEL:
        parts = _bpe(_BYTE_LEVEL[family])
        (folder / "vocab.json").write_text(json.dumps(parts["vocab"]), encoding="utf-8")
        merges = "".join(f"{a} {b}\n" for a, b in parts["merges"])
        (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    else:
        name, options = _SENTENCEPIECE[family]
        with open(folder / name, "wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(TEXT), model_writer=file, vocab_size=150, hard_vocab_limit=False,
                minloglevel=2, **options,
            )  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"model_type": family}), encoding="utf-8")
    return _write_model(family, folder, AutoTokenizer.from_pretrained(folder), 5, {})
