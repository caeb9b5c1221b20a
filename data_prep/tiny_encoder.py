"""A tiny untrained BERT as a Hugging Face folder, with a WordPiece vocabulary learned on a text file.

For trying the toolkit where no pretrained encoder is at hand. Its weights are drawn from a seed, larger than BERT's
usual 0.02 (`--initializer_range`): narrow models trained from nothing in a minute learn faster from there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mtrobust.errors import UserError

from .common import writable_folder
from .readers import bad_byte, read_lines

HELP = "a tiny untrained BERT folder (config, weights, tokenizer) with a vocabulary learned on a text file"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep tiny_encoder`."""
    parser.add_argument("--corpus", type=Path, required=True, help="text file, UTF-8, for the vocabulary")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the model; it must be new or empty")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=128, help="width; the feed-forward part is four times as wide")
    parser.add_argument("--heads", type=int, default=4, help="attention heads; they must divide the width")
    parser.add_argument("--vocab_size", type=int, default=2000, help="largest size of the vocabulary")
    parser.add_argument("--max_positions", type=int, default=128, help="longest input in tokens")
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--initializer_range", type=float, default=0.05, help="standard deviation of the weights")
    parser.add_argument("--seed", type=int, default=1)


def check_arguments(args: argparse.Namespace) -> None:
    """Raises `UserError` with every fault of the flags."""
    least = {"layers": 1, "hidden": 4, "heads": 1, "vocab_size": 50, "max_positions": 8, "seed": 0}
    faults = [f"--{k}: {getattr(args, k)} (allowed: {n} and more)" for k, n in least.items() if getattr(args, k) < n]
    if not faults and args.hidden % args.heads:
        faults.append(f"--heads: {args.heads} does not divide --hidden {args.hidden}")
    if not 0 <= args.dropout < 1:
        faults.append(f"--dropout: {args.dropout} is outside 0 to 1 (1 excluded)")
    if not 0 < args.initializer_range < 1:
        faults.append(f"--initializer_range: {args.initializer_range} is outside 0 to 1")
    if not args.corpus.is_file():
        faults.append(f"--corpus: no file {args.corpus}")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        faults.append(f"--out: {args.out} is there and not an empty folder")
    if faults:
        raise UserError(faults)


def read_corpus(path: Path) -> list[str]:
    """The lines of the corpus. Raises `UserError` for a file without text or one that is not UTF-8."""
    lines = []
    for number, line in read_lines(path):
        if bad_byte(line):
            raise UserError(f"--corpus: {path}:{number}: {bad_byte(line)}")
        lines.append(line)
    if not any(line.strip() for line in lines):
        raise UserError(f"--corpus: {path} holds no text")
    return lines


def run(args: argparse.Namespace) -> int:
    """Learns the vocabulary, draws the weights and saves config.json, model.safetensors and the tokenizer files."""
    check_arguments(args)
    lines = read_corpus(args.corpus)
    writable_folder(args.out)
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()

    learner = BertWordPieceTokenizer(lowercase=True)
    # Without a fixed order of the single letters, ties between merges fall as the learner's hash tables happen to lie.
    letters = sorted({letter for line in lines for letter in learner.normalize(line) if not letter.isspace()})
    first = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters)]
    learner.train_from_iterator(
        lines, vocab_size=args.vocab_size, min_frequency=1, special_tokens=first, show_progress=False
    )
    tokenizer = BertTokenizer(vocab=learner.get_vocab(), model_max_length=args.max_positions)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        intermediate_size=4 * args.hidden,
        max_position_embeddings=args.max_positions,
        hidden_dropout_prob=args.dropout,
        attention_probs_dropout_prob=args.dropout,
        initializer_range=args.initializer_range,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        model = BertModel(config)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"wrote {args.out}: {args.layers} layers, width {args.hidden}, {len(tokenizer)} word pieces, {size:,} weights"
    )
    return 0
