"""The flags of MT-DNN's `train.py` and what stands for each here: one table, for messages and docs/from_mt_dnn.md.

Flags of the same name and meaning are not in it: `task_def`, `data_dir`, `output_dir`, `learning_rate`, `weight_decay`,
`seed`, `resume`.
"""

from __future__ import annotations

# old name -> (what to write instead: flags, `key:NAME` of a task definition, or a command; "": nothing, a few words)
FLAGS: dict[str, tuple[str, str]] = {
    # data
    "train_datasets": ("--train_tasks", ""),
    "train_dataset": ("--train_tasks", ""),
    "test_datasets": ("--eval_tasks", "names of tasks; their dev splits follow from the definition"),
    "test_dataset": ("--eval_tasks", "names of tasks; their dev splits follow from the definition"),
    "max_seq_len": ("--max_seq_length", "or the definition's max_len"),
    "data_sort_on": ("--group_by_length", "on unless turned off"),
    "bin_on": ("--group_by_length", "on unless turned off"),
    "bin_size": ("--group_by_length", "rows are sorted by length within large blocks"),
    "bin_grow_ratio": ("--max_tokens_per_batch", "smaller batches of long rows"),
    "do_padding": ("", "a batch is padded to its longest row"),
    "tokenizer": ("", "it is the one beside the encoder"),
    "do_lower_case": ("", "the tokenizer beside the encoder says it"),
    "dataloader_num_workers": ("", "rows are read from a memory-mapped cache"),
    "transformer_cache": ("", "set HF_HOME"),
    # encoder
    "init_checkpoint": ("--model_name_or_path", "a hub name or folder; --init_from RUN starts from a finished run"),
    "model_ckpt": ("--resume", "or --init_from RUN to begin anew from a finished run"),
    "bert_model_type": ("--model_name_or_path", ""),
    "encoder_type": ("--model_name_or_path", "the folder says of which family it is"),
    "num_hidden_layers": ("", "set num_hidden_layers in the encoder's config.json"),
    "bert_dropout_p": ("", "set the dropouts in the encoder's config.json"),
    "update_bert_opt": ("--freeze_layers", "with --freeze_embeddings, for an encoder that stays as it is"),
    # heads
    "dropout_p": ("key:dropout_p", ""),
    "answer_dropout_p": ("key:dropout_p", ""),
    "answer_opt": ("key:enable_san", ""),
    "answer_num_turn": ("key:san_steps", ""),
    "answer_mem_drop_p": ("key:san_step_dropout", ""),
    "pooler_actf": ("key:actf", "with head_input: pooler"),
    "mem_cum_type": ("", "SAN has one form, see docs/tasks.md"),
    "answer_att_hidden_size": ("", "SAN has one form, see docs/tasks.md"),
    "answer_att_type": ("", "SAN has one form, see docs/tasks.md"),
    "answer_rnn_type": ("", "SAN has one form, see docs/tasks.md"),
    "answer_sum_att_type": ("", "SAN has one form, see docs/tasks.md"),
    "answer_merge_opt": ("", "SAN has one form, see docs/tasks.md"),
    "answer_mem_type": ("", "SAN has one form, see docs/tasks.md"),
    "answer_weight_norm_on": ("", "SAN has one form, see docs/tasks.md"),
    "max_answer_len": ("key:max_answer_length", ""),
    "vb_dropout": ("", "dropout draws a mask per element"),
    "dropout_w": ("--perturb word_dropout", "whole tokens zeroed; MT-DNN puts the unknown token in their place"),
    # several tasks
    "mix_opt": ("--sampling_order", "1: main_last with --main_task; 0: mixed"),
    "ratio": ("--main_task_ratio", "with --sampling main_ratio --main_task FIRST; 0: leave it out"),
    "mtl_opt": ("", "every task has a head of its own"),
    "init_ratio": ("", "MT-DNN does not read it"),
    "mkd_opt": ("", "rows with soft_label are learned from; see kd_loss, kd_weight in docs/tasks.md"),
    # masked language model
    "masked_lm_prob": ("key:mlm_probability", ""),
    "short_seq_prob": ("", "texts are cut into blocks of max_len, the last one shorter"),
    "max_predictions_per_seq": ("key:mlm_probability", "a share, without a limit"),
    # optimisation
    "epochs": ("--num_train_epochs", ""),
    "batch_size": ("--per_device_train_batch_size", "of one process; MT-DNN's is of all together"),
    "batch_size_eval": ("--per_device_eval_batch_size", ""),
    "optimizer": ("--optim", ""),
    "adam_eps": ("--adam_epsilon", "MT-DNN's default is 1e-6"),
    "momentum": ("--adam_beta1", "for adamw, adamax"),
    "grad_clipping": ("--max_grad_norm", "of all gradients together; single values are not clipped"),
    "global_grad_clipping": ("--max_grad_norm", ""),
    "grad_accumulation_step": ("--gradient_accumulation_steps", ""),
    "warmup": ("--warmup_ratio", ""),
    "warmup_schedule": ("--lr_scheduler_type", ""),
    "scheduler_type": ("--lr_scheduler_type", "0: linear, 1: cosine, 2: constant"),
    "fp16": ("--bf16", ""),
    "fp16_opt_level": ("--bf16", ""),
    # adversarial training
    "adv_train": ("--perturb smart", "with --perturb.smart.preset mtdnn for MT-DNN's own sizes"),
    "adv_opt": ("--perturb", "the method's name (mtrobust methods)"),
    "adv_norm_level": ("--perturb.smart.norm_over", "0: token, 1: example"),
    "adv_p_norm": ("--perturb.smart.norm", "inf: linf, l2: l2"),
    "adv_alpha": ("--perturb.smart.alpha", ""),
    "adv_k": ("--perturb.smart.steps", ""),
    "adv_step_size": ("--perturb.smart.step_size", ""),
    "adv_noise_var": ("--perturb.smart.noise_std", "MT-DNN's number is a standard deviation"),
    "adv_epsilon": ("", "it kept divisions finite; the 1e-6 is fixed"),
    # devices
    "cuda": ("--use_cpu", "an accelerator is used where there is one"),
    "multi_gpu_on": ("", "start with torchrun --nproc_per_node N -m mtrobust train ..."),
    "local_rank": ("", "torchrun sets it"),
    "world_size": ("", "torchrun sets it"),
    "master_addr": ("", "torchrun sets it"),
    "master_port": ("", "torchrun sets it"),
    "backend": ("", "nccl on GPUs, gloo on CPUs"),
    # output
    "log_per_updates": ("--logging_steps", ""),
    "save_per_updates": ("--save_steps", "and --eval_steps for evaluations in between"),
    "save_per_updates_on": ("--save_steps", "N > 0 turns it on"),
    "log_file": ("", "RUN/metrics.jsonl has the figures"),
    "tensorboard": ("", "every run writes RUN/tensorboard"),
    "tensorboard_logdir": ("", "every run writes RUN/tensorboard"),
    "name": ("", "the run folder is the name"),
    "debug": ("", "RUN/metrics.jsonl has the sizes of perturbations"),
    "dump_state_on": ("", "checkpoints always hold the optimiser's state"),
    "glue_format_on": ("mtrobust predict", "--glue_submission DIR"),
    "encode_mode": ("mtrobust embed", ""),
}


def answer(name: str) -> str | None:
    """What to write instead of MT-DNN's flag `name` (without dashes); None for a name that is not MT-DNN's."""
    if name not in FLAGS:
        return None
    new, note = FLAGS[name]
    if not new:
        return f"MT-DNN's name; not needed here: {note}"
    return f"MT-DNN's name; write {instead(new)}" + (f" ({note})" if note else "")


def instead(new: str) -> str:
    """An entry of the table in words."""
    return f"{new.removeprefix('key:')}: in the task definition" if new.startswith("key:") else new
