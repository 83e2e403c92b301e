"""The leaderboard: result files in, one static page out (``build_site``). It reads nothing but results."""

from unbench.leaderboard.reader import collect
from unbench.leaderboard.site import build_site

__all__ = ["build_site", "collect"]
