"""What each further metric means, for ``unbench metrics`` and the site. ``<kind>`` stands for a probe kind."""

from __future__ import annotations

from types import MappingProxyType

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
        "far": "Share of the target's knowledge left of other facts of the task.",
        "world": "Share of the target's knowledge left of general knowledge.",
    }
)
