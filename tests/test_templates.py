"""Token ids equal ``apply_chat_template(tokenize=True)``; prompt and answer are its two parts."""

from __future__ import annotations

import pytest
from engines.tiny_llama import LLAMA3, TEMPLATES, tokenizer
from transformers import PreTrainedTokenizerFast

from unbench.errors import UsageError
from unbench.task import Message
from unbench.templates import answer_ids, answers_ids, end_token, prompt_ids

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


def test_prefill(named: tuple[str, PreTrainedTokenizerFast]) -> None:
    _, words = named
    prompt, start = answer_ids(words, QUESTION, "Harry Potter studied at", end=False)
    assert prompt_ids(words, QUESTION, prefill="Harry Potter studied at") == prompt + start


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
