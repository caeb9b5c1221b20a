"""The Accelerate engine of a run: device, processes, bfloat16."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mtrobust.config import TrainConfig


def make_accelerator(config: TrainConfig) -> Accelerator:
    """An engine for this run. Its settings are process-wide in Accelerate, so those of an earlier run are reset."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState, PartialState

    alone = PartialState._shared_state == {} or PartialState().num_processes == 1
    AcceleratorState._reset_state(reset_partial_state=alone)
    # A step trains one task: the other heads, and parts that no head reads, have no gradient in it.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(mixed_precision="bf16" if config.bf16 else "no", cpu=config.use_cpu, kwargs_handlers=[unused])


def leave_processes() -> None:
    """Takes this process out of the group of a distributed run, after its end. Without it threads of gloo are still at
    work while the interpreter ends, which now and then aborts a process whose run is finished."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
