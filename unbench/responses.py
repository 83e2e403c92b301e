"""Respond: one pass over a model collects everything that any metric needs.

The responses table has one row a probe and candidate (columns below). Metrics read only this table.

=============== ======== ==========================================================================================
column          type     meaning
=============== ======== ==========================================================================================
role            str      target, reference-1 …, unlearned
probe           str      probe id
ring, kind      str      of the probe
subject         str      of the probe
cluster         str      unit of resampling
fact            str      fact id
given           bool     methods are given this fact
pair            str|None true and false form of one yes/no probe
continuation    int      index of the candidate in the probe's list
candidate       str      its text
is_right        bool     the right candidate
is_paraphrase   bool     the right answer in other words (the truth ratio reads it)
logprob         float    total log-probability (nats) of the tokens in which the probe's candidates differ
n_tokens        int      number of those tokens
token_logprobs  list     of every answer token after the prompt (prefix, candidate; end token only for the sentence)
token_argmax    list     whether each was the model's first choice
token_mean      list     mean of the log-probability over the vocabulary under the model, at each of these tokens
token_variance  list     its variance; both for the right candidate only, None elsewhere and where no engine gives them
question        str      the last user turn
text            str      greedy answer to the bare prompt; repeated on every row of the probe, empty if not wanted
finished        bool     the greedy answer ended by itself
recalled        bool     the greedy answer holds the right answer
gradnorm        float    only where asked for: norm of the gradient of the right candidate's loss, in the rings forget
                         (kind direct) and holdout; None elsewhere and where the engine gives no gradients
=============== ======== ==========================================================================================
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench.errors import EnvironmentProblem, RunFailed

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

    from unbench.engines.base import Engine, Generation, ScoreRequest, TokenScores
    from unbench.method import Progress
    from unbench.task import Knowledge, Probe

COLUMNS = (
    "role", "probe", "ring", "kind", "subject", "cluster", "fact", "given", "pair", "continuation", "candidate",
    "is_right", "is_paraphrase", "logprob", "n_tokens", "token_logprobs", "token_argmax", "token_mean",
    "token_variance", "question", "text", "finished", "recalled",
)  # fmt: skip
GRADNORM = "gradnorm"
"""A further column, only where it was asked for: it costs a backward pass an answer."""
PER_TOKEN = ("token_logprobs", "token_argmax", "token_mean", "token_variance")
"""The columns that ``compact`` leaves out."""


@dataclass(frozen=True)
class Answers:
    """One probe as token ids."""

    prompt: list[int]
    """The bare prompt."""
    requests: list[ScoreRequest]
    """One, or several where whole answers are scored and the tokenizer merges some with the prompt's last token."""
    order: list[tuple[int, int]]
    """Per candidate: its request, and its place there."""
    span: list[int]
    """Per candidate: where its scored tokens start."""


def respond(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    probes: Sequence[Probe],
    *,
    role: str,
    max_new_tokens: int,
    system_prompt: str | None = None,
    knowledge: Knowledge = "candidates",
    progress: Progress | None = None,
    gradnorm: bool = False,
) -> pd.DataFrame:
    """What the model that ``engine`` serves answers to every probe: one row a probe and candidate, ``COLUMNS``.

    A candidate is scored behind the probe's answer prefix, over the tokens in which the probe's candidates differ. A
    single candidate, and every one where ``knowledge`` is "probability", is scored whole, with its end token.
    ``max_new_tokens`` limits the greedy answer, in tokens. ``gradnorm`` adds a column of that name, read by one
    membership attack, for a backward pass an answer of the forget and holdout rings.

    Raises ``RunFailed`` where the model gives NaN.
    """
    from unbench.engines.base import Generation, Sampling

    asked = candidate_ids(tokenizer, probes, system_prompt, knowledge)
    with _shown(engine, f"{role}: score", progress):
        flat = engine.score([request for answers in asked for request in answers.requests])
    _refuse_nan(flat, role)
    with _shown(engine, f"{role}: answer", progress):
        wanted = [answers.prompt for answers, probe in zip(asked, probes, strict=True) if probe.generate]
        written = iter(engine.generate(wanted, Sampling(max_new_tokens=max_new_tokens)))
        texts = [next(written) if probe.generate else Generation([], "", False) for probe in probes]
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    first = 0
    for probe, answers, text in zip(probes, asked, texts, strict=True):
        scores = flat[first : first + len(answers.requests)]
        first += len(answers.requests)
        _add_rows(columns, role, probe, answers, [scores[request][at] for request, at in answers.order], text)
    if gradnorm:
        with _shown(engine, f"{role}: gradient", progress):
            columns[GRADNORM] = _gradient_norms(engine, probes, asked)
    return table_of(columns)


def _refuse_nan(scores: Sequence[Sequence[TokenScores]], role: str) -> None:
    """Before anything is generated: no metric has a place for NaN."""
    if any(math.isnan(sum(score.logprob)) for request in scores for score in request):
        raise RunFailed(
            f"The model asked as {role!r} gives NaN log-probabilities: its weights or activations aren't finite.",
            "Try --dtype float32; if that doesn't help, the model is broken.",
        )


def _gradient_norms(engine: Engine, probes: Sequence[Probe], asked: Sequence[Answers]) -> list[float | None]:
    """One entry a probe and candidate: the right one's norm where membership inference reads it."""
    from unbench.engines.base import ScoreRequest

    places, requests, row = [], [], 0
    for probe, answers in zip(probes, asked, strict=True):
        if probe.ring == "holdout" or (probe.ring, probe.kind) == ("forget", "direct"):
            right = probe.candidates.index(probe.answer)
            request, at = answers.order[right]
            places.append(row + right)
            own = answers.requests[request]
            requests.append(ScoreRequest(own.prompt, [own.continuations[at]]))
        row += len(probe.candidates)
    column: list[float | None] = [None] * row
    norms = getattr(engine, "gradient_norms", None)
    if norms is not None:
        for place, (norm,) in zip(places, norms(requests), strict=True):
            column[place] = norm
    return column


def candidate_ids(
    tokenizer: PreTrainedTokenizerBase,
    probes: Sequence[Probe],
    system_prompt: str | None = None,
    knowledge: Knowledge = "candidates",
) -> list[Answers]:
    """Token ids of every probe's candidates, each behind the answer prefix, and where they differ."""
    from unbench.templates import Asked, encode

    asked = []
    for probe in probes:
        texts = [" ".join(part for part in (probe.answer_prefix, c) if part) for c in probe.candidates]
        asked.append(Asked(probe.messages, texts, end=knowledge == "probability" or len(texts) == 1))
    encoded = encode(tokenizer, asked, system_prompt)
    return [_answers(e.prompt, e.answers, a.end) for e, a in zip(encoded, asked, strict=True)]


def _answers(bare: list[int], pairs: list[tuple[list[int], list[int]]], sentences: bool) -> Answers:
    from unbench.engines.base import ScoreRequest
    from unbench.templates import common

    if not sentences:
        # Where the tokenizer merges some candidates with the prompt's last token, it is a token of the others too.
        cut = min(len(prompt) for prompt, _ in pairs)
        pairs = [(prompt[:cut], prompt[cut:] + continuation) for prompt, continuation in pairs]
    requests: dict[tuple[int, ...], ScoreRequest] = {}
    order = []
    for prompt, continuation in pairs:
        request = requests.setdefault(tuple(prompt), ScoreRequest(prompt, []))
        order.append((list(requests).index(tuple(prompt)), len(request.continuations)))
        request.continuations.append(continuation)
    if sentences:
        return Answers(bare, list(requests.values()), order, [0] * len(pairs))
    whole = [prompt + continuation for prompt, continuation in pairs]
    shared = min(common(whole[0], ids) for ids in whole)
    # A candidate that all others go on from (a task check forbids it) still has its last token scored.
    shared = min(shared, min(map(len, whole)) - 1)
    return Answers(bare, list(requests.values()), order, [max(0, shared - len(prompt)) for prompt, _ in pairs])


def save(frame: pd.DataFrame, path: Path) -> None:
    """Write responses as Parquet (zstd, repeated texts once, log-probabilities in float32), whole or not at all.

    Takes what ``compact`` leaves too. Raises ``EnvironmentProblem`` where the disk won't have it.
    """
    import pyarrow as pa

    texts = pa.dictionary(pa.int32(), pa.string())
    types = dict.fromkeys(COLUMNS, texts) | {
        "given": pa.bool_(), "is_right": pa.bool_(), "is_paraphrase": pa.bool_(), "finished": pa.bool_(),
        "recalled": pa.bool_(), "token_mean": pa.list_(pa.float32()), "token_variance": pa.list_(pa.float32()),
        "continuation": pa.int32(), "n_tokens": pa.int32(), "logprob": pa.float32(),
        "token_logprobs": pa.list_(pa.float32()), "token_argmax": pa.list_(pa.bool_()), GRADNORM: pa.float32(),
    }  # fmt: skip
    names = [name for name in (*COLUMNS, GRADNORM) if name in frame.columns]
    schema = pa.schema([(name, types[name]) for name in names])
    _write(pa.Table.from_pandas(frame[names], schema=schema, preserve_index=False), path)


def load(path: Path) -> pd.DataFrame:
    """Responses as ``save`` wrote them; lists are lists again, texts plain strings."""
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read()  # one file, never a folder's partitions
    names = [name for name in (*COLUMNS, GRADNORM) if name in table.column_names]
    return table_of({name: table.column(name).to_pylist() for name in names})


def compact(frame: pd.DataFrame) -> pd.DataFrame:
    """The responses without their per-token lists: what κ, rank and recall need, a fraction of the size."""
    return frame.drop(columns=[name for name in PER_TOKEN if name in frame.columns])


def save_table(frame: pd.DataFrame, path: Path) -> None:
    """Write any other table as Parquet, whole or not at all; its index is left out."""
    import pyarrow as pa

    _write(pa.Table.from_pandas(frame, preserve_index=False), path)


def _write(table: Any, path: Path) -> None:
    import pyarrow.parquet as pq

    # The process's own name: two runs that fill one cache don't write into each other's file.
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table, partial, compression="zstd")
        os.replace(partial, path)
    except OSError as error:
        raise EnvironmentProblem(
            f"{path} can't be written: {error.strerror or error}.", "Free some space or choose another --out folder."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _add_rows(
    columns: dict[str, list[Any]],
    role: str,
    probe: Probe,
    answers: Answers,
    scores: list[TokenScores],
    text: Generation,
) -> None:
    from unbench.match import holds

    question = probe.question
    said = text.text.strip()
    same = {
        "role": role, "probe": probe.id, "ring": probe.ring, "kind": probe.kind, "subject": probe.subject,
        "cluster": probe.cluster, "fact": probe.fact, "given": probe.given, "pair": probe.pair,
        "question": question, "text": said, "finished": text.finished,
        "recalled": holds(said, (probe.answer, *probe.accept), question),
    }  # fmt: skip
    for i, (candidate, start, score) in enumerate(zip(probe.candidates, answers.span, scores, strict=True)):
        right = candidate == probe.answer
        own = {
            "continuation": i, "candidate": candidate, "is_right": right,
            "is_paraphrase": candidate == probe.paraphrased,
            "logprob": sum(score.logprob[start:]), "n_tokens": len(score.logprob) - start,
            "token_logprobs": score.logprob, "token_argmax": score.is_argmax,
            "token_mean": score.mean if right else None, "token_variance": score.variance if right else None,
        }  # fmt: skip
        for name, value in (same | own).items():
            columns[name].append(value)


def table_of(columns: dict[str, list[Any]]) -> pd.DataFrame:
    """Columns as a responses table, of the same types whether it was just made or read from a file."""
    import numpy as np
    import pandas as pd

    types = {"logprob": np.float32, "continuation": np.int32, "n_tokens": np.int32, "pair": object}
    types |= {"token_mean": object, "token_variance": object, GRADNORM: np.float32}
    return pd.DataFrame({name: pd.Series(values, dtype=types.get(name)) for name, values in columns.items()})


@contextmanager
def _shown(engine: Engine, description: str, progress: Progress | None) -> Iterator[None]:
    """Show an engine's progress, where it tells it."""
    if progress is None:
        yield
        return
    progress(description, 0, 0)
    tells = hasattr(engine, "progress")
    if tells:
        engine.progress = lambda what, done, total: progress(description, done, total)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if tells:
            engine.progress = None  # type: ignore[attr-defined]
