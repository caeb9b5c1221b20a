"""Low-rank adapters (LoRA, Hu et al. 2022) in an encoder, made and stored by peft.

peft puts its layers into the base model in place, so the module lists that `Encoder` works on stay what they were. The
base's own weights keep still; adapters learn, and so does a pooler that heads read, as the dense layer that other
families have in their heads does. A stored encoder is a peft folder: `adapter_config.json`, which names the base, and
`adapter_model.safetensors`.
"""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging as hf_logging

from mtrobust.errors import UserError
from mtrobust.models.encoder import Encoder

if TYPE_CHECKING:
    from mtrobust.config import TrainConfig

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
ALL_LINEAR = "all-linear"
POOLER = "pooler"
_PREFIX, _NAME = "base_model.model.", "default"  # how peft names weights in a file, and an adapter in a model


def peft() -> Any:
    """The package. Raises `UserError` where it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise UserError("lora_r: adapters need the package peft: pip install 'mtrobust[lora]'") from error
    return peft


def new_adapters(encoder: Encoder, config: TrainConfig) -> None:
    """Puts fresh adapters into the encoder, as the run's settings say; what it computes stays the same until they
    learn. Raises `UserError` for targets that the encoder does not have."""
    targets = _targets(encoder, config.lora_targets)
    path = Path(config.model_name_or_path)
    pooled = getattr(encoder.base, POOLER, None) is not None
    lora = peft().LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        exclude_modules=rf"(.*\.)?{POOLER}(\..*)?" if pooled else None,
        base_model_name_or_path=str(path.resolve()) if path.is_dir() else config.model_name_or_path,
    )
    _inject(encoder, lora)


def _targets(encoder: Encoder, wanted: list[str] | None) -> list[str] | str:
    """Names of the modules that get adapters: the wanted ones, or those that peft has for the family, or all."""
    if wanted is None:
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as known

        return list(known[encoder.model_type]) if encoder.model_type in known else ALL_LINEAR
    if wanted == [ALL_LINEAR]:
        return ALL_LINEAR
    linear = [name for name, module in encoder.base.named_modules() if isinstance(module, nn.Linear)]
    linear = [name for name in linear if POOLER not in name.split(".")]
    absent = [name for name in wanted if not any(path == name or path.endswith(f".{name}") for path in linear)]
    if absent:
        have = ", ".join(sorted({path.rpartition(".")[2] for path in linear}))
        raise UserError(
            [
                f"lora_targets: {name}: no linear layer of the encoder has that name (allowed: {ALL_LINEAR}, {have})"
                for name in absent
            ]
        )
    return wanted


def _inject(encoder: Encoder, lora: Any) -> None:
    """Adapters in the base; only they and the pooler learn."""
    probe = _probe(encoder.base)
    try:
        peft().inject_adapter_in_model(lora, encoder.base, _NAME)
    except ValueError as error:
        raise UserError(f"lora_targets: {str(error).split(chr(10), 1)[0]}") from error
    encoder.lora = lora
    encoder.register_buffer("base_probe", probe)
    for parameter in encoder.adapter_weights().values():
        parameter.requires_grad_(True)


def _probe(base: nn.Module) -> Tensor:
    """Two entries of each weight, float64: enough to tell one base from another. A pooler may be random, so it is left
    out."""
    kept = [p.detach().flatten() for name, p in base.named_parameters() if not name.startswith(f"{POOLER}.")]
    return torch.stack([value for p in kept for value in (p[0], p[len(p) // 2])]).double().cpu()


def same_base(one: Tensor, other: Tensor) -> bool:
    """Whether two probes are of one base; merged adapters leave rounding behind."""
    return one.shape == other.shape and torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-6)


# --- folders -----------------------------------------------------------------------------------------------------


def in_folder(folder: str | Path) -> bool:
    """Whether a folder holds adapters and not a whole encoder."""
    return (Path(folder) / CONFIG_FILE).is_file()


def base_of(folder: str | Path) -> str:
    """Folder or hub name of the base that the adapters in a folder belong to. Raises `UserError`."""
    path = Path(folder) / CONFIG_FILE
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: base_model_name_or_path cannot be read ({type(error).__name__})") from error
    return str(name)


def save_adapters(encoder: Encoder, folder: Path) -> None:
    """Writes the encoder's configuration and, as peft has them, the adapters (and pooler)."""
    encoder.base.config.save_pretrained(folder)
    weights = encoder.adapter_weights()
    poolers = [POOLER] if any(name.startswith(POOLER) for name in weights) else None
    write_peft_folder(encoder.lora, weights, poolers, folder)


def write_peft_folder(lora: Any, weights: dict[str, Any], whole: list[str] | None, folder: Path) -> None:
    """A folder that `PeftModel.from_pretrained` reads. weights: by name in the model; whole: modules that are stored as
    they are, beside the adapters."""
    lora = copy.deepcopy(lora)
    lora.modules_to_save, lora.inference_mode = whole, True
    lora.save_pretrained(str(folder))
    tensors = {f"{_PREFIX}{_stored(name)}": value.detach().contiguous() for name, value in weights.items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def _stored(name: str) -> str:
    return name.replace(f".{_NAME}.", ".")


@torch.no_grad()
def read_adapters(encoder: Encoder, folder: str | Path) -> None:
    """Puts the adapters of a folder into the encoder of their base. Raises `UserError` where they do not fit."""
    path = Path(folder) / WEIGHTS_FILE
    lora = peft().LoraConfig.from_pretrained(str(folder))
    lora.modules_to_save, lora.inference_mode = None, False
    _inject(encoder, lora)
    try:
        saved = load_file(path)
    except Exception as error:  # whatever a damaged file makes the library raise
        raise UserError(f"{path}: cannot be read ({str(error) or type(error).__name__})") from error
    own = {f"{_PREFIX}{_stored(name)}": value for name, value in encoder.adapter_weights().items()}
    wrong = [name for name in own.keys() | saved.keys() if getattr(saved.get(name), "shape", 0) != _shape(own, name)]
    if wrong:
        raise UserError(f"{path}: {len(wrong)} weights do not fit the base (first: {min(wrong)})")
    for name, value in own.items():
        value.copy_(saved[name])


def _shape(weights: dict[str, Any], name: str) -> Any:
    return weights[name].shape if name in weights else None


@torch.no_grad()
def merged(encoder: Encoder) -> Encoder:
    """An encoder without adapters that computes the same; weights without an adapter are shared with this one. The sum
    is formed in float64 and rounded once."""
    from peft.tuners.lora import LoraLayer

    base = copy.deepcopy(encoder.base, {id(parameter): parameter for parameter in encoder.base.parameters()})
    for path, module in list(base.named_modules()):
        if isinstance(module, LoraLayer):
            layer: Any = module.get_base_layer()
            plain = copy.copy(layer)
            plain._parameters = dict(layer._parameters)
            down: Any = module.lora_A[_NAME].weight
            up: Any = module.lora_B[_NAME].weight
            weight = layer.weight.double() + module.scaling[_NAME] * (up.double() @ down.double())
            plain._parameters["weight"] = nn.Parameter(weight.to(layer.weight.dtype))
            base.set_submodule(path, plain)
    del base.peft_config
    return Encoder(base)


# --- one task for users of peft ----------------------------------------------------------------------------------


def check_alone(encoder: Encoder, kind: str) -> None:
    """Raises `UserError` unless adapters and a head of this kind can be written without their base."""
    if encoder.lora is None:
        raise UserError("--adapters_only: the run has no adapters (it was trained without lora_r)")
    base = encoder.lora.base_model_name_or_path
    if in_folder(base):
        raise UserError(f"--adapters_only: the base, {base}, has adapters itself; export without this flag merges both")
    if kind == "mlm":
        raise UserError("--adapters_only: the output matrix of a masked language model is part of the base's weights")


def export_adapters(encoder: Encoder, full: PreTrainedModel, folder: Path) -> nn.Module:
    """Writes the adapters, and what stands outside of the encoder, of a model with the family's own head.

    full: its encoder is that of `encoder`. Returns what peft makes of the folder.
    """
    inside = f"{full.base_model_prefix}."
    weights = {
        name: value
        for name, value in full.named_parameters()
        if ".lora_" in name or not name.startswith(inside) or name.startswith(f"{inside}{POOLER}.")
    }
    whole = sorted({name.removeprefix(inside).split(".")[0] for name in weights if ".lora_" not in name})
    full.config.save_pretrained(folder)
    write_peft_folder(encoder.lora, weights, whole, folder)
    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()  # transformers reports the head, which is not in the base
    try:
        plain = type(full).from_pretrained(base_of(folder), config=full.config, dtype="float32")
    finally:
        hf_logging.set_verbosity(level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads an attribute that transformers has renamed
        return peft().PeftModel.from_pretrained(plain, str(folder))
