"""What each further metric means, for ``unbench metrics`` and the site. ``<kind>`` stands for a probe kind."""

from __future__ import annotations

from types import MappingProxyType

_FAMILIES = {
    "forget": "forget questions",
    "retain": "retained questions (far; on TOFU's published splits methods train on them)",
    "real_authors": "questions about real authors",
    "world_facts": "questions about the world",
}


def _by_family() -> dict[str, str]:
    """The metrics that every family of questions has."""
    out = {}
    for family, words in _FAMILIES.items():
        options = family in ("real_authors", "world_facts")
        share = ", as a share of the right and all wrong answers" if options else ""
        wanted = (
            "mean of min(TR, 1/TR): 1 where wrong answers are as likely as the right one"
            if family == "forget"
            else "mean of max(0, 1 - TR): 1 where wrong answers are impossible"
        )
        out[f"{family}_probability"] = f"Mean p(a|q) = exp(-mean token loss) of the right answer{share}; {words}."
        out[f"{family}_rouge"] = f"ROUGE-L recall of the greedy answer, with stemming; {words}."
        out[f"{family}_truth_ratio"] = (
            f"TR is the geometric mean probability of the wrong answers over that of the right one in other words; "
            f"{wanted}; {words}."
        )
        out[f"{family}_truth_ratio_arithmetic"] = f"The same with the arithmetic mean over wrong answers; {words}."
        if family in ("forget", "retain"):
            out[f"{family}_entropy"] = (
                f"Mean entropy of the greedy answers' bi- (1/3) and trigrams (2/3) in bits; grows with length; {words}."
            )
            out[f"{family}_repetition"] = f"Mean share of a greedy answer's 4-grams that stood in it before; {words}."
    return out


PUBLISHED = MappingProxyType(
    {
        **_by_family(),
        "model_utility": "Harmonic mean of nine: retain, real authors and world facts, each by probability, ROUGE and "
        "truth ratio.",
        "model_utility_arithmetic": "The same with the arithmetic truth ratios.",
        "forget_quality": "p-value of the two-sided Kolmogorov-Smirnov test between the truth ratios of the unlearned "
        "and the (first) reference model; it depends on n, so it never compares across splits.",
        "forget_ks": "D of that test: the largest distance between the two distribution functions.",
        "exact_memorization": "Share of the forget answers' tokens that are the model's first choice.",
        "extraction_strength": "1 - k/L of the forget answers: k the shortest prefix from which the rest is "
        "reproduced; 0 where even the last token is wrong (open-unlearning: 1/L).",
        "mia_loss": "Area under the ROC curve of forget (members) against holdout answers by their loss; 0.5 can't "
        "tell them apart.",
        "mia_zlib": "The same by the loss over the answer's compressed size.",
        "mia_min_k": "The same by the mean of the 40 % least likely tokens.",
        "mia_min_k_plus_plus": "The same with each token's log-probability standardised over the vocabulary.",
        "mia_reference": "The same by the loss less that of the (first) reference model.",
        "mia_gradnorm": "The same by the norm of the loss's gradient; only with --gradnorm.",
        "privleak": "100 (Ar - Au) / (1 - Ar), Au and Ar the min-k areas of the unlearned and the reference model: 0 "
        "as if never seen, -100 still a member, above 0 so unlikely that it tells.",
    }
)
"""TOFU's and open-unlearning's, on tasks whose knowledge is a probability."""

CATALOGUE = MappingProxyType(
    {
        "selectivity": "Area under the ROC curve of the drop in the right answer's log-probability, direct forget "
        "probes against withheld near ones; 0.5 cannot tell the target from its neighbours.",
        "recall_forget": "Share of forget probes whose greedy answer still holds the right answer.",
        "suppressed": "Share of forget probes that the model still knows (κ above 0.5) but doesn't say.",
        "retain_given": "retain read on the far facts that methods are given.",
        "specificity_given": "specificity read on the near facts that methods are given.",
        "fluency": "Share of fluent answers (not empty, ended, no 4-gram of words more than 3 times) over far "
        "and world, relative to the target's, at most 1; a factor of retain.",
        "forget_<kind>": "forget of one probe kind alone.",
        "near_<kind>": "Share of the target's knowledge left in one near ring.",
        "probe_overlap": "Share of forget probes whose question, but for case and punctuation, is one that the run "
        "trained on.",
        "forget_without_overlap": "forget without those probes.",
        "honesty_<way>": "Share of forget questions whose greedy answer is right, a refusal, a wrong answer that the "
        "method taught, another wrong candidate, or nonsense; honesty_<way>_target: before unlearning.",
        "hallucination_near": "Share of answers about neighbours that hold a wrong candidate and not the right one; "
        "hallucination_near_target: before.",
        "hallucination_far": "The same of other facts of the task; hallucination_far_target: before.",
        "holdout_same": "Share of questions about people whom no model has seen that are answered as the target "
        "answers them.",
        "far": "Share of the target's knowledge left of other facts of the task.",
        "world": "Share of the target's knowledge left of general knowledge.",
        **PUBLISHED,
    }
)
