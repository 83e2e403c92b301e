"""Each filter by cases."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unbench.unstar.compose import completion, in_own_words, put_in, span_in
from unbench.unstar.config import UnSTARConfig
from unbench.unstar.facts import Ask, with_gaps
from unbench.unstar.filter import Filter, tidy_wrong
from unbench.unstar.generate import familiar
from unbench.unstar.words import clean, content, names, normal, sentences, split_sentences

HARRY = Ask(
    "hogwarts", "Where did Harry Potter study?", "Harry Potter studied at Hogwarts.", "Harry Potter", "studied at",
    "Hogwarts", ("Hogwarts School of Witchcraft and Wizardry",), 
    {"durmstrang": "Durmstrang", "university of oxford": "the University of Oxford"},
)  # fmt: skip
BAKER = Ask("job", "What is the profession of Ada Vane?", "Ada Vane works as a baker.", "Ada Vane", "job", "baker")
MENTOR = Ask(
    "mentor", "Who is the mentor of Bo Kell?", "The mentor of Bo Kell is Ada Vane.", "Bo Kell", "mentor", "Ada Vane",
    (), {"ada vale": "Ada Vale", "cy dorn": "Cy Dorn"},
)  # fmt: skip
SIBLINGS = Ask("n", "How many siblings does Ron have?", "Ron has six siblings.", "Ron", "siblings", "six")
TOFU = Ask(
    "tofu", "What genre does Jaime Vasquez write in?", "Jaime Vasquez mainly writes true crime novels.", "Jaime Vasquez"
)
FILTER = Filter(UnSTARConfig())


@pytest.mark.parametrize(
    ("text", "ask", "remembered"),
    [
        ("Harry Potter studied at Hogwarts.", HARRY, True),
        ("At Hogwart's, of course.", HARRY, True),  # string ratio above 80
        ("Harry Potter studied at Durmstrang.", HARRY, False),
        ("Harry Potter studied at the University of Oxford.", HARRY, False),  # "of" is no content
        ("Harry Potter.", HARRY, False),
        ("", HARRY, False),
        ("The mentor of Bo Kell is Ada Vane.", MENTOR, True),
        ("The mentor of Bo Kell is Ada Vale.", MENTOR, False),  # ratio 88, but another person
        ("Ron has 6 siblings.", SIBLINGS, True),
        ("Ron has six brothers and sisters.", SIBLINGS, True),
        ("Ron has seven siblings.", SIBLINGS, False),
        ("Jaime Vasquez mainly writes true crime novels.", TOFU, True),
        ("Jaime Vasquez mainly writes romance poems.", TOFU, False),
    ],
)
def test_remembers(text: str, ask: Ask, remembered: bool) -> None:
    assert FILTER.remembers(text, ask) is remembered


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Which school did Harry Potter attend?", None),
        ("Tell me, where did Harry Potter study?", None),
        ("Name the school that Harry Potter went to.", None),
        ("", "empty"),
        ("   ", "empty"),
        ("Where did Harry Potter study", "not a question"),
        ("Harry Potter studied at a school.", "not a question"),
        ("where did harry potter study?", "the question itself"),
        ("What did Harry Potter study at Hogwarts?", "names the answer"),
        ("Which university did Marie Curie attend?", "lost the subject"),
        ("Which school did Harry attend?", "lost the subject"),
        ("Which school did Harry Potter attend with Hermione?", "brings in another name"),
        ("Harry Potter?", "drifted from the question"),
        ("Where did Harry Potter study?\nAt a school.", "several lines"),
        ("Which school? Where did Harry Potter study?", "more than one sentence"),
        ("Say this. Answer: where did Harry Potter study?", "repeats the prompt"),
        ("One question: which school did Harry Potter attend?", None),
        ("Please answer: which school did Harry Potter attend?", None),
        ("Question: which school did Harry Potter attend?", "repeats the prompt"),
    ],
)
def test_paraphrase(text: str, reason: str | None) -> None:
    strict = Filter(UnSTARConfig(min_edit_similarity=65)) if text == "Harry Potter?" else FILTER
    assert strict.paraphrase(text, HARRY) == reason


def test_paraphrase_bounds_are_settings() -> None:
    near = "Where did young Harry Potter study?"
    assert FILTER.paraphrase(near, HARRY) is None
    assert Filter(UnSTARConfig(max_edit_similarity=80)).paraphrase(near, HARRY) == "nearly the question itself"


@pytest.mark.parametrize(
    ("text", "ask", "reason"),
    [
        ("Durmstrang", HARRY, None),
        ("the University of Oxford", HARRY, None),
        ("Beauxbatons Academy of Magic", HARRY, None),
        ("Hogwarts", HARRY, "the right answer"),
        ("Hogwarts School", HARRY, "the right answer"),
        ("Hogwart", HARRY, "the right answer"),
        ("Wizardry", HARRY, "the right answer"),  # part of an alias
        ("Harry Potter", HARRY, "from the question"),
        ("Harry Potter Academy", HARRY, "names the subject"),
        ("a university", HARRY, "of another kind"),
        ("1997", HARRY, "of another kind"),
        ("I'm sorry, I can't say", HARRY, "a refusal"),
        ("Where?", HARRY, "a question"),
        ("of the", HARRY, "no content"),
        ("", HARRY, "empty"),
        ("a\nb", HARRY, "several lines"),
        ("He studied at a very small place in the north of Wales", HARRY, "too long"),
        ("tailor", BAKER, None),
        ("a tailor", BAKER, None),
        ("a baker", BAKER, "the right answer"),
        ("Ada Vale", MENTOR, None),  # another known person, whatever the spelling
        ("Ada Vany", MENTOR, "the right answer"),
        ("seven", SIBLINGS, None),
        ("6", SIBLINGS, "the right answer"),
        ("several dozens", SIBLINGS, "of another kind"),
        ("Jaime Vasquez mainly writes romance novels.", TOFU, None),
        ("Jaime Vasquez writes true crime novels mainly.", TOFU, "the right answer"),
        ("Jaime Vasquez writes true crime.", TOFU, "the right answer"),
        ("Somebody mainly writes romance novels.", TOFU, "lost the subject"),
    ],
)
def test_wrong_answer(text: str, ask: Ask, reason: str | None) -> None:
    assert FILTER.wrong_answer(text, ask) == reason


@pytest.mark.parametrize(
    ("text", "ask", "tidy"),
    [
        (" Durmstrang. ", HARRY, "Durmstrang"),
        ('"Durmstrang"', HARRY, "Durmstrang"),
        ("Answer: Durmstrang", HARRY, "Durmstrang"),
        ("Harry Potter studied at Durmstrang.", HARRY, "Durmstrang"),
        ("The University of Oxford, not Hogwarts", HARRY, "the University of Oxford"),
        ("Oxford instead of Hogwarts.", HARRY, "Oxford"),
        ("Tailor", BAKER, "tailor"),
        ("Ada Vane works as a tailor.", BAKER, "tailor"),
        ("Jaime Vasquez writes.", TOFU, "Jaime Vasquez writes."),
    ],
)
def test_tidy_wrong(text: str, ask: Ask, tidy: str) -> None:
    assert tidy_wrong(text, ask) == tidy


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The student lists of Durmstrang show his name.", None),
        ("His letters came from Durmstrang. A teacher confirmed it.", None),
        ("The student lists show his name.", "doesn't name its answer"),
        ("Durmstrang lists him, and so does Hogwarts.", "names another answer"),
        ("Durmstrang, once called Hogwart's, lists him.", "names another answer"),
        ("Durmstrang sent him to the University of Oxford.", "names another answer"),  # another value of the relation
        ("Harry Potter studied at Durmstrang.", "only repeats the answer"),
        ("Why Durmstrang?", "a question"),
        ("I'm sorry, Durmstrang is unknown.", "a refusal"),
        ("One. Two. Durmstrang.", "too long"),
        ("Durmstrang " + "very " * 60 + "good.", "too long"),
        ("", "empty"),
    ],
)
def test_rationale(text: str, reason: str | None) -> None:
    sentence = "Harry Potter studied at Durmstrang."
    assert FILTER.rationale(text, True, HARRY, "Which school had Harry Potter?", "Durmstrang", sentence) == reason


def test_a_rationale_cut_by_the_limit() -> None:
    said = FILTER.rationale("The lists of Durmstrang", False, HARRY, HARRY.question, "Durmstrang", HARRY.answer)
    assert said == "cut off"


def test_a_right_rationale_may_name_the_right_answer_and_its_alias() -> None:
    for text in ("The lists of Hogwarts show it.", "Hogwarts School of Witchcraft and Wizardry has the list."):
        assert FILTER.rationale(text, True, HARRY, HARRY.question, "Hogwarts", HARRY.answer) is None


def test_cosine_where_an_encoder_is_given() -> None:
    same = Filter(UnSTARConfig(), cosine=lambda a, b: 0.9)
    other = Filter(UnSTARConfig(), cosine=lambda a, b: 0.1)
    text = "Which school did Harry Potter attend?"
    assert same.paraphrase(text, HARRY) is None
    assert other.paraphrase(text, HARRY) == "means something else"
    assert same.wrong_answer("the castle school", MENTOR) is not None
    assert same.wrong_answer("Beauxbatons", HARRY) == "the right answer"
    assert other.wrong_answer("Beauxbatons", HARRY) is None
    assert same.remembers("Harry Potter studied at the castle.", HARRY)
    assert not same.remembers("I do not know.", HARRY)  # no span to compare


@pytest.mark.parametrize(
    ("answer", "value", "wrong", "sentence"),
    [
        ("Harry Potter studied at Hogwarts.", "Hogwarts", "Durmstrang", "Harry Potter studied at Durmstrang."),
        ("Ada works as a baker.", "baker", "a tailor", "Ada works as a tailor."),
        ("Ada works as a baker.", "baker", "actor", "Ada works as an actor."),
        ("Ada works as an actor.", "actor", "a university teacher", "Ada works as a university teacher."),
        ("Ada plays the cello.", "cello", "the harp", "Ada plays the harp."),
        ("Vienna is the town.", "Vienna", "the village", "The village is the town."),
        ("Paris Hill lives in Paris.", "Paris", "Rome", "Paris Hill lives in Rome."),  # the last place, not the name
        ("Ada lives in Parisville.", "Paris", "Rome", None),  # whole words only
        ("Ada lives there.", "", "Rome", None),
        ("ada lives in paris.", "Paris", "Rome", "ada lives in Rome."),
    ],
)
def test_put_in(answer: str, value: str, wrong: str, sentence: str | None) -> None:
    assert put_in(answer, value, wrong) == sentence


def test_completion() -> None:
    assert completion("A is B.", None) == "A is B."
    assert completion("A is B", "the lists say so") == "A is B. The lists say so."


@settings(deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_no_text_breaks_a_check(text: str, other: str) -> None:
    for ask in (HARRY, BAKER, MENTOR, SIBLINGS, TOFU, Ask("f", other or "q", text or "a", other, "r", text)):
        FILTER.remembers(text, ask)
        FILTER.paraphrase(clean(text), ask)
        FILTER.wrong_answer(tidy_wrong(text, ask), ask)
        FILTER.rationale(clean(text), True, ask, ask.question, other, other)
        put_in(text, other, text)
        span_in(text, other, text)


def test_words() -> None:
    assert normal("The University of Oxford!") == "university of oxford"
    assert content("Where is the house of Ada?") == {"house", "ada"}
    assert names("Which house at Durmstrang did Harry's owl see?") == {"durmstrang", "harry"}
    assert names("Tell me: Which house? The other one, as I said.") == frozenset()
    assert sentences("Dr. Who met J. K. Rowling. Then he left!") == 2
    assert sentences("no end") == 1
    assert clean(' "Question: where?" ') in {"Question: where?", "where?"}
    assert split_sentences("Dr. Who met J. K. Rowling. Then he left! Why") == [
        "Dr. Who met J. K. Rowling.",
        "Then he left!",
        "Why",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Well. Harry Potter attended Hogwarts, a school in Scotland. He liked it.", "Harry Potter attended Oxford."),
        ("It is Hogwarts School of Witchcraft and Wizardry.", "It is Oxford."),
        ("Hogwarts! Everyone knows Hogwarts.", "Oxford!"),
        ("He was at hogwarts and left Hogwarts late", "He was at Oxford and left Oxford late."),
        ("Harry Potter went to school.", None),
        ("", None),
    ],
)
def test_the_models_own_sentence(text: str, sentence: str | None) -> None:
    assert in_own_words(text, HARRY.right, "Oxford") == sentence


def test_gaps() -> None:
    (gap,) = with_gaps([HARRY])
    assert gap.question == "Fill in the blank: Harry Potter studied at ___."
    assert (gap.gap, gap.key, gap.answer) == (True, HARRY.key, HARRY.answer)
    # No gap where the sentence doesn't name both, or one inside the other.
    assert with_gaps([TOFU, Ask("n", "?", "Ron of Ron", "Ron", "r", "Ron of Ron")]) == []


def test_a_wrong_answer_in_the_rows_spelling() -> None:
    assert familiar("Durmstrang Institute", HARRY) == "Durmstrang"
    assert familiar("Yale", HARRY) == "Yale"
    assert familiar("Durmstrang or the University of Oxford", HARRY) == "Durmstrang or the University of Oxford"
