"""Responses as rows that fit into a repository, and back.

``responses.jsonl.gz`` (unbench.rows/1), one JSON object a line: a head, then for every model its own line and one line
a probe, in the yardstick's order.

    {"schema": "unbench.rows/1", "of": [0, 1], "probes": 914}
    {"of": 0, "taught": {fact: [answer, …]}, "trained": [probe, …], "holdout": true}
    {"probe": id, "lp": [total log-probability of every candidate, in the probe's order], "text": greedy answer,
     "end": whether it ended by itself, "hit": whether it holds the right answer}

``of`` is a seed, or "target", "reference-1" … in the yardstick. ``trained`` names the forget probes whose question was
trained on; ``holdout`` says whether the holdout probes were asked (a reference need not answer them). Where knowledge
is a probability a row has more: ``n`` (tokens of every candidate) and, of the right one, ``tok`` (log-probability of
every token, whether it was the first choice, mean and variance over the vocabulary) and ``grad``.

``attacks.jsonl.gz`` (unbench.attacked/1): a head, then one line a model and point of an attack's curve.

    {"attack": name, "of": 0, "series": "", "strength": 10, "counted": true, "own": false, "known": {probe: κ, …}}

The head of a file of the yardstick has a ``key``, the hash of what was tried: where there is no reference to try it on
nothing else tells one attack's file from another's.

Numbers have 4 decimals; every published score is computed from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unbench.match import holds
from unbench.submissions.strict import ALLOWED, Refused, pack, parse, unpacked_lines

if TYPE_CHECKING:
    import pandas as pd

    from unbench.task import Knowledge, Probe

ROWS_SCHEMA = "unbench.rows/1"
ATTACKED_SCHEMA = "unbench.attacked/1"
DECIMALS = 4
LEAST = -1e6
"""Stands for the log-probability of what a model holds for impossible."""
MAX_ANSWER = 5_000
"""Characters of a greedy answer that are kept."""
MAX_MODELS = 64
"""Models of one file: what it takes in memory is bounded."""
MAX_TOKENS = 10_000
"""Tokens of one answer."""
MAX_KNOWN = 1_000_000
"""Values of one file of attacks."""
LARGEST = 1e12
"""No number of a row is further from 0."""
Of = int | str
"""Whose row: a seed, "target" or "reference-k"."""


@dataclass(frozen=True)
class Own:
    """What is told of one model besides its answers."""

    taught: dict[str, list[str]] = field(default_factory=dict)
    """Fact -> answers that the method taught."""
    trained: tuple[str, ...] = ()
    """Forget probes whose question was trained on."""


@dataclass(frozen=True)
class Rows:
    """What some models answered."""

    frames: dict[Of, pd.DataFrame]
    """Responses (columns: ``unbench.responses``)."""
    own: dict[Of, Own]


@dataclass(frozen=True)
class AttackRows:
    """What attacks found: attack -> model -> table (columns: ``unbench.attacks.ask``, rank and recall empty)."""

    tables: dict[str, dict[Of, pd.DataFrame]]


def write_rows(
    frames: Mapping[Of, pd.DataFrame], own: Mapping[Of, Own], probes: Sequence[Probe], knowledge: Knowledge
) -> bytes:
    """``responses.jsonl.gz``. Raises ``ValueError`` where a model was not asked these probes."""
    lines: list[Any] = [{"schema": ROWS_SCHEMA, "of": list(frames), "probes": len(probes)}]
    for of, frame in frames.items():
        told = own.get(of, Own())
        groups = dict(iter(frame.groupby("probe", sort=False)))
        # A task that has no such probes leaves none of them out.
        holdout = bool((frame["ring"] == "holdout").any()) or all(probe.ring != "holdout" for probe in probes)
        asked = _asked(probes, holdout)
        lines.append({"of": of, "taught": told.taught, "trained": list(told.trained), "holdout": holdout})
        if groups.keys() != {probe.id for probe in asked}:
            raise ValueError(f"{of} was asked other probes than the yardstick's")
        lines += [_row(groups[probe.id], probe, knowledge) for probe in asked]
    return pack(_lines(lines))


def read_rows(content: bytes, probes: Sequence[Probe], knowledge: Knowledge) -> Rows:
    """What ``write_rows`` wrote. Raises ``Refused`` for anything else, naming the line."""
    lines = _read_lines(content)
    _, head = _due(lines, "a head line")
    _want(head, {"schema": str, "of": list, "probes": int}, 1)
    if head["schema"] != ROWS_SCHEMA:
        raise Refused(f"has the schema {head['schema']!r}, not {ROWS_SCHEMA!r}")
    if head["probes"] != len(probes):
        raise Refused(f"has {head['probes']} probes; the task has {len(probes)}")
    if len(head["of"]) > MAX_MODELS:
        raise Refused(f"is of {len(head['of'])} models; {MAX_MODELS} are allowed")
    frames: dict[Of, pd.DataFrame] = {}
    own: dict[Of, Own] = {}
    for of in head["of"]:
        if isinstance(of, bool) or not isinstance(of, int | str) or of in frames:
            raise Refused(f"names the model {of!r}, or names it twice")
        own[of], holdout = _read_own(_due(lines, f"the line of {of!r}"), of)
        asked = _asked(probes, holdout)
        rows = []
        for probe in asked:
            number, row = _due(lines, f"probe {probe.id!r}")
            rows.append(_checked(row, probe, knowledge, number))
        frames[of] = _frame(of, asked, rows, knowledge)
    if next(lines, None) is not None:
        raise Refused("has more lines than models and probes")
    return Rows(frames, own)


def _asked(probes: Sequence[Probe], holdout: bool) -> Sequence[Probe]:
    return probes if holdout else [probe for probe in probes if probe.ring != "holdout"]


def write_attacks(tables: Mapping[str, Mapping[Of, pd.DataFrame]], key: str = "") -> bytes:
    """``attacks.jsonl.gz``; ``tables``: attack -> model -> what it found."""
    lines: list[Any] = [{"schema": ATTACKED_SCHEMA} | ({"key": key} if key else {})]
    for attack, models in tables.items():
        for of, table in models.items():
            for (series, strength), rows in table.groupby(["series", "strength"], sort=False):
                known = rows.groupby("probe", sort=False)["known"].mean()
                lines.append(
                    {
                        "attack": attack,
                        "of": of,
                        "series": str(series),
                        "strength": _rounded(strength, 8),
                        "counted": bool(rows["counted"].all()),
                        "own": bool(rows["own"].all()),
                        "known": {str(probe): _rounded(value) for probe, value in known.items()},
                    }
                )
    return pack(_lines(lines))


def read_attacks(content: bytes, probes: Mapping[str, Probe], *, keyed: bool = False) -> AttackRows:
    """What ``write_attacks`` wrote; ``probes``: those that attacks ask, by id (of the pair, where they are one of two);
    ``keyed``: the head may have a key. Raises ``Refused`` for anything else, naming the line."""
    import pandas as pd

    lines = _read_lines(content)
    _, head = _due(lines, "a head line")
    if keyed and isinstance(head, dict):
        head.pop("key", None)
    if head != {"schema": ATTACKED_SCHEMA}:
        raise Refused(f"has no head line {{'schema': {ATTACKED_SCHEMA!r}}}")
    found: dict[str, dict[Of, dict[str, list[Any]]]] = {}
    total = 0
    seen: set[tuple[Any, ...]] = set()
    kinds = {"attack": str, "of": (int, str), "series": str, "strength": (int, float), "counted": bool, "own": bool,
             "known": dict}  # fmt: skip
    for number, line in lines:
        _want(line, kinds, number)
        total += len(line["known"])
        if not line["known"] or total > MAX_KNOWN or not _number(line["strength"]):
            raise Refused(f"line {number}: known is empty or too long, or the strength too large")
        key = (line["attack"], line["of"], line["series"], float(line["strength"]))
        if key in seen:
            raise Refused(f"line {number}: this point stands there twice")
        seen.add(key)
        columns = found.setdefault(line["attack"], {}).setdefault(line["of"], {})
        for id_, known in line["known"].items():
            probe = probes.get(id_)
            if probe is None:
                raise Refused(f"line {number}: {id_!r} is no probe that attacks ask")
            if not _number(known, 1e6):
                raise Refused(f"line {number}: what is known of {id_!r} is no number")
            row = {
                "series": line["series"], "strength": float(line["strength"]), "counted": line["counted"],
                "own": line["own"], "probe": id_, "kind": probe.kind, "cluster": probe.cluster,
                "fact": probe.fact, "known": float(known), "rank": 0.0, "recall": 0.0,
            }  # fmt: skip
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
    return AttackRows({name: {of: pd.DataFrame(one) for of, one in of_all.items()} for name, of_all in found.items()})


def plain_text(text: str) -> str:
    """A greedy answer as a row holds it: no control characters, not endless."""
    import unicodedata

    kept = (c if c in ALLOWED or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn") else "�" for c in text)
    return "".join(kept)[:MAX_ANSWER]


def hit(text: str, probe: Probe) -> bool:
    """Whether a greedy answer holds the right answer."""
    return holds(text, (probe.answer, *probe.accept), probe.question)


def _row(group: pd.DataFrame, probe: Probe, knowledge: Knowledge) -> dict[str, Any]:
    if tuple(group["candidate"]) != probe.candidates:
        raise ValueError(f"probe {probe.id} was asked with other candidates")
    first = group.iloc[0]
    text = plain_text(first["text"])
    row: dict[str, Any] = {
        "probe": probe.id,
        "lp": [_rounded(max(float(value), LEAST)) for value in group["logprob"]],
        "text": text,
        "end": bool(first["finished"]),
        "hit": hit(text, probe),
    }
    if knowledge == "probability":
        right = group[group["is_right"].astype(bool)].iloc[0]
        row["n"] = [int(value) for value in group["n_tokens"]]
        lists = [right[name] for name in ("token_logprobs", "token_argmax", "token_mean", "token_variance")]
        row["tok"] = [None if one is None else [_rounded(max(float(x), LEAST)) for x in one] for one in lists]
        gradient = right.get("gradnorm")
        row["grad"] = None if gradient is None or gradient != gradient else _rounded(gradient)
    return row


def _rounded(value: Any, decimals: int = DECIMALS) -> float:
    # Adding 0.0 turns -0.0 into 0.0: one number, one spelling.
    return round(float(value), decimals) + 0.0


def _lines(lines: Iterable[Any]) -> bytes:
    dumped = (json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":")) for line in lines)
    return ("\n".join(dumped) + "\n").encode("utf-8")


def _read_lines(content: bytes) -> Iterator[tuple[int, Any]]:
    for number, line in unpacked_lines(content):
        try:
            found = parse(line)
        except Refused as why:
            raise Refused(f"line {number} {why}") from why
        yield number, found


def _due(lines: Iterator[tuple[int, Any]], what: str) -> tuple[int, Any]:
    """The next line, which must be there."""
    found = next(lines, None)
    if found is None:
        raise Refused(f"ends where {what} is due")
    return found


def _want(line: Any, kinds: Mapping[str, Any], number: int) -> None:
    """An object with exactly these keys and types; a bool is no number."""
    if not isinstance(line, dict) or line.keys() != kinds.keys():
        raise Refused(f"line {number} is no object with {', '.join(kinds)}")
    for key, kind in kinds.items():
        value = line[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise Refused(f"line {number}: {key} is of the wrong type")


def _read_own(line: tuple[int, Any], of: Of) -> tuple[Own, bool]:
    number, body = line
    _want(body, {"of": (int, str), "taught": dict, "trained": list, "holdout": bool}, number)
    if body["of"] != of:
        raise Refused(f"line {number} is of {body['of']!r}, not of {of!r}")
    lists = [body["trained"], *body["taught"].values()]
    if not all(isinstance(one, list) and all(isinstance(text, str) for text in one) for one in lists):
        raise Refused(f"line {number}: taught and trained hold lists of texts")
    if isinstance(of, int) and not body["holdout"]:
        raise Refused(f"line {number}: only a reference may leave out the holdout probes")
    return Own({key: list(value) for key, value in body["taught"].items()}, tuple(body["trained"])), body["holdout"]


def _checked(row: Any, probe: Probe, knowledge: Knowledge, number: int) -> dict[str, Any]:
    kinds: dict[str, Any] = {"probe": str, "lp": list, "text": str, "end": bool, "hit": bool}
    if knowledge == "probability":
        kinds |= {"n": list, "tok": list, "grad": (float, int, type(None))}
    _want(row, kinds, number)
    if row["probe"] != probe.id:
        raise Refused(f"line {number} is of probe {row['probe']!r}, where {probe.id!r} is due")
    size = len(probe.candidates)
    if len(row["lp"]) != size or not all(_logprob(value) for value in row["lp"]):
        raise Refused(f"line {number}: lp wants {size} log-probabilities")
    if len(row["text"]) > MAX_ANSWER:
        raise Refused(f"line {number}: text has {len(row['text']):,} characters; {MAX_ANSWER:,} are allowed")
    if row["hit"] != hit(row["text"], probe):
        raise Refused(f"line {number}: hit is {row['hit']}, which its text belies")
    if knowledge == "probability":
        _check_tokens(row, size, probe.candidates.index(probe.answer), number)
    return row  # type: ignore[no-any-return]


def _check_tokens(row: dict[str, Any], size: int, right: int, number: int) -> None:
    counts = row["n"]
    if len(counts) != size or not all(type(n) is int and 0 < n <= MAX_TOKENS for n in counts):
        raise Refused(f"line {number}: n wants {size} numbers of tokens")
    lists = row["tok"]
    fit = len(lists) == 4 and _numbers(lists[0], counts[right]) and lists[1] is not None
    if not fit or not all(one is None or _numbers(one, len(lists[0])) for one in lists):
        raise Refused(f"line {number}: tok wants four lists of numbers, one for each token of the right answer")
    if not all(_logprob(value) for value in lists[0]):
        raise Refused(f"line {number}: tok holds a log-probability above 0")
    if row["grad"] is not None and not (_number(row["grad"]) and row["grad"] >= 0):
        raise Refused(f"line {number}: grad is no length of a gradient")


def _logprob(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and LEAST <= value <= 0.001


def _numbers(values: Any, size: int) -> bool:
    return isinstance(values, list) and len(values) == size and all(_number(value) for value in values)


def _number(value: Any, largest: float = LARGEST) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= largest


def _frame(of: Of, probes: Sequence[Probe], rows: Sequence[Mapping[str, Any]], knowledge: Knowledge) -> pd.DataFrame:
    from unbench.responses import table_of

    columns: dict[str, list[Any]] = {}
    for probe, row in zip(probes, rows, strict=True):
        size = len(probe.candidates)
        same = {
            "role": of if isinstance(of, str) else "unlearned", "probe": probe.id, "ring": probe.ring,
            "kind": probe.kind, "subject": probe.subject, "cluster": probe.cluster, "fact": probe.fact,
            "given": probe.given, "pair": probe.pair, "question": probe.question, "text": row["text"],
            "finished": row["end"], "recalled": row["hit"],
        }  # fmt: skip
        for name, value in same.items():
            columns.setdefault(name, []).extend([value] * size)
        own: dict[str, list[Any]] = {
            "continuation": list(range(size)),
            "candidate": list(probe.candidates),
            "is_right": [candidate == probe.answer for candidate in probe.candidates],
            "is_paraphrase": [candidate == probe.paraphrased for candidate in probe.candidates],
            "logprob": list(row["lp"]),
        }
        if knowledge == "probability":
            own |= _token_columns(probe, row)
        for name, values in own.items():
            columns.setdefault(name, []).extend(values)
    if not any(value is not None for value in columns.get("gradnorm", ())):
        columns.pop("gradnorm", None)
    return table_of(columns)


def _token_columns(probe: Probe, row: Mapping[str, Any]) -> dict[str, list[Any]]:
    right = probe.candidates.index(probe.answer)
    logprobs, argmax, mean, variance = row["tok"]
    # Of the wrong answers only the mean over tokens is read: one number stands for them all.
    tokens: list[Any] = [[total / n] for total, n in zip(row["lp"], row["n"], strict=True)]
    tokens[right] = logprobs
    blank: list[Any] = [None] * len(tokens)

    def only_right(value: Any) -> list[Any]:
        return [*blank[:right], value, *blank[right + 1 :]]

    return {
        "n_tokens": row["n"], "token_logprobs": tokens, "token_argmax": only_right([bool(x) for x in argmax]),
        "token_mean": only_right(mean), "token_variance": only_right(variance), "gradnorm": only_right(row["grad"]),
    }  # fmt: skip
