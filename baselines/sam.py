"""SAM: the forget gradient of any loss method, taken where the forget loss is worst nearby.

    θ′ = θ + ρ g/‖g‖,   g = ∇ forget(θ)
    ∇L = γ ∇ forget(θ′) + α ∇ retain(θ)                                the inner method's losses and normalisers

g is the gradient of the whole optimiser step over all trained weights (with LoRA: the adapter's). Fan et al. 2025:
weights that forget, and still do after a small move, resist relearning. ρ = 0.01 and NPO inside are theirs. A forget
row goes forward and backward twice, and is counted so. Settings that aren't given are the inner method's own. In
bfloat16 most of so small a move rounds away: train in float32, or an adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from unbench.errors import UsageError
from unbench.method import Loss, LossConfig, LossMethod, MethodCard, MethodConfig, UnlearnContext

if TYPE_CHECKING:
    from unbench.training.batch import AnswerBatch

BIBTEX = """@inproceedings{fan2025towards,
  title = {Towards {LLM} Unlearning Resilient to Relearning Attacks: A Sharpness-Aware Minimization Perspective and
    Beyond},
  author = {Fan, Chongyu and Jia, Jinghan and Zhang, Yihua and Ramakrishna, Anil and Hong, Mingyi and Liu, Sijia},
  booktitle = {International Conference on Machine Learning},
  year = {2025},
  eprint = {2502.05374},
  archivePrefix = {arXiv}
}"""


class SAM(LossMethod):
    """Sharpness-aware minimisation around another method's forget loss."""

    card = MethodCard(
        name="sam",
        title="Sharpness-aware minimisation",
        kind="gradient",
        bibtex=BIBTEX,
        paper="arXiv:2502.05374",
        year=2025,
        needs=("target",),
        summary="Takes any loss method's forget gradient at the worst nearby weights, so that forgetting lasts.",
    )

    class Config(LossConfig):
        """Settings of SAM; those shared by all loss methods default to the inner method's."""

        inner: str = Field("npo", description="the loss method whose forget loss is made flat")
        inner_settings: dict[str, Any] = Field({}, description="the inner method's own settings, {beta: 0.5} say")
        rho: float = Field(0.01, gt=0, description="radius ρ of the neighbourhood (Fan et al.)")
        retain_loss: str = Field("nll", description="retain term, one of the inner method's")

        @model_validator(mode="before")
        @classmethod
        def _inner_defaults(cls, values: Any) -> Any:
            # Resolved here, so that a plan names what it runs.
            given = dict(values)
            double = sorted(LossConfig.model_fields.keys() & given.get("inner_settings", {}).keys())
            if double:
                raise UsageError(f"{double[0]!r} is a setting of sam itself.", f"Give it so: --set {double[0]}=….")
            shared = {key: given[key] for key in given if key in LossConfig.model_fields}
            inner = inner_config(given.get("inner", "npo"), {**shared, **given.get("inner_settings", {})})
            return {**{key: getattr(inner, key) for key in LossConfig.model_fields}, **given}

    space = {  # noqa: RUF012
        "lr": [1e-4, 2e-4, 5e-4, 1e-3, 2e-3],
        "steps": [20, 40, 60, 100, 150],
        "batch_size": [15, 30],
        "gamma": [0.25, 0.5, 1.0, 2.0, 4.0],
        "rho": [0.003, 0.01, 0.03, 0.1, 0.3],
        "inner_settings": [{"beta": 0.1}, {"beta": 0.5}, {"beta": 1.0}],
    }

    def __init__(self, config: MethodConfig | None = None) -> None:
        super().__init__(config)
        shared = {key: getattr(self.config, key) for key in LossConfig.model_fields}
        self.inner = inner_class(self.config.inner)(
            inner_config(self.config.inner, {**shared, **self.config.inner_settings})
        )
        self.normaliser, self.needs = self.inner.normaliser, self.inner.needs

    def forget_radius(self) -> float:
        return self.config.rho

    def prepare(self, context: UnlearnContext, model: Any) -> None:
        self.inner.prepare(context, model)

    def weights(self, step: int) -> tuple[float, float]:
        return self.inner.weights(step)

    def observe(self, step: int, losses: Mapping[str, float]) -> None:
        self.inner.observe(step, losses)

    def state(self) -> dict[str, Any]:
        return self.inner.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.inner.restore(state)

    def forget_loss(self, batch: AnswerBatch) -> Loss:
        return self.inner.forget_loss(batch)

    def retain_loss(self, batch: AnswerBatch) -> Loss:
        return self.inner.retain_loss(batch)

    def forget_count(self, lengths: Sequence[int]) -> int:
        return self.inner.forget_count(lengths)

    def forget_answers(self, rows: Sequence[dict[str, Any]], seed: int) -> list[str]:
        return self.inner.forget_answers(rows, seed)

    def preferred_answers(self, rows: Sequence[dict[str, Any]], seed: int) -> Sequence[Sequence[str]] | None:
        return self.inner.preferred_answers(rows, seed)


def inner_class(name: str) -> type[LossMethod]:
    """The loss method called ``name``. Raises ``UsageError`` where it is none, or SAM itself."""
    from unbench import plugins

    found = plugins.methods().load(name)
    if not issubclass(found, LossMethod) or found is SAM:
        raise UsageError(f"sam can't go around {name!r}.", "Name a method that is a loss: npo, simnpo, grad_diff …")
    return found


def inner_config(name: str, settings: Mapping[str, Any]) -> Any:
    """The inner method's settings."""
    config = inner_class(name).Config
    unknown = [key for key in settings if key not in config.model_fields]
    if unknown:
        raise UsageError(
            f"{name!r}, which sam goes around, has no setting {unknown[0]!r}.", f"'unbench methods {name}' lists them."
        )
    return config.model_validate(dict(settings))
