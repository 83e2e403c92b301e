"""``unbench leaderboard build`` and ``serve``, as somebody types them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from unbench.cli import cli
from unbench.leaderboard import build_site
from unbench.leaderboard.serve import server


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["leaderboard", *words])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_runs_are_built_where_nothing_was_submitted(here, make):
    (here / "runs/a").mkdir(parents=True)
    (here / "runs/a/result.json").write_text(make().model_dump_json(by_alias=True))
    done = run("build")
    assert (done.exit_code, done.stdout) == (0, "leaderboard/site/index.html\n")
    assert '<span class="badge local">' in (here / "leaderboard/site/index.html").read_text()


def test_submissions_come_before_runs_and_are_checked_for_their_badge(here, make, make_submission):
    (here / "runs").mkdir()
    make_submission(make("lab:x"), here / "leaderboard")
    assert run("build").exit_code == 0
    page = (here / "leaderboard/site/index.html").read_text()
    # Its rows are missing, so nothing follows from them.
    assert '<span class="badge claimed">' in page
    assert run("build", "--no-validate").exit_code == 0
    assert (here / "leaderboard/site/index.html").read_text() == page


def test_check_exits_with_1_and_names_what_differs(here, make, make_submission):
    make_submission(make("lab:x"), here / "leaderboard")
    assert run("build", "--check").exit_code == 1
    assert not (here / "leaderboard/site").exists()
    assert run("build").exit_code == 0
    done = run("build", "--check")
    assert (done.exit_code, done.stdout) == (0, "")
    (here / "leaderboard/site/about.html").write_text("x")
    done = run("build", "--check")
    assert (done.exit_code, done.stdout) == (1, "leaderboard/site/about.html\n")
    make_submission(make("lab:y", run_id="b" * 12), here / "leaderboard")
    names = run("build", "--check").stdout.split()
    assert "leaderboard/site/runs/bbbbbbbbbbbb.html" in names
    assert "leaderboard/site/about.html" in names


def test_a_folder_that_is_not_there_is_one_sentence(here):
    done = run("build", "nowhere")
    assert done.exit_code != 0
    assert "There is no folder 'nowhere'." in str(done.exception)


def fetch(address: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as problem:
        return problem.code, b""


def test_serve_shows_the_site_and_the_submissions_and_nothing_above(here, make, make_submission):
    from threading import Thread

    (here / "secret.txt").write_text("secret")
    folder = make_submission(make("lab:x"), here / "leaderboard")
    build_site([make("lab:x")], here / "leaderboard/site")
    with server(here / "leaderboard/site", 0) as (running, address):
        worker = Thread(target=running.serve_forever, daemon=True)
        worker.start()
        assert address.startswith("http://127.0.0.1:")
        assert fetch(address)[0] == 200
        root = address.removesuffix("site/index.html")
        inner = folder.relative_to(here / "leaderboard")
        assert fetch(f"{root}{inner}/submission.json")[0] == 200
        for path in ("../secret.txt", "%2e%2e/secret.txt", "site/../../secret.txt", "..%2fsecret.txt"):
            assert b"secret" not in fetch(root + path)[1]
        running.shutdown()
        worker.join(timeout=10)


def test_serve_without_a_site_says_how_to_build_one(here):
    done = run("serve")
    assert "Build it first" in str(done.exception)


def test_interrupting_serve_is_quiet_and_gives_130(here, make):
    build_site([make()], here / "site")
    words = [sys.executable, "-c", "from unbench.cli import main; main()", "leaderboard", "serve", "--out", "site",
             "--port", "0"]  # fmt: skip
    # A shell's background jobs, and what they start, ignore Ctrl-C unless told to listen.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen,
                          env=os.environ | {"PYTHONUNBUFFERED": "1"}) as process:  # fmt: skip
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert fetch(address)[0] == 200
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said.strip() == "Interrupted."
