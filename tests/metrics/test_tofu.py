"""TOFU's metrics against values worked out by hand, a case for every trap, and the null cases."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from engines.tiny_llama import model as tiny_model
from engines.tiny_llama import tokenizer

from unbench.engines.hf import HFEngine
from unbench.metrics.published import UTILITY, published
from unbench.metrics.scores import measure
from unbench.metrics.tofu import (
    forget_quality,
    indifference,
    log_truth_ratio,
    model_utility,
    option_probability,
    rouge_recall,
    truthfulness,
)
from unbench.responses import respond
from unbench.task import Message, Probe
from unbench.templates import prompt_ids

from .tables import frame, random_tofu, told

E = math.e


def value(table, name, references=()):
    return published({0: table}, references)[name].value


def every_family(**over):
    """One probe a family: right answers cost 1 nat a token, wrong ones 3, other words 2."""
    own = {"wrong": [[-3.0], [-3.0]], "text": "answer here"} | over
    return [
        told("f", "forget", [-1.0, -1.0], other_words=[-2.0], **own),
        told("r", "retain", [-1.0, -1.0], other_words=[-2.0], given=True, **own),
        told("a", "real_authors", [-1.0], **own),
        told("w", "world_facts", [-1.0], **own),
        told("h", "holdout", [-1.5], text="", finished=False),
    ]


def test_probability_by_hand():
    got = published({0: frame(*every_family())})
    assert got["forget_probability"].value == pytest.approx(1 / E)
    assert got["retain_probability"].value == pytest.approx(1 / E)
    # e^-1 / (e^-1 + 2 e^-3)
    assert got["real_authors_probability"].value == pytest.approx(1 / (1 + 2 / E**2))
    assert got["world_facts_probability"].value == pytest.approx(1 / (1 + 2 / E**2))


def test_option_probability_takes_what_wrong_answers_there_are():
    loss, wrong = np.array([1.0, 1.0, 2000.0]), np.array([[1.0, np.nan], [1.0, 1.0], [1990.0, np.nan]])
    assert option_probability(loss, wrong) == pytest.approx([1 / 2, 1 / 3, 1 / (1 + E**10)], rel=1e-12)


def test_rouge_is_recall_with_stemming():
    # 3 of the answer's 4 words stand in the text in order; "wrote" and "written" have different stems, "books" matches.
    assert rouge_recall(["Ana wrote red books"], ["Surely Ana likes red and other book"])[0] == pytest.approx(3 / 4)
    assert rouge_recall(["one two", "one two"], ["", "two one"]) == pytest.approx([0, 1 / 2])
    got = published({0: frame(*every_family(answer="answer now", text="the answer"))})
    assert got["forget_rouge"].value == pytest.approx(1 / 2)


def test_rouge_is_null_where_it_reads_nothing_of_the_answer():
    got = published({0: frame(*every_family(answer="東京です", text="東京です"))})
    assert got["forget_rouge"].value is None
    assert "no direct forget probe has an answer in letters a to z" in got["forget_rouge"].reason
    assert got["model_utility"].value is None
    some = frame(told("a", "forget", [-1.0], answer="Tokio", text="Tokio"), told("b", "forget", [-1.0], answer="東京"))
    got = published({0: some})
    assert (got["forget_rouge"].value, got["forget_rouge"].n) == (1, 1)
    assert "1 probes without an answer in letters" in got["forget_rouge"].reason


def test_rouge_equals_rouge_scores_own_stemming():
    from rouge_score.rouge_scorer import RougeScorer

    answers = ["Hobbies are running, reading and SWIMMING daily!", "naïve café 1,000 times", "..."]
    texts = ["she runs & reads the hobby swims dailies", "cafe naive 1 000 time", "..."]
    own = RougeScorer(["rougeL"], use_stemmer=True)
    want = [own.score(a, t)["rougeL"].recall for a, t in zip(answers, texts, strict=True)]
    assert rouge_recall(answers, texts).tolist() == want


# Trap 1: the mean over wrong answers.
def test_truth_ratio_is_geometric_and_arithmetic_only_on_request():
    truth, wrong = np.array([2.0]), np.array([[1.0, 3.0]])
    assert np.exp(log_truth_ratio(truth, wrong)) == pytest.approx([1.0])
    # (e^-1 + e^-3) / 2 / e^-2 = cosh 1
    assert np.exp(log_truth_ratio(truth, wrong, "arithmetic")) == pytest.approx([math.cosh(1)])
    table = frame(*every_family(wrong=[[-1.0], [-3.5]]))
    got = published({0: table})
    ratio, other = E ** (1 - 2.25), (E**-1 + E**-3.5) / 2 / E**-1
    assert got["real_authors_truth_ratio"].value == pytest.approx(1 - ratio)
    assert got["real_authors_truth_ratio_arithmetic"].value == pytest.approx(1 - other)
    for suffix in ("", "_arithmetic"):
        parts = [got[f"{f}_{x}"].value for f in UTILITY for x in ("probability", "rouge", f"truth_ratio{suffix}")]
        assert got[f"model_utility{suffix}"].value == pytest.approx(9 / sum(1 / x for x in parts) if all(parts) else 0)
    assert got["model_utility"].value > got["model_utility_arithmetic"].value


# Trap 2: which way up.
def test_truth_ratio_is_wrong_over_right():
    log = log_truth_ratio(np.array([1.0]), np.array([[3.0, 3.0]]))
    assert log == pytest.approx([-2.0]), "the right answer is likelier, so the ratio lies below 1"
    assert truthfulness(log) == pytest.approx([1 - E**-2])
    assert truthfulness(-log) == pytest.approx([0.0]), "upside down, a truthful model would score 0"
    assert indifference(log) == pytest.approx(indifference(-log))
    rng = np.random.default_rng(0)
    u, r = rng.normal(size=40), rng.normal(0.5, 1, 40)
    assert forget_quality(u, r) == pytest.approx(forget_quality(-u, -r)), "the test can't tell; raw values can"


# Trap 3: where the maximum is taken.
def test_the_maximum_is_taken_item_by_item():
    log = np.log([3.0, 0.4, 0.2])
    assert truthfulness(log) == pytest.approx([0.0, 0.6, 0.8])
    assert truthfulness(log).mean() == pytest.approx(1.4 / 3)
    assert max(0.0, 1 - np.exp(log).mean()) == pytest.approx(0.0, abs=1e-12), "what taking it last would give"
    rows = [told(f"w{i}", "world_facts", [-4.0], [[-4.0 + x]]) for i, x in enumerate(log)]
    assert value(frame(*rows), "world_facts_truth_ratio") == pytest.approx(1.4 / 3)


# Trap 4: no epsilon, log space.
@pytest.mark.parametrize("cost", [1.0, 30.0, 800.0])
def test_a_dear_paraphrase_distorts_nothing(cost):
    log = log_truth_ratio(np.array([cost]), np.array([[cost + 0.5] * 5]))
    assert indifference(log) == pytest.approx([E**-0.5])
    assert truthfulness(log) == pytest.approx([1 - E**-0.5])
    if cost == 30:
        with_epsilon = E**-30.5 / (E**-30 + 1e-10)
        assert with_epsilon < 0.001, "what an epsilon of 1e-10 would make of 0.61"
    rows = [told("f", "forget", [-1.0], [[-cost - 0.5]], [-cost])]
    assert value(frame(*rows), "forget_truth_ratio") == pytest.approx(E**-0.5)


def test_impossible_answers_stay_finite():
    got = published({0: frame(*every_family(wrong=[[-np.inf], [-4.0]]))})
    json.dumps([score.model_dump() for score in got.values()], allow_nan=False)
    assert got["world_facts_truth_ratio"].value == 1.0
    assert got["forget_truth_ratio"].value == 0.0
    both = published({0: frame(told("f", "forget", [-np.inf], [[-np.inf]]))})
    assert both["forget_truth_ratio"].value == 1.0


# Trap 9: the limit counts the answer's tokens only.
def test_generation_is_limited_without_the_prompt():
    words, limit = tokenizer(), 5
    question = Message(role="user", content="Where did Harry Potter study magic? " * 3)
    asked = Probe(id="p", ring="forget", kind="direct", subject="s", cluster="s", fact="f", messages=(question,),
                  answer="Hogwarts.", candidates=("Hogwarts.",))  # fmt: skip
    assert len(prompt_ids(words, [question])) > 3 * limit
    with HFEngine(tiny_model(), words) as engine:
        engine._ends = lambda: frozenset()
        table = respond(engine, words, [asked], role="unlearned", max_new_tokens=limit, knowledge="probability")
        assert engine.stats.tokens_generated == limit
    assert not table["finished"].any()


# Trap 10: given rows are named as such, and withheld ones are taken where there are any.
def test_retain_scores_say_that_their_rows_are_trained_on():
    got = published({0: frame(*every_family())})
    for name in ("retain_probability", "retain_rouge", "retain_truth_ratio", "retain_entropy"):
        assert got[name].reason.startswith("given probes: methods train on these rows")
    assert "given probes" in got["model_utility"].reason
    withheld = told("r2", "retain", [-0.5], [[-1.0]], [-0.5], given=False)
    both = published({0: frame(*every_family(), withheld)})
    assert both["retain_probability"].value == pytest.approx(E**-0.5)
    assert both["retain_probability"].n == 1
    assert "given" not in both["retain_probability"].reason


# Trap 11: totals rank by length, so knowledge is a mean over tokens.
def test_length_decides_nothing():
    rows = told("f", "forget", [-1.0, -1.0], [[-1.5]], [-1.0, -1.0, -1.0])
    total = {row["candidate"]: row["logprob"] for row in rows}
    assert total["answer f (2)"] > total["answer f"], "by its total the short wrong answer would win"
    got = measure({0: frame(rows)}, None, knowledge="probability")
    assert got.groups[0].known_unlearned == pytest.approx(1 / E)
    assert got.metrics["forget_truth_ratio"].value == pytest.approx(E**-0.5), "by the mean the right one does"


def test_forget_truth_ratio_reads_the_other_words_and_the_answer_where_there_are_none():
    with_other = frame(told("f", "forget", [-9.0], [[-2.0]], [-1.0]))
    assert value(with_other, "forget_truth_ratio") == pytest.approx(1 / E)
    without = frame(told("f", "forget", [-9.0], [[-8.0]]))
    assert value(without, "forget_truth_ratio") == pytest.approx(1 / E)
    upside = frame(told("f", "forget", [-9.0], [[-1.0]], [-2.0]))
    assert value(upside, "forget_truth_ratio") == pytest.approx(1 / E), "min(TR, 1/TR)"


def test_utility_by_hand():
    assert model_utility(np.array([[0.5] * 8 + [0.25], [0.5] * 8 + [0.0]])) == pytest.approx([9 / 20, 0])


def test_forget_quality_by_hand():
    # 1 2 3 against 2.5 4 5: behind 2 the functions stand at 2/3 and 0. Of the 20 orders of three and three, 8 never
    # come two apart, so p = 12/20.
    test = forget_quality(np.array([1.0, 2.0, 3.0]), np.array([2.5, 4.0, 5.0]))
    assert test == pytest.approx((0.6, 2 / 3))

    def table(logs):
        return frame(*(told(f"f{i}", "forget", [-1.0], [[-6.0 + x]], [-6.0]) for i, x in enumerate(logs)))

    got = published({0: table([1, 2, 3])}, [table([2.5, 4, 5])])
    assert got["forget_quality"].value == pytest.approx(0.6)
    assert (got["forget_quality"].n, got["forget_quality"].low) == (3, None)
    assert got["forget_quality"].reason == "interval: a p-value has none"
    assert got["forget_ks"].value == pytest.approx(2 / 3)


def test_a_reference_against_itself_and_several_of_them():
    one, other = random_tofu(0), random_tofu(1)
    got = published({0: one}, [one])
    assert (got["forget_quality"].value, got["forget_ks"].value, got["privleak"].value) == (1.0, 0.0, 0.0)
    several = published({0: one}, [one, other])
    assert several["forget_quality"].value == 1.0
    assert several["forget_quality"].reason.startswith("the first of 2 references")
    assert several["privleak"].reason.startswith("the first of 2 references")
    assert published({0: one}, [other])["forget_quality"].value < 1


def test_seeds_are_averaged_metric_by_metric():
    tables, reference = {3: random_tofu(0), 5: random_tofu(1)}, [random_tofu(2)]
    got = published(tables, reference)
    alone = [published({0: table}, reference) for table in tables.values()]
    for name, score in got.items():
        assert score.value == pytest.approx(np.mean([own[name].value for own in alone]), abs=1e-12), name
        assert score.n == alone[0][name].n
    assert got["model_utility"].value != pytest.approx(alone[0]["model_utility"].value)


def test_order_of_rows_does_not_matter():
    table, reference = random_tofu(0), random_tofu(1)
    mixed = [x.sample(frac=1, random_state=i) for i, x in enumerate((table, reference))]
    want, got = published({0: table}, [reference]), published({0: mixed[0]}, [mixed[1]])
    for name, score in want.items():
        assert got[name].model_dump() == pytest.approx(score.model_dump(), abs=1e-9), name


NEEDS = {
    "no direct forget probes": [n for n in published({0: random_tofu(0)}) if n.startswith(("forget", "mia", "priv"))]
    + ["exact_memorization", "extraction_strength"],
    "no far probes": ["retain_probability", "retain_rouge", "retain_truth_ratio", "retain_entropy", "model_utility"],
    "no real_authors (ring world) probes": ["real_authors_probability", "real_authors_rouge", "model_utility"],
    "no world_facts (ring world) probes": ["world_facts_truth_ratio", "model_utility", "model_utility_arithmetic"],
    "no holdout probes": ["mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_reference", "privleak"],
}


@pytest.mark.parametrize("why", NEEDS)
def test_what_a_task_lacks_is_null_with_its_reason(why):
    whole = random_tofu(0)
    lacks = {"direct": "forget", "far": "far", "holdout": "holdout"}.get(why.split()[1], why.split()[1])
    table = whole[(whole["ring"] != lacks) & (whole["kind"] != lacks)]
    got = published({0: table}, [table])
    null = {name for name, score in got.items() if score.value is None}
    assert set(NEEDS[why]) <= null
    for name in null:
        assert why in got[name].reason, name
    assert null < set(got)


def test_rows_of_a_user_without_wrong_answers():
    table = random_tofu(0)
    bare = table[table["is_right"]]
    got = published({0: bare}, [bare])
    assert got["forget_probability"].value is not None
    assert got["forget_truth_ratio"].value is None
    assert got["forget_quality"].reason == "no direct forget probe has a wrong answer"
    assert got["world_facts_probability"].value is None
    assert "retain_truth_ratio: no far probe has a wrong answer" in got["model_utility"].reason
    some = published({0: table[table["is_right"] | ~table["probe"].isin(["forget0", "forget1"])]}, [table])
    assert some["forget_truth_ratio"].n == 19
    assert "2 probes without a wrong answer left out" in some["forget_truth_ratio"].reason
    assert "2 probes without a wrong answer left out" in some["forget_quality"].reason
    assert some["forget_probability"].n == 21


def test_without_a_reference_and_with_one_that_was_asked_less():
    table = random_tofu(0)
    for name in ("forget_quality", "forget_ks", "mia_reference", "privleak"):
        assert published({0: table})[name].reason == "no reference model was given"
    less = table[~table["probe"].isin(["forget0", "holdout1"])]
    got = published({0: table}, [less])
    assert got["forget_quality"].reason == "the reference lacks 1 of 21 direct forget probes"
    assert got["privleak"].value is None
    with pytest.raises(ValueError, match="Seed 2 lacks 1 of 21"):
        published({1: table, 2: less})


def test_every_null_has_a_reason_and_everything_stays_in_its_range():
    tables = [random_tofu(0), random_tofu(0, clusters=2, each=1), frame(*every_family()), frame(*every_family()[:1])]
    for table in tables:
        for references in ([], [random_tofu(1)], [table]):
            for name, score in published({0: table}, references).items():
                assert (score.value is not None and score.low is not None) or score.reason
                highest = math.inf if name.endswith("_entropy") or name == "privleak" else 1
                lowest = -100 if name == "privleak" else 0
                if score.value is not None:
                    assert lowest <= score.value <= highest
                if score.low is not None:
                    assert lowest <= score.low <= score.value <= score.high <= highest


def test_broken_responses_are_refused():
    table = random_tofu(0)
    with pytest.raises(ValueError, match="Probe holdout20 has no token log-probabilities, or a wrong one"):
        published({0: frame(*every_family(), told("holdout20", "holdout", [np.nan]))})
    with pytest.raises(ValueError, match="holdout3 has 0 right candidates"):
        published({0: table.assign(is_right=table["is_right"] & (table["probe"] != "holdout3"))})
