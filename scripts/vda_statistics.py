"""What VDA's mixtures are made of, with a masked language model on real texts.

    python scripts/vda_statistics.py --mlm FOLDER --model ENCODER --rows FILE.jsonl [--rows FILE.jsonl ...]

For each mixture, over the real tokens of the first --count texts of each file: the entropy (and its share of log V),
the largest weight, and the share of tokens whose nearest word (by cosine, and by distance) to the virtual embedding is
still the original one; for `log_posterior` with the top words also the share of the posterior that they hold.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoTokenizer

from mtrobust.models.multitask import load_encoder
from mtrobust.perturb import METHODS, Passes
from mtrobust.perturb.noise import KeyedNoise
from mtrobust.tasks.base import Batch

VARIANTS: dict[str, dict[str, Any]] = {
    "log_posterior, all words": {"top_k": 0},
    "log_posterior, top 128 (default)": {},
    "log_posterior, top 32": {"top_k": 32},
    "log_posterior, top 128, no noise": {"sigma": 0.0},
    "log_posterior, top 128, sigma 1": {"sigma": 1.0},
    "eq4 (sigma 0.1)": {"mixture": "eq4"},
    "repo (sigma 0.05)": {"mixture": "repo"},
}


def batches(path: Path, count: int, tokenizer: Any) -> list[Batch]:
    """Batches of 8 texts of up to 64 tokens."""
    with path.open(encoding="utf-8", newline="\n") as file:
        texts = [json.loads(line)["text"] for _, line in zip(range(count), file, strict=False)]
    made = []
    for start in range(0, len(texts), 8):
        part = texts[start : start + 8]
        encoded = tokenizer(part, padding=True, truncation=True, max_length=64, return_tensors="pt")
        made.append(Batch("any", dict(encoded), {}, torch.arange(start, start + len(part))))
    return made


class Head(torch.nn.Module):
    """`Passes` asks a head for counts; nothing here is trained."""

    def count(self, batch: Batch) -> torch.Tensor:
        """The number of texts."""
        return torch.tensor(len(batch.row_ids))

    items = count


@torch.no_grad()
def measure(method: Any, encoder: Any, found: list[Batch]) -> list[float]:
    """Means over tokens: entropy, largest weight, captured mass, nearest word kept by cosine and by distance."""
    table = encoder.word_embeddings.weight
    unit = functional.normalize(table, dim=-1)
    rows = []
    for batch in found:
        passes: Any = Passes(encoder, Head(), batch, KeyedNoise(1))  # type: ignore[arg-type]
        real = batch.inputs["attention_mask"].bool()
        words, weights = method.weights(passes, 0)
        weights = weights[real].clamp_min(1e-30)
        virtual = method.virtual(passes, table, 0)[real]
        ids = batch.inputs["input_ids"][real]
        cosine = (functional.normalize(virtual, dim=-1) @ unit.T).argmax(-1) == ids
        nearest = torch.cdist(virtual, table).argmin(-1) == ids
        entropy, largest = -(weights * weights.log()).sum(-1), weights.amax(-1)
        mass = float(passes.stats.get("captured_mass", 1.0))
        columns = (entropy, largest, torch.full_like(largest, mass), cosine.float(), nearest.float())
        rows.append(torch.stack(columns, dim=1))
    return torch.cat(rows).mean(0).tolist()


def main() -> None:
    """Prints one Markdown table per file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mlm", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=Path, action="append", required=True)
    parser.add_argument("--count", type=int, default=128)
    args = parser.parse_args()
    encoder, tokenizer = load_encoder(args.model), AutoTokenizer.from_pretrained(args.model)
    size = math.log(encoder.word_embeddings.num_embeddings)
    for path in args.rows:
        found = batches(path, args.count, tokenizer)
        tokens = sum(int(batch.inputs["attention_mask"].sum()) for batch in found)
        print(f"\n{path}: {tokens} tokens\n")
        print(
            "| mixture | entropy (of log V) | largest weight | captured mass | nearest is original: cosine | distance |"
        )
        print("|---|---|---|---|---|---|")
        for name, options in VARIANTS.items():
            method = METHODS["vda"](METHODS["vda"].Options(mlm=args.mlm, mlm_bf16=False, **options), encoder)
            entropy, largest, mass, cosine, nearest = measure(method, encoder, found)
            shares = f"{largest:.4f} | {mass:.3f} | {100 * cosine:.1f} % | {100 * nearest:.1f} %"
            print(f"| {name} | {entropy:.2f} ({100 * entropy / size:.2f} %) | {shares} |", flush=True)


if __name__ == "__main__":
    main()
