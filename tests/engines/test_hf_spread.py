"""A pass spread over several devices: the same rows in the same order, as one engine gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import model, tokenizer
from tofu_like import requests

from unbench import engines
from unbench.engines.base import Sampling, ScoreRequest
from unbench.engines.hf import HFEngine
from unbench.engines.hf_spread import SpreadEngine, split
from unbench.engines.hf_worker import Worker
from unbench.errors import EnvironmentProblem, RunFailed, UsageError
from unbench.method import Unlearned

SAMPLED = Sampling(max_new_tokens=8, temperature=0.9, seed=3)


def ending(seed: int = 0) -> Any:
    net = model(seed=seed, max_position_embeddings=2048)
    with torch.no_grad():
        net.lm_head.weight[2] *= 3
    return net


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("target")
    ending().save_pretrained(path)
    tokenizer(None).save_pretrained(path)
    return path


def asked() -> list[ScoreRequest]:
    found = requests(tokenizer(), 4)
    return [*found, ScoreRequest(found[0].prompt, found[1].continuations), found[2]]


def prompts() -> list[list[int]]:
    return [r.prompt for r in asked()] + [[20, 30]] * 3


def compare(one: Any, many: Any) -> None:
    want, got = one.score(asked()), many.score(asked())
    assert [len(scores) for scores in got] == [len(scores) for scores in want]
    for a, b in zip(want, got, strict=True):
        for x, y in zip(a, b, strict=True):
            assert y.logprob == pytest.approx(x.logprob, abs=1e-5)
            assert y.mean == pytest.approx(x.mean, abs=1e-5)
            assert y.variance == pytest.approx(x.variance, abs=1e-4)
            assert y.is_argmax == x.is_argmax
    for sampling in (Sampling(max_new_tokens=8), SAMPLED):
        assert many.generate(prompts(), sampling) == one.generate(prompts(), sampling)
    assert many.stats.tokens_generated == one.stats.tokens_generated
    assert many.stats.tokens_scored == one.stats.tokens_scored
    assert many.stats.score_s > 0
    assert many.stats.generate_s > 0


def pair(devices: int = 2) -> SpreadEngine:
    first, *others = [HFEngine(ending(), tokenizer(None)) for _ in range(devices)]
    return SpreadEngine(first, lambda: others)


@pytest.mark.parametrize("devices", [2, 3])
def test_the_same_rows_in_the_same_order(devices: int) -> None:
    with HFEngine(ending(), tokenizer(None)) as one, pair(devices) as many:
        compare(one, many)
        assert len({tuple(text.tokens) for text in many.generate(prompts(), SAMPLED)[-3:]}) == 3


def test_more_devices_than_work() -> None:
    with HFEngine(ending(), tokenizer(None)) as one, pair(3) as many:
        assert many.score([]) == []
        assert many.generate([], Sampling()) == []
        request = ScoreRequest([5, 6], [[7, 8]])
        assert many.score([request]) == one.score([request])
        with pytest.raises(ValueError, match="empty continuation"):
            many.score([ScoreRequest([1], [[]])])


def test_split_by_hand() -> None:
    prompts = [[1], [2], [3], [1], [4]]
    # [1] costs 5 + 1 in all and goes first, then [2] (5) and [4] (3) to the other part, [3] (2) to the first.
    assert split(prompts, [5, 5, 2, 1, 3], 2) == [[0, 2, 3], [1, 4]]
    assert split(prompts, [1, 1, 1, 1, 1], 1) == [[0, 1, 2, 3, 4]]
    assert split([], [], 2) == [[], []]


def test_split_gives_like_parts() -> None:
    found = requests(tokenizer(), 20)
    costs = [len(r.prompt) + sum(map(len, r.continuations)) for r in found]
    shares = split([r.prompt for r in found], costs, 4)
    assert sorted(place for share in shares for place in share) == list(range(len(found)))
    loads = [sum(costs[place] for place in share) for share in shares]
    assert max(loads) <= 1.05 * min(loads)


def test_progress_adds_up() -> None:
    seen: list[tuple[str, int, int]] = []
    with pair() as many:
        many.progress = lambda *values: seen.append(values)
        many.score(asked())
    assert {what for what, _, _ in seen} == {"score"}
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1] == seen[-1][2] == len({tuple(r.prompt) for r in asked()})


def test_little_work_starts_nothing() -> None:
    def start() -> list[HFEngine]:
        started.append(HFEngine(ending(), tokenizer(None)))
        return started

    started: list[HFEngine] = []
    with SpreadEngine(HFEngine(ending(), tokenizer(None)), start, worth=1000) as many:
        many.score([ScoreRequest([5], [[6, 7]])])
        assert not started
        many.generate([[5 + i] for i in range(110)], Sampling(max_new_tokens=9))
        many.generate([[5 + i] for i in range(110)], Sampling(max_new_tokens=9))
        assert len(started) == 1


def test_a_device_out_of_memory_ends_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    with pair() as many:
        many.score(asked())

        def fail(*values: object) -> None:
            raise EnvironmentProblem("Out of memory.", "Try less.")

        monkeypatch.setattr(many._parts[1], "score", fail)
        with pytest.raises(EnvironmentProblem, match="Out of memory"):
            many.score(asked())


def test_processes_serve_like_one_engine(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing but for the device: a second process, loaded weights, an error that comes back as itself."""
    monkeypatch.setattr(engines, "WORTH", 0)
    other = tmp_path / "other"
    ending(seed=1).save_pretrained(other)
    with HFEngine.open(folder) as one, engines.spread(folder, ["cpu", "cpu"]) as many:
        assert isinstance(many, SpreadEngine)
        compare(one, many)
        worker = many._parts[1]
        assert isinstance(worker, Worker)
        assert 0 < worker.stats.tokens_scored < many.stats.tokens_scored
        for weights in (other, None):
            one.load(Unlearned(weights))
            many.load(Unlearned(weights))
            assert many.generate(prompts(), Sampling(max_new_tokens=8)) == one.generate(
                prompts(), Sampling(max_new_tokens=8)
            )
        few = asked()[:3]
        for got, want in zip(many.gradient_norms(few), one.gradient_norms(few), strict=True):
            assert got == pytest.approx(want, rel=1e-4)
        with pytest.raises(UsageError, match="no weights"):
            worker.load(Unlearned(tmp_path))
        with pytest.raises(ValueError, match="empty continuation"):
            worker.score([ScoreRequest([1], [[]])])
        worker._process.kill()
        with pytest.raises(RunFailed, match="ended before it had answered"):
            many.score(asked())
    assert worker._process.poll() is not None


def test_a_device_that_cannot_be_had_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "WORTH", 0)
    with HFEngine.open(folder) as one, engines.spread(folder, ["cpu", "cuda:77"]) as many:
        compare(one, many)
        assert any("cuda:77 was not used" in note for note in many.stats.notes)


def test_which_devices(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert engines.visible("cuda") == ["cuda:0", "cuda:1"]
    assert engines.visible("cuda:1") == ["cuda:1"]
    assert engines.visible("cpu") == ["cpu"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert engines.visible("cuda") == ["cuda"]
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert engines.visible("cuda") == ["cuda"]
    with engines.open_engine(folder) as engine:
        assert isinstance(engine, HFEngine)
