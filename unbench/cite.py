"""How to cite UnBench."""

UNBENCH_BIBTEX = """\
@software{unbench,
  title   = {UnBench: an evaluation benchmark and leaderboard for {LLM} unlearning},
  author  = {{UnBench contributors}},
  year    = {2026},
  version = {0.1.0},
  license = {Apache-2.0}
}"""
