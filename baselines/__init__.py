"""The built-in methods, one self-contained file each. Installed as ``unbench_baselines``."""
