"""Attacks: what an attacker gets back of what was unlearned. One file an attack; ``harness`` carries them out, ``ask``
asks the forget probes, ``measure`` makes scores of what comes.

An attack's author needs ``unbench.attack`` alone.
"""
