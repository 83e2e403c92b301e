"""Tokenizers with the chat templates that published models have (``data/chat_templates``), written from their published
behaviour, and with the special tokens, BOS and pad that go with each. The vocabularies are small ones of our own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

FOLDER = Path(__file__).parent / "data" / "chat_templates"
TEXT = [
    "Where did Harry Potter study magic? Harry Potter studied at Hogwarts.", "system user assistant model",
    "Who wrote the book? The book was written by Basil Mahfouz Al-Kuwaiti in 1988.", "He was born in Kuwait City.",
    "You are Qwen, created by Alibaba Cloud. You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "Cutting Knowledge Date: December 2023 Today Date: 26 Jul 2024", "end of turn im eot id n [INST] [/INST]",
]  # fmt: skip


@dataclass(frozen=True)
class Published:
    """What is known of one family: its special tokens, and how one question and answer look as text."""

    special: tuple[str, ...]
    bos: str | None
    eos: str
    pad: str
    end: str
    """Ends the assistant's turn."""
    prompt: str
    """The prompt of the question "Q"."""
    whole: str
    """The conversation of the question "Q" and the answer "A"."""
    adds_bos: bool = False
    """Whether the tokenizer puts the BOS before any text by itself: templated text must not be given a second one."""


_TODAY = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
_LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_ASKED = "<|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
_QWEN = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
)
_SMOL = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
)
_GEMMA = "<bos><start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\n"
_DATED = f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{_TODAY}<|eot_id|>{_ASKED}"

PUBLISHED = {
    "llama2": Published(("<unk>", "<s>", "</s>"), "<s>", "</s>", "</s>", "</s>", "<s>[INST] Q [/INST]",
                        "<s>[INST] Q [/INST] A </s>", adds_bos=True),
    "llama3": Published(_LLAMA3, "<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>", "<|eot_id|>",
                        f"<|begin_of_text|>{_ASKED}", f"<|begin_of_text|>{_ASKED}A<|eot_id|>", adds_bos=True),
    "llama3.2": Published(_LLAMA3, "<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>", "<|eot_id|>", _DATED,
                          f"{_DATED}A<|eot_id|>", adds_bos=True),
    "qwen2.5": Published(_CHATML, None, "<|im_end|>", "<|endoftext|>", "<|im_end|>", _QWEN, f"{_QWEN}A<|im_end|>\n"),
    "gemma": Published(("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", "<pad>",
                       "<end_of_turn>", _GEMMA, f"{_GEMMA}A<end_of_turn>\n", adds_bos=True),
    "smollm2": Published(_CHATML, "<|im_start|>", "<|im_end|>", "<|im_end|>", "<|im_end|>", _SMOL,
                         f"{_SMOL}A<|im_end|>\n"),
}  # fmt: skip


@cache
def published(name: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE of some 500 tokens with the template and the special tokens of one family."""
    family = PUBLISHED[name]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=list(family.special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False, min_frequency=1,
    )  # fmt: skip
    inner.train_from_iterator(TEXT * 3, trainer)
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in family.special])
    if family.adds_bos and family.bos:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, inner.token_to_id(family.bos))]
        )
    words = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=family.bos, eos_token=family.eos, pad_token=family.pad,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    words.chat_template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    return words
