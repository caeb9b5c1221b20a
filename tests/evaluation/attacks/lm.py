"""Tiny masked language models with a tokenizer."""

from __future__ import annotations

from pathlib import Path


def write_tiny_lm(encoder: Path, folder: Path, seed: int = 7) -> Path:
    """A random masked language model of an encoder folder's family, with its tokenizer. Its logits differ clearly."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(encoder))
        with torch.no_grad():
            model.get_input_embeddings().weight.normal_(0, 0.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    return folder
