"""A small base model for TOFU on a laptop: nano's architecture, wider, with a byte-level vocabulary of TOFU's own text.

Its weights are random: `unbench prepare` teaches it the rows, and nothing else is in it. That is enough to walk the
whole path on two CPU cores, and says nothing about real models.

    python benchmarks/small_base.py /tmp/small --data-dir data
    unbench prepare tofu/forget01 --model /tmp/small --data-dir data --lr 2e-3 --epochs 30
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unbench import plugins

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def texts(data_dir: Path) -> Iterator[str]:
    """Every question and candidate of the widest task."""
    task = plugins.open_task("tofu/forget10", data_dir=data_dir)
    data = task.data()
    for row in (*data.forget, *data.retain, *data.holdout):
        yield f"{row.question} {row.answer}"
    for probe in task.probes():
        yield " ".join(probe.candidates)


def tokenizer_of(data_dir: Path, size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of ``size`` pieces with a chat template in SmolLM2's form."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts(data_dir), trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = TEMPLATE
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tokenizer = tokenizer_of(given.data_dir, given.vocabulary)
    torch.manual_seed(given.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=given.width,
            intermediate_size=3 * given.width,
            num_hidden_layers=given.layers,
            num_attention_heads=given.width // 32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    tokenizer.save_pretrained(given.out)
    model.save_pretrained(given.out)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters in {given.out}")


if __name__ == "__main__":
    main()
