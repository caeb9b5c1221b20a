"""What a run must remember to go on bit for bit: weights, optimizer moments, generators."""

from __future__ import annotations

import base64
import random
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from mtrobust.errors import UserError
from mtrobust.models.adapters import same_base
from mtrobust.models.encoder import Encoder


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """All saved parameters and buffers by name; one that is used under two names (tied) stands under the first. Weights
    that come back with the base of adapters are left out."""
    encoders = [part for part in module.modules() if isinstance(part, Encoder)]
    seen: dict[int, str] = {id(weight): "" for encoder in encoders for weight in encoder.reloaded()}
    found = module.state_dict(keep_vars=True)
    return {name: value for name, value in found.items() if seen.setdefault(id(value), name) == name}


@torch.no_grad()
def load_module_tensors(module: nn.Module, saved: dict[str, Tensor], place: str) -> None:
    """Copies saved values into the module. Raises `UserError` when names or shapes are not the module's."""
    own = module_tensors(module)
    faults = [f"{place}: {name}: not in the checkpoint" for name in own if name not in saved]
    faults += [f"{place}: {name}: the model has no such weight" for name in saved if name not in own]
    for name in own.keys() & saved.keys():
        if own[name].shape != saved[name].shape:
            faults.append(f"{place}: {name}: {tuple(saved[name].shape)} saved, the model has {tuple(own[name].shape)}")
        elif name.endswith("base_probe") and not same_base(own[name], saved[name]):
            faults.append(f"{place}: belongs to an encoder with other weights than the one given for the adapters")
    if faults:
        raise UserError([*faults[:5], f"{place}: was made by another model or other tasks ({len(faults)} differences)"])
    for name, value in own.items():
        value.copy_(saved[name])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and counters as `<parameter>//<what>`; parameters that never had a gradient have none. Counters that an
    optimizer keeps as plain numbers come back as 0-d tensors."""
    names = [name for group in optimizer.param_groups for name in group["names"]]
    moments = optimizer.state_dict()["state"]
    return {
        f"{names[at]}//{key}": torch.as_tensor(value) for at, entry in moments.items() for key, value in entry.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> None:
    """The way back. Parameters are found by name."""
    places = {name: at for at, name in enumerate(name for group in optimizer.param_groups for name in group["names"])}
    content = optimizer.state_dict()
    content["state"] = {}
    for key, value in saved.items():
        name, _, what = key.rpartition("//")
        content["state"].setdefault(places[name], {})[what] = value
    optimizer.load_state_dict(content)


def rng_state(device: torch.device) -> dict[str, Any]:
    """The generators of this process (torch, its accelerator, Python, NumPy) as JSON can hold them."""
    kind, keys, position, has_gauss, gauss = cast(tuple[str, np.ndarray, int, int, float], np.random.get_state())
    return {
        "torch": _text(torch.get_rng_state()),
        "cuda": _text(torch.cuda.get_rng_state(device)) if device.type == "cuda" else None,
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), position, has_gauss, gauss],
    }


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Sets the generators to what `rng_state` returned."""
    torch.set_rng_state(_tensor(state["torch"]))
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(_tensor(state["cuda"]), device)
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))


def seed_all(seed: int) -> None:
    """Seeds torch (accelerators included), Python and NumPy."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _text(state: Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode("ascii")


def _tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
