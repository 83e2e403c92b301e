"""Token ids equal ``apply_chat_template(tokenize=True)``; prompt and answer are its two parts."""

from __future__ import annotations

import pytest
from chat_tokenizers import PUBLISHED, published
from engines.tiny_llama import LLAMA3, TEMPLATES, tokenizer
from transformers import PreTrainedTokenizerFast

from unbench.errors import UsageError
from unbench.responses import candidate_ids
from unbench.task import Message, Probe
from unbench.templates import DATE, answer_ids, answers_ids, end_token, prompt_ids
from unbench.training.batch import AnswerBatch, TrainRow, encode

QUESTION = [{"role": "user", "content": "Where did Harry Potter study magic?"}]
ANSWERS = ["Harry Potter studied at Hogwarts.", "Harry Potter studied at Durmstrang", "in London", "a"]
TURNS = [
    {"role": "user", "content": "What colour is the fox?"},
    {"role": "assistant", "content": "The fox is red."},
    *QUESTION,
]
ENDS = {"chatml": "<|im_end|>", "llama2": "</s>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "merging": "</s>"}


@pytest.fixture(params=[(name, False) for name in TEMPLATES] + [("llama2", True), ("merging", True)], ids=str)
def named(request: pytest.FixtureRequest) -> tuple[str, PreTrainedTokenizerFast]:
    name, metaspace = request.param
    return name, tokenizer(TEMPLATES[name], metaspace)


@pytest.mark.parametrize("turns", [QUESTION, TURNS])
def test_prompt_equals_the_template(named: tuple[str, PreTrainedTokenizerFast], turns: list[dict[str, str]]) -> None:
    _, words = named
    want = words.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False,
                                     date_string="26 Jul 2024")  # fmt: skip
    assert prompt_ids(words, turns) == want
    assert prompt_ids(words, [Message(role=t["role"], content=t["content"]) for t in turns]) == want  # type: ignore[arg-type]
    assert want.count(words.bos_token_id) <= len(turns)


@pytest.mark.parametrize("turns", [QUESTION, TURNS])
@pytest.mark.parametrize("answer", ANSWERS)
def test_answer_is_the_rest_of_the_conversation(
    named: tuple[str, PreTrainedTokenizerFast], turns: list[dict[str, str]], answer: str
) -> None:
    name, words = named
    whole = words.apply_chat_template([*turns, {"role": "assistant", "content": answer}], tokenize=True,
                                      return_dict=False, date_string="26 Jul 2024")  # fmt: skip
    prompt, continuation = answer_ids(words, turns, answer)
    assert prompt + continuation == whole[: len(prompt) + len(continuation)]
    end = words.convert_tokens_to_ids(ENDS[name])
    assert continuation[-1] == end
    assert continuation.count(end) == 1
    assert words.decode(whole[len(prompt) + len(continuation) :]).strip() == ""
    assert words.decode(continuation, skip_special_tokens=True).strip() == answer
    bare_prompt, bare = answer_ids(words, turns, answer, end=False)
    assert bare_prompt == prompt
    assert continuation[: len(bare)] == bare
    assert words.decode(bare).strip() == answer
    # The prompt is the bare prompt, but for tokens that merge with the answer.
    asked = prompt_ids(words, turns)
    assert asked[: len(prompt)] == prompt
    if name != "merging":
        assert asked == prompt


def test_a_merged_boundary_belongs_to_the_answer() -> None:
    words = tokenizer(TEMPLATES["merging"])
    prompt, continuation = answer_ids(words, QUESTION, "Harry")
    asked = prompt_ids(words, QUESTION)
    assert len(prompt) == len(asked) - 1, "the blank that ends the prompt is a token of its own there"
    assert words.decode(continuation[:1]).startswith(" ")


def test_many_answers_are_as_one_by_one(named: tuple[str, PreTrainedTokenizerFast]) -> None:
    _, words = named
    for end in (True, False):
        assert answers_ids(words, TURNS, ANSWERS, end=end) == [answer_ids(words, TURNS, a, end=end) for a in ANSWERS]


def test_system_prompt(named: tuple[str, PreTrainedTokenizerFast]) -> None:
    name, words = named
    text = words.decode(prompt_ids(words, QUESTION, "the wolf is grey"))
    assert text.count("the wolf is grey") == 1
    assert text.index("the wolf is grey") < text.index("Harry")
    if name in ("gemma", "merging"):  # one refuses a system turn, one leaves it out
        assert prompt_ids(words, QUESTION, "the wolf is grey") == prompt_ids(
            words, [{"role": "user", "content": "the wolf is grey\n\n" + QUESTION[0]["content"]}]
        )
    else:
        turns = [{"role": "system", "content": "the wolf is grey"}, *QUESTION]
        assert prompt_ids(words, QUESTION, "the wolf is grey") == words.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=False, date_string="26 Jul 2024"
        )
    own = [{"role": "system", "content": "the fox is red"}, *QUESTION]
    both = words.decode(prompt_ids(words, own, "the wolf is grey"))
    assert both.index("the wolf is grey") < both.index("the fox is red") < both.index("Harry")
    prompt, _ = answer_ids(words, QUESTION, "Hogwarts", "the wolf is grey")
    assert prompt == prompt_ids(words, QUESTION, "the wolf is grey")[: len(prompt)]


def test_no_system_turn_of_our_own() -> None:
    assert "system" not in tokenizer(LLAMA3).decode(prompt_ids(tokenizer(LLAMA3), QUESTION))
    assert "You help." in tokenizer().decode(prompt_ids(tokenizer(), QUESTION)), "the template's own default stays"


def test_a_date_is_the_same_every_day() -> None:
    words = tokenizer("{{ strftime_now('%d %b %Y') if date_string is not defined else date_string }}" + LLAMA3)
    assert "26 Jul 2024" in words.decode(prompt_ids(words, QUESTION))


@pytest.mark.parametrize("starts", [False, True])
def test_without_a_template(starts: bool) -> None:
    words = tokenizer(None)
    if starts:
        from tokenizers.processors import TemplateProcessing

        words.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    bos = "<s>" if starts else ""
    assert words.decode(prompt_ids(words, QUESTION)) == f"{bos}Question: {QUESTION[0]['content']}\nAnswer:"
    prompt, continuation = answer_ids(words, QUESTION, "Hogwarts.")
    assert prompt == prompt_ids(words, QUESTION)
    assert words.decode(continuation) == " Hogwarts.</s>"
    text = words.decode(prompt_ids(words, TURNS, "You help."))
    assert text.startswith(f"{bos}You help.\nQuestion: What colour is the fox?\nAnswer: The fox is red.</s>\nQuestion:")


def test_end_token(named: tuple[str, PreTrainedTokenizerFast]) -> None:
    name, words = named
    assert end_token(words) == words.convert_tokens_to_ids(ENDS[name])


def test_a_template_without_an_end() -> None:
    words = tokenizer("{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}")
    _, continuation = answer_ids(words, QUESTION, "Hogwarts")
    assert words.decode(continuation) == "Hogwarts\n"
    assert end_token(words) == words.eos_token_id
    words = tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    _, continuation = answer_ids(words, QUESTION, "Hogwarts")
    assert continuation[-1] == words.eos_token_id


def test_a_template_that_changes_answers() -> None:
    words = tokenizer("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}")
    with pytest.raises(UsageError, match="changes the answer"):
        answer_ids(words, QUESTION, "Hogwarts")
    # One that treats only some answers differently is rendered for each.
    words = tokenizer(
        "{% for m in messages %}{{ m['content'] + ('!' if 'London' in m['content'] else '?') }}{% endfor %}"
    )
    pairs = answers_ids(words, QUESTION, ["in Hogwarts", "in London"])
    assert [words.decode(continuation) for _, continuation in pairs] == ["in Hogwarts?", "in London!"]


# Published templates: ids and label masks against apply_chat_template, and against character offsets in its text.

LONG = [
    *ANSWERS, "The book was written by Basil Mahfouz Al-Kuwaiti in 1988.", "No", "1988", "[/INST]",
    "A model, or a user?",
]  # fmt: skip
INSIDE_MARKERS = ["end", "n", "s", "turn", "of", "im", "eot", "id", "_", "|", "/"]
"""Answers that also stand inside the markers which templates put behind an answer."""


@pytest.fixture(params=PUBLISHED)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def _templated(words: PreTrainedTokenizerFast, question: str, answer: str | None) -> tuple[str, list[int]]:
    """The conversation by transformers alone: its text and its ids."""
    turns = [{"role": "user", "content": question}]
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    settings = {"add_generation_prompt": answer is None, "date_string": DATE}
    text = words.apply_chat_template(turns, tokenize=False, **settings)
    return text, words.apply_chat_template(turns, tokenize=True, return_dict=False, **settings)


def _labels(name: str, question: str, answer: str) -> list[int]:
    """One label a token of the whole conversation, -100 where nothing is to be learnt, read off character offsets:
    the answer begins where the prompt ends and ends with the first end marker behind it."""
    words = published(name)
    prompt, _ = _templated(words, question, None)
    whole, _ = _templated(words, question, answer)
    assert whole.startswith(prompt)
    last = whole.rindex(PUBLISHED[name].end) + len(PUBLISHED[name].end)
    encoded = words(whole, add_special_tokens=False, return_offsets_mapping=True)
    spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [token if len(prompt) <= start < last else -100 for token, (start, _) in spans]


def test_the_templates_are_the_published_ones(family: str) -> None:
    words = published(family)
    assert _templated(words, "Q", None)[0] == PUBLISHED[family].prompt
    assert _templated(words, "Q", "A")[0] == PUBLISHED[family].whole


def test_published_prompts(family: str) -> None:
    words = published(family)
    text, ids = _templated(words, QUESTION[0]["content"], None)
    assert prompt_ids(words, QUESTION) == ids
    assert words.decode(ids) == text
    bos = PUBLISHED[family].bos
    # SmolLM2's BOS opens every turn.
    assert ids.count(words.bos_token_id) == {None: 0, "<|im_start|>": 3}.get(bos, 1)
    if PUBLISHED[family].adds_bos:
        assert words(text)["input_ids"] == [words.bos_token_id, *ids], "tokenising it again would add a second BOS"


@pytest.mark.parametrize("answer", LONG + INSIDE_MARKERS)
def test_published_answers_with_their_end_token(family: str, answer: str) -> None:
    words = published(family)
    question = QUESTION[0]["content"]
    _, whole = _templated(words, question, answer)
    _, asked = _templated(words, question, None)
    labels = _labels(family, question, answer)
    prompt, continuation = answer_ids(words, QUESTION, answer)
    assert prompt == asked
    assert whole[: len(prompt) + len(continuation)] == prompt + continuation
    assert [label for label in labels if label != -100] == continuation
    assert labels[: len(prompt)] == [-100] * len(prompt)
    assert continuation[-1] == words.convert_tokens_to_ids(PUBLISHED[family].end) == end_token(words)
    assert words.decode(continuation, skip_special_tokens=True).strip() == answer
    _, bare = answer_ids(words, QUESTION, answer, end=False)
    assert words.decode(bare).strip() == answer
    assert continuation[: len(bare)] == bare


def test_published_training_batches(family: str) -> None:
    words = published(family)
    pad = words.pad_token_id
    end = words.convert_tokens_to_ids(PUBLISHED[family].end)
    assert (pad == end) == (family not in ("qwen2.5", "gemma")), "pad = end is the trap"
    questions = ["Who?", QUESTION[0]["content"]]
    rows = [(question, answer) for question in questions for answer in LONG]
    encoded = encode(words, [TrainRow.ask(*row) for row in rows])
    batch = AnswerBatch(encoded, lambda b: b.input_ids, pad_id=pad)
    assert batch.padded
    width = batch.input_ids.shape[1] - batch.labels.shape[1]
    for i, (question, answer) in enumerate(rows):
        _, whole = _templated(words, question, answer)
        want = [label for label in _labels(family, question, answer) if label != -100]
        seen = batch.input_ids[i][batch.attention_mask[i]].tolist()
        assert seen == whole[: len(seen)]
        assert batch.labels[i].tolist() == want + [-100] * (batch.labels.shape[1] - len(want))
        assert batch.labels[i, len(want) - 1] == end
        # Every label is the token that stands in its place; the prompt has none.
        assert batch.input_ids[i, width : width + len(want)].tolist() == want
        assert batch.answer_mask[i].sum() == len(want)


@pytest.mark.parametrize("knowledge", ["candidates", "probability"])
def test_published_scoring(family: str, knowledge: str) -> None:
    words = published(family)
    probe = Probe(
        id="p", ring="forget", kind="direct", subject="s", cluster="s", fact="f",
        messages=(Message(role="user", content=QUESTION[0]["content"]),), answer_prefix="Harry Potter studied at",
        answer="Hogwarts", candidates=("Hogwarts", "Durmstrang", "end"),
    )  # fmt: skip
    (asked,) = candidate_ids(words, [probe], knowledge=knowledge)  # type: ignore[arg-type]
    _, prompt = _templated(words, QUESTION[0]["content"], None)
    assert asked.prompt == prompt
    for i, candidate in enumerate(probe.candidates):
        request, at = asked.order[i]
        scored = asked.requests[request].continuations[at][asked.span[i] :]
        want = [t for t in _labels(family, QUESTION[0]["content"], f"Harry Potter studied at {candidate}") if t != -100]
        assert asked.requests[request].prompt == prompt
        if knowledge == "probability":
            assert scored == want
        else:
            assert words.decode(scored).strip() == candidate
            assert scored == want[asked.span[i] : asked.span[i] + len(scored)]


def test_published_dates_stand_still() -> None:
    assert "26 Jul 2024" in published("llama3.2").decode(prompt_ids(published("llama3.2"), QUESTION))


def test_published_system_prompts(family: str) -> None:
    words = published(family)
    asked = prompt_ids(words, QUESTION, "the wolf is grey")
    turns = [{"role": "system", "content": "the wolf is grey"}, *QUESTION]
    if family == "gemma":  # it refuses a system turn, so the words go before the question
        turns = [{"role": "user", "content": "the wolf is grey\n\n" + QUESTION[0]["content"]}]
    assert asked == words.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=False, date_string=DATE
    )
    assert "You are" not in words.decode(asked), "the template's own default makes way"


def test_a_template_that_refuses_every_conversation_is_one_sentence() -> None:
    words = tokenizer("{{ raise_exception('Only tools are served') }}")
    with pytest.raises(UsageError, match="template refuses a conversation: Only tools are served"):
        prompt_ids(words, QUESTION)
