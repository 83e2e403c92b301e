"""How long does a site of 5,000 submissions take to build, how large is its index, and how fast does it sort?

    python benchmarks/leaderboard_site.py --boards 50 --methods 100

The submissions are made up from a committed result, attacks included; they hold no answers (no ``responses.jsonl.gz``),
so the tables of probes are not part of the figure. Run on two cores: ``taskset -c 0,1 python …``. Sorting is timed in
Chromium, from the click to the next painted frame (the boards on the screen are sorted at once) and until all boards
are sorted; it is left out where playwright or a Chromium is missing.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CLUSTERS = 30
KINDS = ("gradient", "preference", "representation", "distillation", "data", "inference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=50)
    parser.add_argument("--methods", type=int, default=100)
    parser.add_argument("--keep", type=Path, help="keep submissions and site in this folder")
    options = parser.parse_args()
    home = options.keep or Path(tempfile.mkdtemp(prefix="unbench-site-"))
    try:
        write_submissions(home / "leaderboard/submissions", options.boards, options.methods)
        figures = measure(home / "leaderboard")
        figures |= sorting(home / "leaderboard/site/index.html")
        print(json.dumps(figures, indent=1))
    finally:
        if options.keep is None:
            shutil.rmtree(home, ignore_errors=True)


def write_submissions(folder: Path, boards: int, methods: int) -> None:
    """Made-up submissions, the same for the same numbers."""
    file = min((ROOT / "leaderboard/submissions/bios/fact/npo").rglob("submission.json"))
    base = json.loads(file.read_text(encoding="utf-8"))["result"]
    draw = random.Random(7)
    for board in range(boards):
        task, model = f"synthetic/problem{board // 2}", ("nano", "org/synthetic-1.5B")[board % 2]
        for method in range(methods):
            body = submission(base, task, model, method, draw)
            place = folder / task / f"method{method}" / body["result"]["run_id"]
            place.mkdir(parents=True)
            (place / "submission.json").write_text(json.dumps(body), encoding="utf-8")


def submission(base: dict[str, Any], task: str, model: str, method: int, draw: random.Random) -> dict[str, Any]:
    """One made-up submission."""
    from unbench.submissions.schema import SUBMISSION_SCHEMA

    result = json.loads(json.dumps(base))
    name = f"lab{method % 7}:method{method}"
    result |= {
        "run_id": f"{draw.getrandbits(48):012x}",
        "method": name,
        "task": task,
        "model": model,
        "created_utc": f"2026-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}T{draw.randint(0, 23):02}:00:00+00:00",
    }
    result["hashes"] |= {"task": f"{abs(hash_of(task)):064x}", "method": f"{draw.getrandbits(256):064x}"}
    result["plan"] |= {"train": {"kind": draw.choice(("full", "lora"))}, "method": name, "task": task}
    for holder, names in (("scores", result["scores"]), ("worst", ("forget_worst", "overall_worst"))):
        for key in names:
            value, half = draw.uniform(0.2, 0.98), draw.uniform(0.01, 0.12)
            result[holder][key] |= {"value": round(value, 6), "low": round(max(0.0, value - half), 6),
                                    "high": round(min(1.0, value + half), 6)}  # fmt: skip
    result["metrics"]["selectivity"]["value"] = round(draw.uniform(0.4, 1.0), 6)
    result["compute"] |= {"unlearn_s": draw.uniform(1, 900), "tokens_trained": draw.randint(10_000, 900_000)}
    value = result["worst"]["overall_worst"]["value"]
    ranking = {
        "left_out": {f"subject {i}": value + draw.gauss(0, 0.01) for i in range(CLUSTERS)},
        "by_seed": [value + draw.gauss(0, 0.02) for _ in result["seeds"]],
    }
    digest = f"{draw.getrandbits(256):064x}"
    return {
        "schema": SUBMISSION_SCHEMA,
        "result": result,
        "ranking": {"overall_worst": ranking},
        "method": {"name": name, "version": "1.0", "source": digest, "title": f"Method {method}",
                   "kind": draw.choice(KINDS), "summary": "Made up.", "bibtex": f"@misc{{method{method}}}"},
        "yardstick": {"task_hash": digest, "model_hash": digest, "responses": digest},
        "files": {"responses.jsonl.gz": digest, "plan.json": digest},
        "tuning": {"trials": draw.randint(1, 40)},
        "command": f"unbench run --method {name} --task {task}",
        "submitter": f"Lab {method % 7}",
    }  # fmt: skip


def hash_of(text: str) -> int:
    """A number of a text, the same in every process."""
    return int.from_bytes(text.encode()[-24:], "big")


def measure(leaderboard: Path) -> dict[str, Any]:
    """Seconds of reading and building, and sizes."""
    from unbench.leaderboard import Site, build_site, read_entries

    start, used = time.perf_counter(), cpu_seconds()
    entries = read_entries(leaderboard / "submissions")
    read = time.perf_counter() - start
    site = leaderboard / "site"
    index = build_site(Site(entries, home=leaderboard), site)
    whole = time.perf_counter() - start
    content = index.read_bytes()
    pages = sorted((site / "runs").glob("*.html"))
    return {
        "submissions": len(entries),
        "read_s": round(read, 1),
        "read_and_build_s": round(whole, 1),
        "cpu_s": round(cpu_seconds() - used, 1),
        "index_bytes": len(content),
        "index_gzip_bytes": len(gzip.compress(content, 9, mtime=0)),
        "run_pages": len(pages),
        "run_page_bytes_mean": round(sum(page.stat().st_size for page in pages) / max(len(pages), 1)),
        "site_bytes": sum(path.stat().st_size for path in site.rglob("*") if path.is_file()),
    }


def cpu_seconds() -> float:
    """Of this process and its workers: what a machine with other work to do can't stretch."""
    own, workers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime


SORT = """(key) => new Promise((done) => {
  const heads = [...document.querySelectorAll(`th[data-key="${key}"]`)];
  const start = performance.now();
  const since = () => Math.round(performance.now() - start);
  let painted = null;
  heads[0].querySelector("button").click();
  requestAnimationFrame(() => setTimeout(() => { painted = since(); }, 0));
  const look = () => {
    if (painted === null || heads.some((head) => head.ariaSort === "none")) setTimeout(look, 0);
    else { document.body.offsetHeight; done({ painted, all_boards: since() }); }
  };
  look();
})"""


def sorting(index: Path) -> dict[str, Any]:
    """Milliseconds from a click on a head to the next painted frame, and until all boards are sorted."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {"sort": "playwright is missing"}
    browser_path = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
    if browser_path is None:
        return {"sort": "no Chromium here"}
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        start = time.perf_counter()
        page.goto(index.resolve().as_uri())
        ready = time.perf_counter() - start
        keys = ("forget", "method", "tokens", "retain", "date")
        times = {key: [page.evaluate(SORT, key), page.wait_for_timeout(300)][0] for key in keys}
        browser.close()
    return {
        "open_s": round(ready, 2),
        "sort_ms": times,
    }  # fmt: skip


if __name__ == "__main__":
    main()
