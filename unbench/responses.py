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
logprob         float    total log-probability (nats) of the tokens in which the probe's candidates differ
n_tokens        int      number of those tokens
token_logprobs  list     of every answer token after the prompt (prefix, candidate; end token only for the sentence)
token_argmax    list     whether each was the model's first choice
question        str      the last user turn
text            str      greedy answer to the bare prompt; repeated on every row of the probe
finished        bool     the greedy answer ended by itself
recalled        bool     the greedy answer holds the right answer
=============== ======== ==========================================================================================
"""

from __future__ import annotations

COLUMNS = (
    "role", "probe", "ring", "kind", "subject", "cluster", "fact", "given", "pair", "continuation", "candidate",
    "is_right", "logprob", "n_tokens", "token_logprobs", "token_argmax", "question", "text", "finished", "recalled",
)  # fmt: skip
