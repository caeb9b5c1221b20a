"""How close VDA's mixtures are to uniform over a real vocabulary, against recorded means over other random draws."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from tests.golden.exemptions import Ledger
from tests.golden.fixtures import Comparison, Fixture
from tests.golden.test_vda import mixture_options, statistics, vda

FILE = "vda_mixture_uniformity_real_embeddings"
# Means over some fifty tokens of other draws. The heaviest tail is that of exp(N(., 2^2)) over the vocabulary, where
# such a mean has a standard deviation of 1 percent.
RTOL = 0.05
# The recorded tokens, real text, lie further from the table's mean than the words drawn here: only a scale is compared.
DISTANCE_RTOL = 0.4
# A mean of cosines with random directions, one a token, in a few hundred dimensions that are not all used alike.
COSINE_ATOL = 0.05


class Made:
    """Stands in for a masked language model with given logits."""

    def __init__(self, logits: Tensor) -> None:
        self.made = logits
        self.vocabulary = logits.shape[-1]

    def logits(self, inputs: dict[str, Tensor], bf16: bool = False) -> Tensor:
        return self.made.clone()


def flat(tree: dict, prefix: str = "") -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        out.update(flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: np.array(value)})
    return out


def word_embeddings(folder: Path) -> Tensor:
    with safe_open(folder / "model.safetensors", "pt") as file:
        (name,) = (key for key in file.keys() if key.endswith("word_embeddings.weight"))  # noqa: SIM118
        return file.get_tensor(name).double()


def geometry(mixed: Tensor, own: Tensor, center: Tensor) -> dict[str, Tensor]:
    """Where mixed embeddings [n, d] lie between the table's mean [d] and the tokens' own embeddings [n, d]."""
    away, token = mixed - center, own - center
    return {
        "dist_to_vocab_mean_over_dist_token_to_mean": (away.norm(dim=1) / token.norm(dim=1)).mean(),
        "cos_to_own_token_centered": torch.cosine_similarity(away, token).mean(),
    }


def test_made_logits(golden: Path, real_model: Path, fixture: Fixture, mlm: Path) -> None:
    record = json.loads((golden / "encoder" / f"{FILE}.json").read_text(encoding="utf-8"))
    arrays = flat(record["results"])
    comparison = Comparison(Ledger(f"encoder/{FILE}"), arrays)
    bulk, spread, peak = map(float, re.search(r"N\((-?[\d.]+),([\d.]+)\^2\) and \+([\d.]+)", record["note"]).groups())
    table = word_embeddings(real_model)
    mask = fixture.batches["cls"].inputs["attention_mask"].bool()
    words = table.shape[0]
    ids = torch.randint(words, mask.shape)
    logits = bulk + spread * torch.randn(*mask.shape, words, dtype=torch.float64)
    logits = logits.scatter(-1, ids.unsqueeze(-1), peak)
    noise = torch.randn(logits.shape, dtype=torch.float64)
    for key in [key.removesuffix("/entropy") for key in arrays if re.match(r"synthetic.*/entropy$", key)]:
        method = vda(fixture, mlm, **mixture_options(key.split("/", 1)[1]))
        method.lm = Made(logits)
        _, weights = method.weights(fixture.passes("cls", noise, method), 0)
        values = {
            "logV": math.log(words),
            **statistics(weights[mask]),
            **geometry(weights[mask] @ table, table[ids[mask]], table.mean(0)),
        }
        for field, value in values.items():
            name = {"entropy_ratio_to_logV": "entropy_ratio", "max_prob_times_V": "max_prob_x_V"}.get(field, field)
            rtol = DISTANCE_RTOL if name.startswith("dist") else RTOL
            comparison.check(f"{key}/{name}", value, rtol, COSINE_ATOL if name.startswith("cos") else 0.0)
    comparison.close()
