"""``augment: paraphrases``: the model's own paraphrases of the forget questions, for any loss.

They are asked for and filtered as UnSTAR's are (``unbench.unstar``), so that what UnSTAR gains can be told from what
more phrasings gain alone. What was written, kept or not, lies in the run's work folder in UnSTAR's format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unbench.method import UnlearnContext

FILE_NAME = "paraphrases.jsonl"


def with_paraphrases(rows: Sequence[dict[str, Any]], number: int, context: UnlearnContext) -> list[dict[str, Any]]:
    """The rows, and each again under up to ``number`` questions that the target wrote for it.

    The temperature rises for questions that get too few. Tokens generated count in the usage, and the budget holds;
    ``usage.notes["paraphrases"]`` says how many were wanted and found.
    """
    from unbench.unstar import records
    from unbench.unstar.config import UnSTARConfig
    from unbench.unstar.facts import asks_of, candidates_of
    from unbench.unstar.filter import Filter
    from unbench.unstar.generate import Author
    from unbench.unstar.words import normal

    config = UnSTARConfig.model_validate({"paraphrases": number})
    asks = asks_of(rows, candidates_of(rows, context.retain))
    known = {(ask.key, normal(ask.question)) for ask in asks}
    found: list[list[str]] = [[] for _ in asks]
    with context.open_engine() as engine:
        author = Author(engine, context.target.tokenizer, context, Filter(config))
        for level in range(config.levels + 1):
            thin = [i for i, texts in enumerate(found) if len(texts) < number]
            if not thin or author.cut_short:
                break
            wanted = [(asks[i], number - len(found[i]), "forget") for i in thin]
            written = author.paraphrases(wanted, known, config.temperature_of(level))  # type: ignore[arg-type]
            for i, texts in zip(thin, written, strict=True):
                found[i] += texts
    records.write(context.folder / FILE_NAME, author.records)
    context.usage.notes["paraphrases"] = {"wanted": number * len(asks), "written": sum(map(len, found))}
    return [{**row, "question": question} for row, texts in zip(rows, found, strict=True)
            for question in (row["question"], *texts)]  # fmt: skip
