"""A grid of runs on processes of this machine or on Ray: what is done is skipped, what fails is recorded, the rest goes
on. ``spec`` says which runs, ``job`` does one, ``pool`` spreads them over processes, ``record`` is what comes out."""

from __future__ import annotations

from unbench.sweep.record import SweepRecord, SweepRun
from unbench.sweep.run import survey, sweep
from unbench.sweep.spec import SweepSpec, make_spec, read_spec

__all__ = ["SweepRecord", "SweepRun", "SweepSpec", "make_spec", "read_spec", "survey", "sweep"]
