"""Generated questions with short answers, and a tiny T5 with a unigram vocabulary learned on them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = {
    "who": ["doctor", "lawyer", "teacher", "pilot", "baker", "farmer", "singer", "judge"],
    "where": ["river", "bridge", "market", "castle", "garden", "station", "harbour", "forest"],
    "what": ["lamp", "ladder", "basket", "violin", "hammer", "bottle", "umbrella", "candle"],
}
PHRASES = {"who": "the {} came", "where": "near the {}", "what": "with a {}"}


def question_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """SQuAD's rows: one question about one of the three words of a sentence. Every answer stands in its context."""
    draw, rows = random.Random(seed), []
    for i in range(count):
        chosen = {kind: draw.choice(words) for kind, words in WORDS.items()}
        kind = draw.choice(list(WORDS))
        context = " ".join(PHRASES[each].format(chosen[each]) for each in draw.sample(list(WORDS), 3)) + "."
        answer = chosen[kind]
        answers = {"text": [answer], "answer_start": [context.index(answer)]}
        rows.append({"id": f"{seed}-{i}", "question": f"{kind}?", "context": context, "answers": answers})
    return rows


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8", newline="\n")


def t5_tokenizer() -> Any:
    """A unigram vocabulary in which each word of the rows is a piece or a few."""
    import transformers as hf
    from tokenizers import SentencePieceUnigramTokenizer

    texts = [f"question: {row['question']} context: {row['context']}" for row in question_rows(400, 99)]
    trained = SentencePieceUnigramTokenizer()
    specials = ["<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(texts, vocab_size=120, special_tokens=specials, unk_token="<unk>", show_progress=False)
    vocabulary = [(piece, round(score, 2)) for piece, score in json.loads(trained.to_str())["model"]["vocab"]]
    pieces = sorted(vocabulary[len(specials) :], key=lambda pair: (-pair[1], pair[0]))  # ties come in any order
    return hf.T5Tokenizer(vocab=[*vocabulary[: len(specials)], *pieces], extra_ids=0)


def write_t5(folder: Path, dropout: float = 0.0, untied: bool = False, seed: int = 5, **changes: Any) -> Path:
    """A random whole T5 of two layers, width 32. untied: as T5 1.1, with an output matrix of its own."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = t5_tokenizer()
    settings = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4} | changes
    config = T5Config(
        vocab_size=len(tokenizer), dropout_rate=dropout, decoder_start_token_id=0,
        feed_forward_proj="gated-gelu" if untied else "relu", tie_word_embeddings=not untied, **settings,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config)
        if untied:
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight) * 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
