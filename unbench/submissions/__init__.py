"""Submissions: a run as a folder that anyone can check without running a stranger's code.

``leaderboard/submissions/<task>/<method>/<run-id>/`` holds

- ``submission.json`` (``schema``): the result, with every score computed from the rows beside it,
- ``responses.jsonl.gz`` and, where the run was attacked, ``attacks.jsonl.gz`` (``rows``): what the unlearned models
  answered, probe by probe,
- ``plan.json``: the resolved plan, whose hash is the run-id,
- ``method.py`` where the method was one file, ``anti_samples.jsonl.gz`` where it wrote any.

What target and references answer is the same for everybody: the yardstick (``yardstick``), locked by hash in
``leaderboard/tasks.lock.json``.
"""
