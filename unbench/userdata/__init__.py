"""Data as users have it: a task in one YAML file beside CSV, JSONL, JSON or Parquet files, or a hub data set.

``FileTask(path)`` opens one (``unbench run --task my.yaml`` does), ``write_template`` writes one to start from,
``report.describe`` says what it holds and what it lacks.
"""
