"""lm-evaluation-harness both ways: UnBench's tasks as lm-eval YAML (``export``, ``probes``), and lm-eval's tasks as
columns of a result (``harness``). lm-eval itself is an optional package and is imported only when asked for."""
