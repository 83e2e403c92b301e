"""What commands print: JSON, and rich tables of results."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from unbench.results.schema import Group, Result, Score, Worst

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""All controls but tab and line feed, what turns the writing direction, and halves of characters."""
_RAW_CONTROL = re.compile("[\x7f-\x9f]")


def clean(text: str) -> str:
    """Text that does nothing to a terminal: each control character becomes U+FFFD."""
    return _UNSEEN.sub("\ufffd", text)


def plain(value: object) -> Text:
    """A value of a result, a plugin or a model for rich to show as it is: no markup, no control characters."""
    from rich.text import Text

    return Text(clean(str(value)))


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        # JSON lets DEL and the C1 controls stand in a string; a terminal may obey them.
        click.echo(_RAW_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
    except BrokenPipeError:
        # Without its errno, click leaves the error to main, which ends with 0.
        raise BrokenPipeError from None


def console() -> Console:
    """rich on stdout; honours NO_COLOR, doesn't fold tables in a pipe, and reads no markup in strings."""
    import sys

    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            # rich would exit with 1; a reader that has seen enough is no error (see main).
            raise BrokenPipeError from None

    return Screen(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False, emoji=False)


def number(value: float | None, digits: int = 2) -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def score_text(score: Score) -> str:
    """``0.93 [0.90, 0.96]``, without brackets where there is no interval."""
    if score.value is None or score.low is None or score.high is None:
        return number(score.value)
    return f"{score.value:.2f} [{score.low:.2f}, {score.high:.2f}]"


def score_table(result: Result) -> Table:
    """The five scores with their intervals."""
    from rich.table import Table

    seeds = ", ".join(str(seed) for seed in result.seeds)
    title = f"{result.method} on {result.task} ({result.split}), model {result.model}, seeds {seeds}"
    table = Table(title=plain(title), title_justify="left")
    for name in ("score", "value [95 % interval]", "note"):
        table.add_column(name)
    for name in type(result.scores).model_fields:
        score: Score = getattr(result.scores, name)
        table.add_row(name, score_text(score), plain(score.reason or ""))
    return table


def group_table(result: Result) -> Table:
    """Every ring before and after: knowledge of target, unlearned and reference, recall, rank."""
    from rich.table import Table

    scale = "p(a|q)" if has_published(result) else "κ"
    meaning = "1 certain" if has_published(result) else "1 known, 0 a guess"
    title = f"Knowledge {scale} by ring ({meaning}; only withheld facts are scored)"
    table = Table(title=title, title_justify="left")
    for name in ("ring", "kind", "facts"):
        table.add_column(name, no_wrap=True, max_width=20)
    columns = ("n", "before", "after", "reference", "rank\nbefore", "rank\nafter", "said\nbefore", "said\nafter")
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("left out")
    for group in result.groups:
        place = (group.ring, group.kind, "given" if group.given else "withheld")
        table.add_row(*(plain(cell) for cell in (*place, *_group_figures(group))))
    return table


def has_published(result: Result) -> bool:
    """Whether TOFU's metrics stand in a result: knowledge is a probability there."""
    return "model_utility" in result.metrics


def metric_table(result: Result) -> Table | None:
    """TOFU's and open-unlearning's metrics and what lm-eval found, where a result has them."""
    from rich.table import Table

    from unbench.metrics.catalogue import PUBLISHED

    names = [name for name in PUBLISHED if name in result.metrics] if has_published(result) else []
    names += [name for name in result.metrics if name.startswith("lm_eval/")]
    if not names:
        return None
    table = Table(title="Metrics ('unbench metrics' says what they mean)", title_justify="left")
    for column in ("metric", "value [95 % interval]", "n", "note"):
        table.add_column(column, justify="right" if column == "n" else "left")
    for name in names:
        score = result.metrics[name]
        table.add_row(*(plain(cell) for cell in (name, _precisely(score), score.n, score.reason or "")))
    return table


def _precisely(score: Score) -> str:
    """Three significant digits: a p-value of 1e-20 isn't 0."""
    if score.value is None:
        return "–"
    interval = "" if score.low is None or score.high is None else f" [{score.low:.3g}, {score.high:.3g}]"
    return f"{score.value:.3g}{interval}"


def print_result(result: Result) -> None:
    """A result as tables on stdout."""
    screen = console()
    screen.print(group_table(result))
    screen.print(score_table(result))
    metrics = metric_table(result)
    if metrics is not None:
        screen.print(metrics)
    if result.worst is not None:
        screen.print(plain(worst_line(result.worst)), soft_wrap=True)
    screen.print(cost_line(result), soft_wrap=True)


def worst_line(worst: Worst) -> str:
    """The scores under the worst that was tried, and what it was."""
    tried = len(worst.attacks)
    return clean(
        f"under {tried} attack{'' if tried == 1 else 's'}: forget_worst {score_text(worst.forget_worst)} (by "
        f"{worst.by.removeprefix('unbench:')}), overall_worst {score_text(worst.overall_worst)}; "
        "'unbench show RUN --attacks' tells more"
    )


def _group_figures(group: Group) -> list[str]:
    unknown = f" (+{group.n_unknown} unknown)" if group.n_unknown else ""
    return [
        f"{group.n}{unknown}",
        number(group.known_target),
        number(group.known_unlearned),
        number(group.known_reference),
        number(group.rank_target),
        number(group.rank_unlearned),
        number(group.recall_target),
        number(group.recall_unlearned),
        "" if group.counted or group.given else (group.reason or "not counted"),
    ]


def cost_line(result: Result) -> str:
    """What it cost, in one line."""
    cost = result.compute
    return clean(
        f"unlearn {cost.unlearn_s:.1f} s, respond {cost.respond_s:.1f} s, in all {cost.wall_s:.1f} s; "
        f"{cost.tokens_trained:,} tokens trained, {cost.tokens_generated:,} generated; "
        f"peak memory {cost.peak_memory_bytes / 2**30:.1f} GiB; {result.device}, {result.dtype}"
    )
