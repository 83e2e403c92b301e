"""Training shared by every method: a thin subclass of transformers' Trainer, batches of answers, loss maths.

Methods import from the files themselves (``unbench.training.loop``, ``.loss``, ``.batch``): this one imports nothing,
so that nothing loads torch by accident.
"""
