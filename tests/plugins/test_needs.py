"""What the table of methods says that a method needs, against what its training asks for."""

from __future__ import annotations

import json

import pytest
from plugin_world import unbench

from unbench.method import Loss, LossConfig, LossMethod, MethodCard, needs_of
from unbench.plugins import methods


class Bare(LossMethod):
    card = MethodCard(name="bare", title="", kind="gradient", bibtex="")

    def forget_loss(self, batch):  # type: ignore[no-untyped-def]
        return Loss.per_token(batch.token_logprobs(), batch.answer_mask)


class WithoutRetain(Bare):
    class Config(LossConfig):
        alpha: float = 0.0


class ByTarget(WithoutRetain):
    needs = frozenset({"target_logits"})


class Writes(Bare):
    card = MethodCard(name="writes", title="", kind="data", bibtex="", needs=("generation",))

    class Config(LossConfig):
        retain_loss: str = "kl"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("method", "needs"),
    [
        (Bare, ("retain",)),
        (WithoutRetain, ()),
        (ByTarget, ("target",)),
        (Writes, ("retain", "target", "generation")),
    ],
)
def test_needs(method: type[LossMethod], needs: tuple[str, ...]) -> None:
    assert needs_of(method) == needs


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("gradient_ascent", []),
        ("grad_diff", ["retain"]),
        ("kl_min", ["retain", "target"]),
        ("npo", ["retain", "target"]),
        ("undial", ["target"]),
        ("jensun", ["retain", "target"]),
        ("retain_only", ["retain"]),
        ("prompt_guard", []),
        ("none", []),
        ("unstar", ["retain", "generation"]),
    ],
)
def test_needs_of_built_in_methods(name: str, needs: list[str]) -> None:
    assert list(needs_of(methods().load(name))) == needs


def test_the_table_has_them() -> None:
    done = unbench("methods")
    assert done.returncode == 0, done.stderr
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("│ npo "))
    assert [cell.strip() for cell in row.strip("│").split("│")][:5] == [
        "npo", "arXiv:2404.05868", "2024", "preference", "retain, target",
    ]  # fmt: skip
    assert json.loads(unbench("methods", "npo", "--json").stdout)["needs"] == ["retain", "target"]
