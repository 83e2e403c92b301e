"""The built-in tasks, one folder each. Installed as ``unbench_tasks``."""
