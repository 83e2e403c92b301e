"""UnSTAR's settings. Defaults follow the paper where it names a number; ``UnSTAR.published()`` is the paper whole."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from unbench.method import MethodConfig

WrongAnswers = Literal["consistent", "varied"]
RetainMix = Literal["mixed", "near", "far", "none"]


class UnSTARConfig(MethodConfig):
    """Settings of the five steps: write, filter, ask, fine-tune, retain."""

    # Step 1: what the model is asked to write
    paraphrases: int = Field(20, ge=0, description="usable paraphrases wanted a fact (published: 20)")
    wrong_samples: int = Field(20, ge=1, description="wrong answers sampled a fact (published: 20)")
    oversample: float = Field(
        1.5,
        ge=1,
        description="ask for so many times the paraphrases wanted, then filter (half may be usable)",
    )
    wrong_answers: WrongAnswers = Field(
        "consistent",
        description="consistent: one wrong answer a fact, so that gradients agree (ours); varied: a random one "
        "for each paraphrase (published)",
    )
    rationale: bool = Field(True, description="append the model's own misleading rationale (published: yes)")
    rationale_samples: int = Field(2, ge=1, description="rationales asked an anti-sample; the first usable is kept")
    temperature: float = Field(0.8, gt=0, description="sampling temperature of the first round")
    temperature_step: float = Field(0.2, ge=0, description="added each time coverage is thin (published: rising)")
    temperature_max: float = Field(1.2, gt=0, description="highest sampling temperature")
    top_p: float = Field(0.95, gt=0, le=1, description="nucleus of sampling; cuts the tail that heat lifts")

    own_words: int = Field(
        0,
        ge=0,
        description="answers sampled a remembered question; each anti-sample then wears the model's own sentence, the "
        "wrong answer in the right one's place. 0: the row's answer sentence",
    )

    # Step 2: filters
    min_edit_similarity: float = Field(
        30, ge=0, le=100, description="a paraphrase with a lower string ratio to its question has drifted (rapidfuzz)"
    )
    max_edit_similarity: float = Field(
        97, ge=0, le=100, description="a paraphrase with a higher string ratio says the question itself (rapidfuzz)"
    )
    wrong_answer_max_words: int = Field(8, ge=1, description="longest wrong answer where the value is known")
    rationale_max_words: int = Field(40, ge=1, description="longest rationale")
    embedding_model: str | None = Field(
        None, description="folder or hub id of a sentence encoder for the cosine tests; None turns them off and says so"
    )
    min_cosine: float = Field(
        0.6, ge=-1, le=1, description="cosine above which two texts mean the same (published: 0.6)"
    )

    # Step 3: what counts as remembered
    match_ratio: float = Field(80, ge=0, le=100, description="string ratio above which an answer matches (published)")
    by_likelihood: bool = Field(
        False,
        description="a question counts as remembered also while the right answer sentence is likelier than the wrong "
        "one, whatever the model says to it; published: no",
    )
    retest: bool = Field(
        True, description="ask every paraphrase again each round; false drops one once it is forgotten (published)"
    )
    anti_samples_min: int = Field(
        8, ge=0, description="fewest anti-samples that a fact still remembered brings to a round (published: 8)"
    )

    # Step 4: fine-tuning
    rounds: int = Field(5, ge=1, description="most rounds of asking and fine-tuning (published: up to 100 iterations)")
    steps: int | None = Field(None, ge=1, description="optimiser steps a round; None: by the anti-samples")
    steps_per_anti_sample: float = Field(
        4, gt=0, description="how often each anti-sample is trained on in its round, where steps is None (published: 4)"
    )
    lr: float = Field(2e-5, gt=0, description="peak learning rate (published: 1e-5 to 3e-5)")
    batch_size: int = Field(8, ge=1, description="anti-samples a step, and as many retain rows beside them")
    warmup: float = Field(0.1, ge=0, le=1, description="share of a round's steps that warm up")

    # Step 5: what must stay
    retain_mix: RetainMix = Field(
        "mixed",
        description="near: retain rows that share subject, value or relation with a forgotten fact; far: the others; "
        "mixed: both in equal parts (near alone did worse in a prototype)",
    )
    gaps: bool = Field(
        False, description="ask each fact, and what lies near, as a gap to fill too (studied at ___); published: no"
    )
    retain_per_forget: float = Field(8, gt=0, description="retain rows in the mix for each forgotten fact")
    retain_rationale: float = Field(
        0.25, ge=0, le=1, description="share of these rows that also get the model's own paraphrase and right rationale"
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> UnSTARConfig:
        if self.min_edit_similarity > self.max_edit_similarity:
            raise ValueError("min_edit_similarity is above max_edit_similarity")
        if self.temperature > self.temperature_max:
            raise ValueError("temperature is above temperature_max")
        return self

    def temperature_of(self, level: int) -> float:
        """Temperature after coverage was found thin ``level`` times."""
        return round(min(self.temperature + level * self.temperature_step, self.temperature_max), 6)

    @property
    def levels(self) -> int:
        """How often the temperature can rise before it stands at its maximum."""
        if self.temperature_step == 0:
            return 0
        level = 0
        while self.temperature_of(level) < round(self.temperature_max, 6):
            level += 1
        return level


PUBLISHED: dict[str, Any] = {
    "paraphrases": 20,
    "wrong_samples": 20,
    "wrong_answers": "varied",
    "rationale": True,
    "retest": False,
    "anti_samples_min": 8,
    "rounds": 100,
    "steps": None,
    "steps_per_anti_sample": 4,
    "lr": 2e-5,
    "match_ratio": 80,
    "min_cosine": 0.6,
    "retain_mix": "mixed",
    "retain_rationale": 1.0,
}
"""What the paper says (arXiv 2410.17050), beside LoRA of rank 8 on q and v. Its sentence encoder has to be named."""

TUNED: dict[str, dict[str, Any]] = {
    "smollm2": {
        "paraphrases": 12,
        "wrong_samples": 32,
        "oversample": 3.0,
        "anti_samples_min": 8,
        "own_words": 2,
        "gaps": True,
        "by_likelihood": True,
        "rationale": False,
        "rounds": 2,
        "steps": 90,
        "lr": 1e-3,
        "batch_size": 8,
        "retain_per_forget": 60,
        "retain_rationale": 0.1,
    },
}
"""By model, set by hand on ``facts`` targets of select (mexico-language, big-ben-city): every forward phrasing falls to
a guess where the wrong answer is one of those that the fact is asked beside. Anti-samples lift the wrong answer and
leave the others in their order: where another is taught (japan-capital: Tehran) the model says it everywhere, and among
the rest the right one still comes first (κ .94). Facts asked the other way round, with a wrong subject, and varied
wrong answers of the relation were tried on japan-capital and oliver-author and changed nothing of that.
What trials found on nano stands in ``baselines/tuned.yaml``."""

SPACE: dict[str, list[Any]] = {
    "lr": [1e-4, 2e-4, 3e-4, 5e-4],
    "paraphrases": [4, 8, 12],
    "rounds": [2, 3, 4],
    "steps_per_anti_sample": [6, 12, 24],
    "retain_per_forget": [10, 20],
    "retain_rationale": [0.0, 0.1, 0.3],
    "rationale": [True, False],
}
"""What ``unbench tune`` searches."""
