"""A small golden folder of our own, so that golden tests are tested on cases which they were not written beside.

Other shapes, steps and criteria of MT-DNN's SMART than the recorded half has, computed literally with plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig, BertModel

ROWS, TOKENS, WIDTH, CLASSES = 3, 7, 16, 5
SIZE, NORM_EPSILON = 1e-3, 1e-6


def log_odds(x: Tensor) -> Tensor:
    return -torch.log(1 / (x + 1e-6) - 1 + 1e-6)


def stable_kl_sum(first: Tensor, second: Tensor) -> Tensor:
    p, q = first.softmax(-1), second.softmax(-1).detach()
    return 2 * (p * (log_odds(p).detach() - log_odds(q))).sum()


def kl(first: Tensor, second: Tensor) -> Tensor:
    return (second.softmax(-1) * (second.log_softmax(-1) - first.log_softmax(-1))).sum() / len(first)


CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": kl,
    "symkl": lambda a, b: kl(a, b.detach()) + kl(b, a.detach()),
    "nskl": lambda a, b: stable_kl_sum(a, b) / len(a),
    "nssymkl": lambda a, b: (stable_kl_sum(a, b) + stable_kl_sum(b, a)) / len(a),
}


def write_fixtures(folder: Path) -> tuple[BertModel, dict[str, np.ndarray]]:
    """The encoder in float64, and all arrays of `batch.npz`, `heads.npz` and `noise.npz`."""
    folder.mkdir(parents=True)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=40, hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.5,
    )  # fmt: skip
    model = BertModel(config)
    save_file(model.state_dict(), folder / "bert_model.safetensors")
    config.to_json_file(folder / "bert_config.json")
    mask = (torch.arange(TOKENS) < torch.tensor([[7], [5], [3]])).long()
    normal = lambda *shape: torch.randn(shape).numpy()  # noqa: E731
    batch = {
        "input_ids": (torch.randint(1, 40, mask.shape) * mask).numpy(), "attention_mask": mask.numpy(),
        "token_type_ids": np.zeros((ROWS, TOKENS), np.int64), "labels": np.array([4, 0, 2]),
        "reg_targets": normal(ROWS), "start_positions": np.array([1, 2, 1]), "end_positions": np.array([3, 2, 1]),
    }  # fmt: skip
    heads = {}
    for name, outputs in (("cls", CLASSES), ("reg", 1), ("span", 2)):
        heads |= {f"{name}_weight": normal(outputs, WIDTH), f"{name}_bias": normal(outputs)}
    noise = {"z_embed": normal(ROWS, TOKENS, WIDTH)}
    for name, arrays in (("batch", batch), ("heads", heads), ("noise", noise)):
        np.savez(folder / f"{name}.npz", **arrays)
    return model.double().eval(), {**batch, **heads, **noise}


def smart(model: BertModel, given: dict[str, np.ndarray], mode: str, steps: int, norm: str, criterion: str) -> Any:
    """The recorded fields of one classification case, norms over each token."""
    block = model.embeddings if mode == "post_embed" else model.embeddings.word_embeddings
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = {name: torch.from_numpy(given[name]) for name in names}
    weight, bias = (torch.from_numpy(given[f"cls_{part}"]).double().requires_grad_() for part in ("weight", "bias"))

    def logits(delta: Tensor | float = 0.0) -> Tensor:
        handle = block.register_forward_hook(lambda module, args, out: out + delta)
        try:
            return model(**inputs).pooler_output @ weight.T + bias
        finally:
            handle.remove()

    clean, out, passes = logits(), {}, []
    delta = 1e-5 * torch.from_numpy(given["z_embed"]).double()
    out["delta_init"] = delta
    for step in range(1, steps + 1):
        delta = delta.detach().requires_grad_()
        passes.append(logits(delta))
        (grad,) = torch.autograd.grad(stable_kl_sum(passes[-1], clean.detach()), delta)
        moved = (delta + SIZE * grad).detach()
        size = moved.abs().amax(-1, True) if norm == "inf" else moved.norm(dim=-1, keepdim=True)
        delta = moved / (size + NORM_EPSILON)
        out |= {f"pre_norm_step{step}": moved} | ({f"delta_step{step}": delta} if step < steps else {})
    passes.append(logits(delta))
    adv = CRITERIA[criterion](clean, passes[-1])
    task = torch.nn.functional.cross_entropy(clean, torch.from_numpy(given["labels"]))
    parameters = [*model.parameters(), weight, bias]
    grads = torch.autograd.grad(adv, parameters)
    out |= {"delta_final": delta, "adv_logits_per_pass": torch.stack(passes), "clean_logits": clean}
    out |= {"adv_loss": adv, "task_loss": task, "total_loss": adv + task}
    out |= {"adv/grad_head_weight": grads[-2], "adv/grad_head_bias": grads[-1]}
    out["adv/gradnorm_encoder"] = torch.stack([grad.square().sum() for grad in grads[:-2]]).sum().sqrt()
    return {name: value.detach().numpy() for name, value in out.items()}


def write_golden(folder: Path, cases: list[tuple[str, int, str, str]]) -> Path:
    """fixtures/ and encoder/smart.npz with the cases (mode, K, norm, criterion)."""
    model, given = write_fixtures(folder / "fixtures")
    (folder / "encoder").mkdir()
    arrays = {}
    for mode, steps, norm, criterion in cases:
        key = f"smart/{mode}.cls.K{steps}.{norm}.tok.{criterion}"
        made = smart(model, given, mode, steps, norm, criterion)
        arrays |= {f"{key}/{field}": value for field, value in made.items()}
    np.savez(folder / "encoder" / "smart.npz", **arrays)
    return folder
