"""The leaderboard: runs and submissions in, a static site out (``build_site``). It reads nothing but their files."""

from unbench.leaderboard.entries import read_entries
from unbench.leaderboard.reader import collect
from unbench.leaderboard.site import Site, build_site, check_site

__all__ = ["Site", "build_site", "check_site", "collect", "read_entries"]
