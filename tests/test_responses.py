"""The responses table: what is scored, over which tokens, and how it is kept."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from engines.tiny_llama import TEMPLATES, model, straight, tokenizer

from unbench.engines.base import EngineStats, Generation, Sampling, ScoreRequest, TokenScores
from unbench.engines.hf import HFEngine
from unbench.errors import EnvironmentProblem, RunFailed
from unbench.metrics.knowledge import per_probe
from unbench.responses import COLUMNS, candidate_ids, compact, load, respond, save, save_table
from unbench.task import Message, Probe
from unbench.templates import answer_ids, prompt_ids


def probe(number: int = 0, **changes: object) -> Probe:
    fields: dict[str, object] = {
        "id": f"p{number}",
        "ring": "forget",
        "kind": "direct",
        "subject": "harry",
        "cluster": "harry",
        "fact": "harry/school",
        "messages": (Message(role="user", content="Where did Harry Potter study magic?"),),
        "answer_prefix": "Harry Potter studied at",
        "answer": "Hogwarts",
        "candidates": ("Durmstrang", "Hogwarts", "Beauxbatons", "the north of London"),
    }
    return Probe.model_validate(fields | changes)


class Recorder:
    """An engine that gives every token -1, -2, -3 … and always says the same."""

    def __init__(self, text: str = " He studied at Hogwarts. ") -> None:
        self.stats = EngineStats()
        self.text = text
        self.requests: list[ScoreRequest] = []
        self.prompts: list[list[int]] = []
        self.sampling: Sampling | None = None

    def score(self, requests: list[ScoreRequest]) -> list[list[TokenScores]]:
        self.requests += requests
        return [
            [TokenScores([-float(i) for i in range(1, len(c) + 1)], [False] * len(c)) for c in r.continuations]
            for r in requests
        ]

    def generate(self, prompts: list[list[int]], sampling: Sampling) -> list[Generation]:
        self.prompts, self.sampling = list(prompts), sampling
        return [Generation([5], self.text, True) for _ in prompts]


def test_columns_and_rows_by_hand() -> None:
    words, engine, shown = tokenizer(), Recorder(), []
    other = probe(1, kind="yes_no", pair="y", given=True, answer="Yes", candidates=("Yes", "No"), answer_prefix="")
    frame = respond(engine, words, [probe(), other], role="target", max_new_tokens=9,
                    progress=lambda *step: shown.append(step))  # type: ignore[arg-type,func-returns-value]  # fmt: skip
    assert tuple(frame.columns) == COLUMNS
    assert list(frame["probe"]) == ["p0"] * 4 + ["p1"] * 2
    assert list(frame["continuation"]) == [0, 1, 2, 3, 0, 1]
    assert list(frame["candidate"]) == [*probe().candidates, "Yes", "No"]
    assert list(frame["is_right"]) == [False, True, False, False, True, False]
    assert set(frame["role"]) == {"target"}
    assert set(frame["text"]) == {"He studied at Hogwarts."}
    assert frame["finished"].all()
    assert list(frame["recalled"]) == [True] * 4 + [False] * 2
    assert list(frame["given"]) == [False] * 4 + [True] * 2
    assert list(frame["pair"]) == [None] * 4 + ["y"] * 2
    assert engine.prompts == [prompt_ids(words, probe().messages)] * 2
    assert engine.sampling == Sampling(max_new_tokens=9)
    assert len(engine.requests) == 2, "the candidates of a probe share one request"
    assert shown
    # The span: what comes after "Harry Potter studied at", the same for all.
    shared = len(answer_ids(words, probe().messages, "Harry Potter studied at", end=False)[1])
    for (_, row), candidate in zip(frame[:4].iterrows(), probe().candidates, strict=True):
        _, ids = answer_ids(words, probe().messages, f"Harry Potter studied at {candidate}", end=False)
        assert row["n_tokens"] == len(ids) - shared
        assert len(row["token_logprobs"]) == len(row["token_argmax"]) == len(ids)
        assert row["logprob"] == -sum(range(shared + 1, len(ids) + 1))
    assert list(frame["n_tokens"][4:]) == [
        len(answer_ids(words, probe().messages, a, end=False)[1]) for a in ("Yes", "No")
    ]


def test_the_span_starts_where_candidates_differ() -> None:
    """Not at the prefix's end: a beginning that all candidates share is not scored."""
    words = tokenizer()
    asked = probe(answer="in London", candidates=("in London", "in the north"))
    got = candidate_ids(words, [asked])[0]
    shared = len(answer_ids(words, asked.messages, "Harry Potter studied at in", end=False)[1])
    assert got.span == [shared, shared]
    longer = probe(answer="red", candidates=("red", "red fox"))
    got = candidate_ids(words, [longer])[0]
    (request,) = got.requests
    assert got.span == [len(request.continuations[0]) - 1] * 2, "the shorter candidate keeps a token"


def test_whole_sentences_have_their_end_token() -> None:
    words = tokenizer()
    single = probe(
        answer_prefix="", answer="Harry Potter studied at Hogwarts.", candidates=("Harry Potter studied at Hogwarts.",)
    )
    _, want = answer_ids(words, single.messages, single.answer)
    got = candidate_ids(words, [single])[0]
    assert (got.requests[0].continuations, got.span) == ([want], [0])
    assert want[-1] == words.convert_tokens_to_ids("<|im_end|>")
    several = candidate_ids(words, [probe()], knowledge="probability")[0]
    assert all(ids[-1] == want[-1] for ids in several.requests[0].continuations)
    assert several.span == [0] * 4
    frame = respond(Recorder(), words, [single], role="target", max_new_tokens=3)
    assert frame["n_tokens"][0] == len(want)
    assert frame["logprob"][0] == -sum(range(1, len(want) + 1))


def test_accepted_spellings_count_as_recalled() -> None:
    asked = [probe(0, accept=("the wizard school",)), probe(1)]
    frame = respond(Recorder("the wizard school"), tokenizer(), asked, role="target", max_new_tokens=3)
    assert list(frame.groupby("probe")["recalled"].first()) == [True, False]


def test_candidates_that_merge_with_the_prompt() -> None:
    """Prompts of one probe may differ by a token; spans still start where the candidates' ids differ."""
    words = tokenizer(TEMPLATES["merging"])
    asked = probe(answer_prefix="", answer="Harry", candidates=("Harry", "zzz"))
    got = candidate_ids(words, [asked])[0]
    whole = []
    for request, at in got.order:
        asked_for = got.requests[request]
        whole.append(asked_for.prompt + asked_for.continuations[at])
    for (request, _), span, ids in zip(got.order, got.span, whole, strict=True):
        prompt = got.requests[request].prompt
        assert ids[len(prompt) + span :] != []
    assert whole[0] != whole[1]
    frame = respond(Recorder(), words, [asked], role="target", max_new_tokens=3)
    assert (frame["n_tokens"] >= 1).all()


@pytest.mark.parametrize("name", ["chatml", "llama2", "llama3", "gemma", "merging"])
def test_end_to_end_equals_a_straight_loop(name: str) -> None:
    words, net = tokenizer(TEMPLATES[name]), model()
    asked = [probe(0), probe(1, messages=(Message(role="user", content="Who wrote the book?"),)), probe(2)]
    with HFEngine(net, words) as engine:
        frame = respond(engine, words, asked, role="target", max_new_tokens=4, system_prompt="You help.")
    for number, one in enumerate(asked):
        whole = []
        for candidate in one.candidates:
            prompt, ids = answer_ids(words, one.messages, f"{one.answer_prefix} {candidate}", "You help.", end=False)
            whole.append((prompt, ids, straight(net, prompt, ids)))
        shared = 0
        while len({(p + i)[shared] for p, i, _ in whole}) == 1:
            shared += 1
        for at, (prompt, _ids, want) in enumerate(whole):
            row = frame.iloc[4 * number + at]
            assert row["token_logprobs"] == pytest.approx(want["logprob"], abs=1e-5)
            assert row["token_argmax"] == want["is_argmax"]
            assert row["logprob"] == pytest.approx(sum(want["logprob"][shared - len(prompt) :]), abs=1e-4)
    assert frame["logprob"].map(math.isfinite).all()
    assert len(per_probe(frame)) == 3


def test_save_and_load(tmp_path: Path) -> None:
    words = tokenizer()
    with HFEngine(model(), words) as engine:
        frame = respond(engine, words, [probe(0, pair="x"), probe(1)], role="target", max_new_tokens=4)
    path = tmp_path / "responses.parquet"
    save(frame, path)
    again = load(path)
    assert list(tmp_path.iterdir()) == [path]
    assert tuple(again.columns) == COLUMNS
    pd.testing.assert_frame_equal(again, frame)
    assert isinstance(again["token_logprobs"][0], list)
    small = compact(frame)
    assert list(small.columns) == [name for name in COLUMNS if not name.startswith("token_")]
    save(small, path)
    pd.testing.assert_frame_equal(load(path), small)
    pd.testing.assert_frame_equal(per_probe(load(path)), per_probe(frame))


def test_save_fails_in_one_sentence(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    save_table(frame, tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), frame)
    with pytest.raises(EnvironmentProblem, match="can't be written"):
        save_table(frame, tmp_path / "missing" / "table.parquet")


def test_no_probes() -> None:
    frame = respond(Recorder(), tokenizer(), [], role="target", max_new_tokens=3)
    assert tuple(frame.columns) == COLUMNS
    assert frame.empty


class Slopes(Recorder):
    """A recorder that also gives gradient norms, counted up from 1."""

    def gradient_norms(self, requests: list[ScoreRequest]) -> list[list[float]]:
        self.asked = list(requests)
        return [[float(i)] for i, _ in enumerate(requests, 1)]


def test_gradient_norms_of_right_answers_where_membership_reads_them(tmp_path: Path) -> None:
    words, engine = tokenizer(), Slopes()
    whole = ("Durmstrang.", "Hogwarts.")
    asked = [
        probe(0, answer_prefix="", answer=whole[1], candidates=whole),
        probe(1, kind="cloze"),
        probe(2, ring="far", kind="retain"),
        probe(3, ring="holdout", kind="holdout", answer_prefix="", answer=whole[0], candidates=whole[:1],
              generate=False),
    ]  # fmt: skip
    plain = respond(engine, words, asked, role="target", max_new_tokens=3, knowledge="probability")
    assert tuple(plain.columns) == COLUMNS
    frame = respond(engine, words, asked, role="target", max_new_tokens=3, knowledge="probability", gradnorm=True)
    assert tuple(frame.columns) == (*COLUMNS, "gradnorm")
    pd.testing.assert_frame_equal(frame[list(COLUMNS)], plain)
    given = frame[frame["gradnorm"].notna()]
    assert list(zip(given["probe"], given["candidate"], given["gradnorm"], strict=True)) == [
        ("p0", "Hogwarts.", 1.0), ("p3", "Durmstrang.", 2.0)
    ]  # fmt: skip
    for request, row in zip(engine.asked, (asked[0], asked[3]), strict=True):
        prompt, ids = answer_ids(words, row.messages, row.answer)
        assert (request.prompt, request.continuations) == (prompt, [ids])
    save(frame, tmp_path / "r.parquet")
    pd.testing.assert_frame_equal(load(tmp_path / "r.parquet"), frame)
    without = respond(Recorder(), words, asked, role="target", max_new_tokens=3, gradnorm=True)
    assert without["gradnorm"].isna().all()
    save(without, tmp_path / "n.parquet")
    pd.testing.assert_frame_equal(load(tmp_path / "n.parquet"), without)


def test_a_model_that_gives_nan_is_refused_in_one_sentence_before_it_generates() -> None:
    class Broken(Recorder):
        def score(self, requests: list[ScoreRequest]) -> list[list[TokenScores]]:
            found = super().score(requests)
            found[0][0].logprob[-1] = float("nan")
            return found

    engine = Broken()
    with pytest.raises(RunFailed, match="asked as 'reference-1' gives NaN"):
        respond(engine, tokenizer(), [probe()], role="reference-1", max_new_tokens=4)
    assert engine.prompts == []
