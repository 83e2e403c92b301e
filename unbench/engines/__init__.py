"""Engines generate text and score answers: ``hf`` (transformers)."""
