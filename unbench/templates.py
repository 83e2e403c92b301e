"""Chat template → token ids: the one place that knows templates. Engines, training and responses take ids from here.

A conversation is rendered to text by the tokenizer's own template and tokenised once, without special tokens being
added again: the ids are those of ``apply_chat_template(tokenize=True)``, so there is never a second BOS.

A tokenizer without a template gets plain lines (``Question: …``, ``Answer:``), which the model's own BOS precedes
where the tokenizer puts one, and the answer ends with the EOS token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unbench.errors import UsageError
from unbench.task import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATE = "26 Jul 2024"
"""Handed to templates that print a date (Llama 3.2), or results would change from day to day. It is their default."""

Turns = Sequence[Message] | Sequence[dict[str, str]]
"""Chat turns, the last one the user's."""

_MARK = "zyxwvu"
"""A word that no conversation has."""

_PLAIN = {"system": "{}\n", "user": "Question: {}\n", "assistant": "Answer: {}"}
"""Lines of a model without a template."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, with room for the assistant's answer: ``before + answer + after`` is the whole."""

    prompt: str
    """Up to and with the generation prompt."""
    before: str
    """Up to where the answer starts; the same as ``prompt`` in most templates."""
    after: str
    """What the template puts behind an answer, the end-of-turn token first or after a blank."""


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Turns, system_prompt: str | None = None) -> list[int]:
    """Token ids of a conversation up to where the assistant speaks.

    A system turn is added only where ``system_prompt`` is given; where the template refuses one, or drops it, it goes
    in front of the first user turn. A template's own default system turn stays.
    """
    turns = with_system(tokenizer, messages, system_prompt)
    return _ids(tokenizer, [_render(tokenizer, turns, generate=True)])[0]


def answer_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Turns,
    answer: str,
    system_prompt: str | None = None,
    *,
    end: bool = True,
) -> tuple[list[int], list[int]]:
    """Token ids of a conversation and of the assistant's answer to it: (prompt, continuation).

    Together they are the ids of the whole templated conversation, cut behind the end-of-turn token (``end``) or behind
    the answer's own words. Where the tokenizer merges across the boundary, the merged token is the answer's.
    """
    return answers_ids(tokenizer, messages, [answer], system_prompt, end=end)[0]


def answers_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Turns,
    answers: Sequence[str],
    system_prompt: str | None = None,
    *,
    end: bool = True,
) -> list[tuple[list[int], list[int]]]:
    """``answer_ids`` of many answers to one conversation."""
    return encode(tokenizer, [Asked(messages, answers, end)], system_prompt)[0].answers


@dataclass(frozen=True)
class Asked:
    """A conversation, the answers to encode behind it, and whether with their end token."""

    messages: Turns
    answers: Sequence[str]
    end: bool = True


@dataclass(frozen=True)
class Encoded:
    """Token ids of an ``Asked``."""

    prompt: list[int]
    """What ``prompt_ids`` gives."""
    answers: list[tuple[list[int], list[int]]]
    """What ``answer_ids`` gives, one an answer."""


def encode(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Asked], system_prompt: str | None = None
) -> list[Encoded]:
    """Token ids of many conversations. Each is rendered two or three times, not once an answer, and every distinct
    text is tokenised once, all of them in one call."""
    rendered = [render(tokenizer, asked.messages, system_prompt, asked.answers) for asked in conversations]
    texts: dict[str, int] = {}
    for asked, frames in zip(conversations, rendered, strict=True):
        for text in (frames[0].prompt, *_texts(frames, asked.answers, asked.end)):
            texts.setdefault(text, len(texts))
    ids = _ids(tokenizer, list(texts))
    special = _special(tokenizer)
    out = []
    for asked, frames in zip(conversations, rendered, strict=True):
        prompt = ids[texts[frames[0].prompt]]
        bare = [ids[texts[text]] for text in _texts(frames, asked.answers, False)]
        whole = bare
        if asked.end:
            closed = [ids[texts[text]] for text in _texts(frames, asked.answers, True)]
            whole = [_cut(tokenizer, c, common(b, c), special) for b, c in zip(bare, closed[len(bare) :], strict=True)]
        splits = [common(prompt, row) for row in whole]
        if any(split == len(row) for split, row in zip(splits, whole, strict=True)):
            raise UsageError("An answer has no token of its own behind its prompt.", "Give longer answers.")
        out.append(Encoded(prompt, [(row[:split], row[split:]) for split, row in zip(splits, whole, strict=True)]))
    return out


def _texts(frames: list[Rendered], answers: Sequence[str], end: bool) -> list[str]:
    """The conversation up to the end of each answer and, with ``end``, behind those each whole."""
    each = list(zip(frames * len(answers) if len(frames) == 1 else frames, answers, strict=True))
    bare = [frame.before + answer.strip() for frame, answer in each]
    return bare + [text + frame.after for text, (frame, _) in zip(bare, each, strict=True)] if end else bare


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Turns, system_prompt: str | None, answers: Sequence[str]
) -> list[Rendered]:
    """The conversation as text around its answers: one frame for all of them, or one each where the template treats
    answers differently (checked on the first and the last)."""
    turns = with_system(tokenizer, messages, system_prompt)
    prompt = _render(tokenizer, turns, generate=True)

    def around(answer: str) -> Rendered:
        answer = answer.strip()
        whole = _render(tokenizer, [*turns, {"role": "assistant", "content": answer}])
        at = _place(tokenizer, turns, prompt, whole, answer)
        if at < 0 or not answer:
            raise UsageError(f"The model's chat template changes the answer {answer!r}.", "Give another template.")
        return Rendered(prompt, whole[:at], whole[at + len(answer) :])

    first = around(answers[0])
    if len(answers) == 1 or around(answers[-1]) == first:
        return [first]
    return [around(answer) for answer in answers]


def _place(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], prompt: str, whole: str, answer: str
) -> int:
    """Where the answer starts in the ``whole`` conversation, or -1. A short answer may also stand in what the template
    puts around it ("end" in ``<|im_end|>``); then a word that stands nowhere else shows the place."""
    start = common(prompt, whole)
    if whole.count(answer, start) == 1:
        return whole.index(answer, start)
    marked = _render(tokenizer, [*turns, {"role": "assistant", "content": _MARK}])
    at = marked.rfind(_MARK)
    return at if at >= 0 and whole.startswith(marked[:at] + answer) else whole.rfind(answer)


def end_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id that ends the assistant's turn in the template, where that is a special token; else the EOS id."""
    _, continuation = answer_ids(tokenizer, [{"role": "user", "content": "a"}], "b")
    if continuation[-1] in _special(tokenizer):
        return continuation[-1]
    eos: int | None = tokenizer.eos_token_id
    return eos


def with_system(tokenizer: PreTrainedTokenizerBase, messages: Turns, system_prompt: str | None) -> list[dict[str, str]]:
    """The turns as plain dictionaries, ``system_prompt`` before everything, in a form that the template accepts."""
    turns = [_turn(message) for message in messages]
    own = turns[0]["content"] if turns[0]["role"] == "system" else None
    system = "\n\n".join(part for part in (system_prompt, own) if part)
    if own is not None:
        turns = turns[1:]
    if not system:
        return turns
    if _takes_system(tokenizer):
        return [{"role": "system", "content": system}, *turns]
    return [{"role": turns[0]["role"], "content": f"{system}\n\n{turns[0]['content']}"}, *turns[1:]]


def common(a: Sequence[int] | str, b: Sequence[int] | str) -> int:
    """Length of the longest common prefix of two lists of ids, or of two texts."""
    length = min(len(a), len(b))
    if a[:length] == b[:length]:
        return length
    return next(i for i in range(length) if a[i] != b[i])


def _turn(message: Message | dict[str, str]) -> dict[str, str]:
    if isinstance(message, Message):
        return {"role": message.role, "content": message.content}
    return {"role": message["role"], "content": message["content"]}


def _takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template shows a system turn; some raise, some leave it out."""
    turns = [{"role": "system", "content": "zyx"}, {"role": "user", "content": "a"}]
    try:
        return "zyx" in _render(tokenizer, turns, generate=True)
    except UsageError:
        return False


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], generate: bool = False) -> str:
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        return _plain(tokenizer, turns, generate)
    try:
        text: Any = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=generate, date_string=DATE
        )
    except TemplateError as problem:
        raise UsageError(
            f"The model's chat template refuses a conversation: {str(problem).rstrip('.')}.", "Give another template."
        ) from problem
    return str(text)


def plain(turns: Sequence[dict[str, str]], eos: str = "", *, generate: bool = True) -> str:
    """A conversation as plain lines, for models without a template; ``eos`` ends each answer, ``generate`` opens the
    next. A tokenizer that puts a BOS before any text has yet to put it there."""
    lines = [_PLAIN[t["role"]].format(t["content"]) + (eos + "\n" if t["role"] == "assistant" else "") for t in turns]
    return "".join(lines) + ("Answer:" if generate else "")


def _plain(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], generate: bool) -> str:
    # The BOS that this tokenizer puts before any text: templates bring their own, plain lines must not go without.
    bos = tokenizer.bos_token or ""
    starts = bool(bos) and list(tokenizer("a")["input_ids"])[:1] == [tokenizer.bos_token_id]
    return (bos if starts else "") + plain(turns, tokenizer.eos_token or "", generate=generate)


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and backend.truncation is None and backend.padding is None:
        # The same ids as below, without building a BatchEncoding a text: a third of the time for short texts. A few
        # texts are not worth waking other threads for.
        if len(texts) < 32:
            return [backend.encode(text, add_special_tokens=False).ids for text in texts]
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    ids: Any = tokenizer(texts, add_special_tokens=False, padding=False, truncation=False)["input_ids"]
    return [list(row) for row in ids]


def _cut(tokenizer: PreTrainedTokenizerBase, ids: list[int], answered: int, special: frozenset[int]) -> list[int]:
    """The conversation's ids cut behind the end-of-turn token: the first special token after the answer's
    ``answered`` tokens, else the first token there, else the EOS token put there."""
    for i in range(answered, len(ids)):
        if ids[i] in special:
            return ids[: i + 1]
    if answered < len(ids):
        return ids[: answered + 1]
    eos: Any = tokenizer.eos_token_id
    return ids if eos is None else [*ids, eos]


def _special(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))
