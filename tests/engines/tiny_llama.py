"""A random Llama of a few thousand parameters, small tokenizers, and chat templates as test data."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set loop_messages = messages %}{% set system = '' %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if loop.index0 == 0 %}{% set content = system + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# The generation prompt ends in a blank that the tokenizer merges with the answer's first word.
# System turns are dropped.
MERGING = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'Q: ' + message['content'] + '\nA: ' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + '\n' }}{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama2": LLAMA2, "llama3": LLAMA3, "gemma": GEMMA, "merging": MERGING}
SPECIAL = [
    "<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>",
]  # fmt: skip
TEXT = [
    "Where did Harry Potter study magic?", "Harry Potter studied at Hogwarts.", "He lives in London, in the north.",
    "Question: who wrote the book? Answer: a witch wrote it.", "system user assistant model You help. [INST] [/INST]",
    "What colour is the fox? The fox is red and the wolf is grey.", "Durmstrang, Beauxbatons, Ilvermorny, Castelobruxo",
]  # fmt: skip


def tokenizer(template: str | None = CHATML, metaspace: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE (or one with a leading blank as ▁) of some 400 tokens."""
    inner = Tokenizer(models.BPE(unk_token=None, byte_fallback=False))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if metaspace:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        inner.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = sorted(set("".join(TEXT)) | set("\n<>[]/▁SY0123456789"))
    else:
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    inner.train_from_iterator(TEXT * 3, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="right"
    )
    wrapped.chat_template = template
    return wrapped


def model(vocabulary: int = 400, seed: int = 0, spread: float = 0.2, **changes: object) -> LlamaForCausalLM:
    """Two layers, width 32; ``spread`` wide enough that attention and positions matter to every logit."""
    torch.manual_seed(seed)
    settings: dict[str, object] = dict(  # noqa: C408
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=spread, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()


def straight(net: object, prompt: list[int], continuation: list[int]) -> dict[str, list[float]]:
    """The obvious way: one sequence, all logits, a full log-softmax in float64."""
    ids = torch.tensor([prompt + continuation])
    with torch.no_grad():
        logp = net(input_ids=ids).logits[0].double().log_softmax(dim=-1)  # type: ignore[operator]
    out: dict[str, list[float]] = {"logprob": [], "is_argmax": [], "mean": [], "variance": []}
    for i, token in enumerate(continuation, start=len(prompt) - 1):
        p = logp[i].exp()
        mean = (p * logp[i]).sum()
        out["logprob"].append(logp[i, token].item())
        out["is_argmax"].append(bool(logp[i].argmax() == token))
        out["mean"].append(mean.item())
        out["variance"].append((p * logp[i].square()).sum().item() - mean.item() ** 2)
    return out
