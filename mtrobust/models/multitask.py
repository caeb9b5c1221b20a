"""One shared encoder, one head per task; loading, saving and going back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig

from mtrobust.errors import UserError
from mtrobust.models import adapters
from mtrobust.models.allocator import keep_freed_memory
from mtrobust.models.dropout import Masks
from mtrobust.models.encoder import Encoder
from mtrobust.models.families import family_of
from mtrobust.models.loading import first_line, no_progress_bars
from mtrobust.tasks.base import Batch, HeadInput
from mtrobust.tasks.taskdef import TaskDef, load_task_defs, task_defs_yaml

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mtrobust.config import TrainConfig

HEADS_FILE = "heads.safetensors"
TASK_DEF_FILE = "task_def.yml"


class MultiTaskModel(nn.Module):
    """encoder: shared by all tasks; heads: one per task, by task name; tasks: their definitions."""

    def __init__(self, encoder: Encoder, tasks: Mapping[str, TaskDef]) -> None:
        super().__init__()
        self.encoder = encoder
        self.tasks = dict(tasks)
        self.heads = nn.ModuleDict({name: task.type.build_head(encoder) for name, task in self.tasks.items()})

    @classmethod
    def from_encoder(cls, config: TrainConfig, tasks: Mapping[str, TaskDef]) -> MultiTaskModel:
        """Pretrained encoder with fresh heads, and with the checkpoint's decoder where a task has one (with `init_from`
        that is left to `take_heads`). Raises `UserError` for what cannot be loaded or is not supported."""
        attention = None if config.attn_implementation == "auto" else config.attn_implementation
        encoder = load_encoder(config.model_name_or_path, attention, config.trust_remote_code)
        if config.gradient_checkpointing:
            if not encoder.family.checkpointing:
                raise UserError(f"gradient_checkpointing: model type '{encoder.model_type}' does not support it")
            enable_checkpointing(encoder)
        if config.lora_r is not None:
            adapters.new_adapters(encoder, config)
        model = cls(encoder, tasks)
        if config.init_from is None:
            model.take_pretrained(tasks, config.model_name_or_path)
        return model

    def take_pretrained(self, tasks: Iterable[str], source: str) -> None:
        """Gives the heads of these tasks the weights that they have in a checkpoint, a folder or hub name. Raises
        `UserError` where something is not there."""
        heads: Any = self.heads
        faults = [
            f"{name}.task_type: {self.tasks[name].task_type}: {line}; give the checkpoint of a whole model"
            for name in tasks
            for line in heads[name].take_pretrained(source)
        ]
        if faults:
            raise UserError(faults)

    def take_heads(self, folder: Path) -> dict[str, str]:
        """Takes over the heads of the model in `folder` that fit: of a task with the same name, type, labels and
        shapes. By task: empty where its head was taken, else why it stays fresh. Raises as `load`."""
        other = MultiTaskModel.load(folder)
        why = {}
        for name, task in self.tasks.items():
            theirs = other.tasks.get(name)
            if theirs is None:
                why[name] = "no such task there"
            elif (theirs.task_type, theirs.labels, theirs.n_class) != (task.task_type, task.labels, task.n_class):
                why[name] = "another type or other labels there"
            else:
                why[name] = "" if _same_shapes(self.heads[name], other.heads[name]) else "a head of another shape there"
            if not why[name]:
                self.heads[name].load_state_dict(other.heads[name].state_dict())
        return why

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Outputs of the batch's head for a plain pass."""
        head: Any = self.heads[batch.task]
        return head(self._read(batch), batch)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """What evaluation keeps of the batch; see `HeadContract.predict`."""
        head: Any = self.heads[batch.task]
        return head.predict(self._read(batch), batch)

    def _read(self, batch: Batch) -> HeadInput:
        head: Any = self.heads[batch.task]
        tape = self.encoder.record(batch.inputs, rows=head.reads)
        return HeadInput(tape.last, tape.pooled)

    def save_pretrained(self, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        """Writes the encoder as Hugging Face has it (or its adapters as peft has them), the heads, the task definitions
        and the tokenizer."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        notes = {"tasks": json.dumps(list(self.tasks))}
        if self.encoder.lora is None:
            with no_progress_bars():
                self.encoder.base.save_pretrained(folder)
        else:
            adapters.save_adapters(self.encoder, folder)
            notes["base_probe"] = json.dumps(self.encoder.get_buffer("base_probe").tolist())
        heads = {name: tensor.detach().contiguous() for name, tensor in self.own_by_heads().items()}
        save_file(heads, folder / HEADS_FILE, metadata=notes)
        (folder / TASK_DEF_FILE).write_text(task_defs_yaml(self.tasks.values()), encoding="utf-8", newline="\n")
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)

    def own_by_heads(self) -> dict[str, Tensor]:
        """Parameters and buffers of the heads by name, without those that are the encoder's too (a masked LM's output
        matrix); one that a head has under two names stands under the first."""
        seen = {id(value): "" for value in self.encoder.state_dict(keep_vars=True).values()}
        found = self.heads.state_dict(keep_vars=True)
        return {name: value for name, value in found.items() if seen.setdefault(id(value), name) == name}

    @classmethod
    def load(cls, folder: Path) -> MultiTaskModel:
        """What `save_pretrained` wrote. Raises `UserError` when the folder is not one of these."""
        folder = Path(folder)
        missing = [name for name in ("config.json", HEADS_FILE, TASK_DEF_FILE) if not (folder / name).is_file()]
        if missing:
            raise UserError(f"{folder}: not a model folder of mtrobust ({', '.join(missing)} missing)")
        model = cls(load_encoder(str(folder), merge=False), load_task_defs([folder / TASK_DEF_FILE]))
        model._check_base(folder)
        try:
            saved = load_file(folder / HEADS_FILE)
            absent = model.heads.state_dict().keys() - model.own_by_heads().keys()  # tied: they come with the encoder
            model.heads.load_state_dict({**{name: model.heads.state_dict()[name] for name in absent}, **saved})
        except RuntimeError as error:
            first = str(error).split("\n")[1].strip() if "\n" in str(error) else str(error)
            raise UserError(f"{folder / HEADS_FILE}: does not fit {TASK_DEF_FILE}: {first}") from error
        return model

    def _check_base(self, folder: Path) -> None:
        """Raises `UserError` where the adapters in a folder were trained on another base than is there now."""
        if self.encoder.lora is None:
            return
        with safe_open(folder / HEADS_FILE, "pt") as file:
            probe = (file.metadata() or {}).get("base_probe", "[]")
        if not adapters.same_base(torch.tensor(json.loads(probe)), self.encoder.get_buffer("base_probe")):
            raise UserError(f"{folder}: the adapters belong to other weights than those of {adapters.base_of(folder)}")


def _same_shapes(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(a[name].shape == b[name].shape for name in a)


def enable_checkpointing(encoder: Encoder) -> None:
    """Activations of the encoder are recomputed in the backward pass."""
    # The reentrant variant would drop the gradients of recorded and edited hidden states.
    options = {"use_reentrant": False, "context_fn": _as_first}
    encoder.masks_again = True
    encoder.base.activation_checkpointing_enable(activation_checkpointing_kwargs=options)


class _Again(AbstractContextManager[None]):
    """Kinds of contexts of a second computation, made at each entry: a second derivative enters it once more."""

    def __init__(self, kinds: list[Callable[[], AbstractContextManager[Any]]]) -> None:
        self._kinds = kinds
        self._entered: list[ExitStack] = []

    def __enter__(self) -> None:
        stack = ExitStack()
        for kind in self._kinds:
            stack.enter_context(kind())
        self._entered.append(stack)

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().close()


def _as_first() -> tuple[Any, Any]:
    """Contexts of a layer's first and second computation: the second has the attention kernels and the kind of dropout
    masks of the first."""
    kinds: list[Callable[[], AbstractContextManager[Any]]] = [Masks] if Masks.in_use() else []
    if not (torch.backends.cuda.flash_sdp_enabled() or torch.backends.cuda.mem_efficient_sdp_enabled()):
        kinds.append(lambda: sdpa_kernel(SDPBackend.MATH))
    return nullcontext(), _Again(kinds)


def load_encoder(
    name: str, attention: str | None = None, trust_remote_code: bool = False, merge: bool = True
) -> Encoder:
    """The encoder of a local folder or hub name, in float32. From then on the process keeps memory that is freed.

    merge: whether adapters in the folder become part of the weights of their base, which is loaded with them.
    Raises `UserError` when there is none, its family is not supported, or its weights are not all in the checkpoint.
    """
    keep_freed_memory()
    if adapters.in_folder(name):
        return _with_adapters(name, attention, trust_remote_code, merge)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"model_name_or_path: {name}: no model found there ({first_line(error)})") from error
    family = family_of(config.model_type)
    options = {} if attention is None else {"attn_implementation": attention}
    try:
        with no_progress_bars():
            base, report = getattr(transformers, family.auto_class).from_pretrained(
                name, dtype="float32", trust_remote_code=trust_remote_code, output_loading_info=True, **options
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"model_name_or_path: {name}: cannot be loaded ({first_line(error)})") from error
    # A pooler may be new (masked-LM checkpoints have none); anything else that is missing means a wrong file.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise UserError(
            f"model_name_or_path: {name}: {len(missing)} encoder weights are not in the checkpoint "
            f"(first: {missing[0]})"
        )
    return Encoder(base)


def _with_adapters(name: str, attention: str | None, trust_remote_code: bool, merge: bool) -> Encoder:
    try:
        encoder = load_encoder(adapters.base_of(name), attention, trust_remote_code)
    except UserError as error:
        place = f"{Path(name) / adapters.CONFIG_FILE}: base_model_name_or_path"
        raise UserError([f"{place}: {fault.removeprefix('model_name_or_path: ')}" for fault in error.faults]) from error
    adapters.read_adapters(encoder, name)
    if not merge:
        return encoder
    encoder = adapters.merged(encoder)
    encoder.requires_grad_(True)
    return encoder
