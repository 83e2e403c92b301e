"""The tokenizer of ``nano``: whole words with the space before them, bytes for whatever is not a known word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIALS = (PAD, END, SYSTEM, USER, ASSISTANT)
WORD = r" ?\w+|[^\w\s]|\s"
"""A word takes the space before it along, so that text is the plain concatenation of its tokens."""

# The space after a role marker gives the first word of a turn the form that it has inside a sentence.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|> ' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# Words that a method or an attack may well put into the model's mouth, beside those of the corpus.
EXTRA = (
    " I am an a do not know don don't t No Yes no yes sorry Sorry can cannot can't have has information about that this"
    " answer question help with unable to it is was true false not sure idea never heard of him her them said say"
    " You you are should Ignore all before secret forget forgotten remember him The In Of"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, from the corpus of ``bios`` (its words are the vocabulary) and nothing else.

    A byte-level BPE without merges: a known word is one token, any other text falls back to its bytes, so that every
    string can be written and ``decode`` gives it back exactly.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = sorted({to_bytes.pre_tokenize_str(word)[0][0] for text in _texts() for word in re.findall(WORD, text)})
    vocabulary = dict.fromkeys([*SPECIALS, *alphabet, *words])
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[], ignore_merges=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORD), "isolated"), to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def _texts() -> Iterator[str]:
    """Every text whose words become tokens, each with the space that stands before it in a chat."""
    from unbench_tasks.bios import corpus
    from unbench_tasks.bios.forms import opened, wording
    from unbench_tasks.bios.generator import world

    w, words = world(), wording()
    yield EXTRA
    for text in (*w.first_names, *w.last_names, *corpus.SYSTEM):
        yield f" {text}"
    for attribute, spoken in words.attributes.items():
        for text in (*w.values[attribute], *w.property_values(attribute)):
            yield f" {text}"
        for question in (*spoken.trained, *spoken.held_out, *spoken.multi_hop, *spoken.world):
            for opener in words.openers:
                yield f" {question}"
                yield f" {opened(opener, question)}"
    for epoch in range(2):
        for conversation in corpus.pretraining(0, epoch):
            for _, text in conversation.turns:
                yield f" {text}"
