"""A system prompt that says what must not be told; the weights stay as they are.

    π_unlearned(a | q) = π₀(a | s, q)                                 s: the system prompt

The cheapest thing a practitioner would do, and what every method has to beat. Unlearning in the prompt is Pawelczyk,
Neel, Lakkaraju 2023 (ICUL, there by examples with false labels); naming the subject and telling the model to answer as
if it knew nothing is RWKU's in-context baseline (Jin et al. 2024); see also Thaker et al. 2024, guardrail baselines.
The wording was written for UnBench. The forget rows' subjects (or questions) are listed in the rows' order, each once,
as many as fit into ``max_tokens``; ``usage.notes`` says how many did not.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from unbench.errors import UsageError
from unbench.method import Method, MethodCard, MethodConfig, UnlearnContext, Unlearned

BIBTEX = """@inproceedings{pawelczyk2024incontext,
  title = {In-Context Unlearning: Language Models as Few-Shot Unlearners},
  author = {Pawelczyk, Martin and Neel, Seth and Lakkaraju, Himabindu},
  booktitle = {International Conference on Machine Learning},
  year = {2024},
  eprint = {2310.07579},
  archivePrefix = {arXiv}
}
@inproceedings{jin2024rwku,
  title = {{RWKU}: Benchmarking Real-World Knowledge Unlearning for Large Language Models},
  author = {Jin, Zhuoran and Cao, Pengfei and Wang, Chenhao and He, Zhitao and Yuan, Hongbang and Li, Jiachun and
    Chen, Yubo and Liu, Kang and Zhao, Jun},
  booktitle = {Advances in Neural Information Processing Systems, Datasets and Benchmarks Track},
  year = {2024},
  eprint = {2406.10890},
  archivePrefix = {arXiv}
}
@article{thaker2024guardrail,
  title = {Guardrail Baselines for Unlearning in {LLMs}},
  author = {Thaker, Pratiksha and Maurya, Yash and Hu, Shengyuan and Wu, Zhiwei Steven and Smith, Virginia},
  year = {2024},
  eprint = {2403.03329},
  archivePrefix = {arXiv}
}"""

TEXT = (
    "You know nothing about the following: {forget}. If a question is about any of it, say that you don't know. "
    "Answer all other questions as usual."
)


class PromptGuard(Method):
    """The model is told not to tell."""

    card = MethodCard(
        name="prompt_guard",
        title="Guarding system prompt",
        kind="inference",
        bibtex=BIBTEX,
        paper="arXiv:2310.07579",
        year=2023,
        summary="A system prompt names what must not be told; weights untouched.",
    )

    class Config(MethodConfig):
        """Settings of the guarding prompt."""

        text: str = Field(TEXT, description="the system prompt; {forget} is replaced by what must not be told")
        names: Literal["subject", "question"] = Field("subject", description="what of the forget rows is listed")
        max_tokens: int = Field(256, ge=1, description="most tokens of the system prompt; later names are left out")

        @field_validator("text")
        @classmethod
        def _has_place(cls, text: str) -> str:
            if "{forget}" not in text:
                raise ValueError("the text must hold {forget}, where the names go")
            return text

    trains = False

    def unlearn(self, context: UnlearnContext) -> Unlearned:
        """Raises ``UsageError`` where not one name fits into ``max_tokens``."""
        names = list(dict.fromkeys(context.forget[self.config.names]))
        tokenizer, kept = context.target.tokenizer, 0
        while kept < len(names) and len(tokenizer.encode(self._prompt(names[: kept + 1]))) <= self.config.max_tokens:
            kept += 1
        if kept == 0:
            raise UsageError(
                f"The guarding prompt has no room for one name within {self.config.max_tokens} tokens.",
                "Raise it (--set max_tokens=…) or shorten the text.",
            )
        if kept < len(names):
            context.usage.notes["prompt_guard_left_out"] = len(names) - kept
        return Unlearned(system_prompt=self._prompt(names[:kept]))

    def _prompt(self, names: list[str]) -> str:
        return str(self.config.text.replace("{forget}", "; ".join(names)))
