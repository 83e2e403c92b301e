"""The five steps on a scripted model."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from unstar_fakes import JOBS, KEPT, PEOPLE, WRONG, FakeModel, World, default_script, job, row

from unbench.engines.base import ScoreRequest, TokenScores
from unbench.unstar import UnSTAR
from unbench.unstar.config import TUNED
from unbench.unstar.facts import Ask, mix
from unbench.unstar.generate import choose_wrong


def test_forgets_every_fact_and_says_so(world: World) -> None:
    unlearned = world.run()
    assert unlearned.weights == world.folder / "model"
    assert world.engine.loaded[-1] == unlearned
    assert world.engine.closed
    assert world.notes["stopped"] == "nothing remembered"
    assert world.notes["questions_known_before"] == {"known": 3, "asked": 3}
    assert world.notes["never_known"] == []
    assert world.notes["remembered_after"] == {"phrases": 0, "facts": [], "asked": 15}
    assert world.notes["cosine"].startswith("off")
    assert len(world.trainings) == 1


def test_completion_is_the_targets_sentence_then_the_rationale(world: World) -> None:
    world.run()
    trained = world.trained()
    assert len(trained) == 15  # three questions and four paraphrases of each
    for question, answer in trained.items():
        name = next(name for name in PEOPLE if name in question)
        said = next(wrong for wrong in WRONG if wrong in answer)
        assert answer == f"{name} lives in {said}. The town register of {said} shows the name."
        assert PEOPLE[name] not in answer


def test_one_wrong_answer_a_fact_and_not_one_for_all(world: World) -> None:
    world.run()
    by_fact: dict[str, set[str]] = {}
    for record in world.records:
        if record.stage == "anti_sample" and record.role == "forget":
            by_fact.setdefault(record.fact, set()).add(record.wrong_answer or "")
    assert all(len(said) == 1 for said in by_fact.values())
    assert len(set.union(*by_fact.values())) == 3  # each fact took the one that the others had not


def test_choice_of_the_wrong_answer() -> None:
    first, second = (Ask("f", "q?", "a.", relation="city"), Ask("g", "r?", "b.", relation="city"))
    votes = Counter({"Oxford": 8, "Yale": 3, "Zzyx": 1})
    even = dict.fromkeys(votes, -1.0)
    assert choose_wrong([(first, votes), (second, votes)], [even, even]) == ["Oxford", "Yale"]
    alike = Counter({"Zzyxqu": 1, "Oxford": 1, "Yale": 1})
    likely = {"Zzyxqu": -4.0, "Oxford": -0.5, "Yale": -1.2}
    # The slip is never taken, not even when both names are.
    assert choose_wrong([(first, alike)] * 3, [likely] * 3) == ["Oxford", "Yale", "Oxford"]
    assert choose_wrong([(first, Counter())], [{}]) == [None]


def test_varied_wrong_answers(world: World) -> None:
    world.run(wrong_answers="varied", paraphrases=6, wrong_samples=20)
    said = {wrong for answer in world.trained().values() for wrong in WRONG if f"Ada Vane lives in {wrong}" in answer}
    assert len(said) > 1


def test_without_rationales_none_is_asked_for(world: World) -> None:
    world.run(rationale=False)
    assert all(answer.count(".") == 1 for answer in world.trained().values())
    assert "rationale" not in {skill for skill, _, _ in world.engine.calls}


def test_a_malformed_rationale_leaves_the_anti_sample_without(world: World) -> None:
    def script(model: FakeModel, skill: str, question: str, answer: str | None, rng: random.Random) -> str:
        good = default_script(model, skill, question, answer, rng)
        return "Everybody knows it." if skill == "rationale" else good

    world.engine.script = script
    world.run()
    assert all(answer.count(".") == 1 for answer in world.trained().values())
    kept = [record for record in world.records if record.stage == "anti_sample" and record.role == "forget"]
    assert {record.reason for record in kept} == {"without rationale: doesn't name its answer"}
    assert world.notes["written"]["rationale"]["doesn't name its answer"] == 34  # two samples each of 15 + 2


def test_each_kind_is_one_engine_call_for_all_facts(world: World) -> None:
    world.run(rounds=1)
    assert [(skill, number) for skill, number, _ in world.engine.calls] == [
        ("ask", 3), ("wrong_answer", 18), ("paraphrase", 42), ("rationale", 4),
        ("ask", 12), ("rationale", 30), ("ask", 15),
    ]  # fmt: skip
    greedy = {skill: sampling.temperature == 0 for skill, _, sampling in world.engine.calls}
    assert greedy == {"ask": True, "wrong_answer": False, "paraphrase": False, "rationale": False}


def test_rounds_are_capped_and_what_is_left_is_named(world: World) -> None:
    world.model.stubborn = frozenset({"Where does Ada Vane live?"})
    world.run(rounds=2)
    assert len(world.trainings) == 2
    assert world.notes["stopped"] == "all rounds spent"
    assert world.notes["remembered_after"]["facts"] == ["city/Ada Vane"]
    assert set(world.trained(1)) == {"Where does Ada Vane live?"}
    assert [entry["round"] for entry in world.notes["rounds"]] == [1, 2]


@pytest.mark.parametrize(("retest", "trainings"), [(True, 3), (False, 2)])
def test_retest_asks_what_was_forgotten_again(world: World, retest: bool, trainings: int) -> None:
    """One question is never forgotten in round 1, so that a second training happens, after which another comes back."""
    world.model.comes_back = frozenset({"Where does Bo Kell live?"})
    stubborn = "Where does Ada Vane live?"
    world.model.stubborn = frozenset({stubborn})
    world.run(retest=retest, rounds=trainings, anti_samples_min=0)
    names = [set(world.trained(number)) for number in range(1, trainings)]
    came_back = any("Where does Bo Kell live?" in asked for asked in names)
    assert came_back is retest


def test_thin_coverage_writes_more_at_a_rising_temperature(world: World) -> None:
    world.run(paraphrases=1, anti_samples_min=5, temperature=0.7, temperature_step=0.2, temperature_max=1.1)
    heats = [sampling.temperature for skill, _, sampling in world.engine.calls if skill == "paraphrase"]
    assert heats[:2] == [0.7, 0.9]
    assert heats == sorted(heats)
    assert max(heats) <= 1.1
    per_fact = [record.fact for record in world.records if record.stage == "anti_sample" and record.role == "forget"]
    assert all(per_fact.count(fact) >= 5 for fact in set(per_fact))


def test_facts_never_known_are_noted_and_not_trained(world: World) -> None:
    world.forget.append(row("Zed Quill", "Eastwick"))
    world.run()
    assert world.notes["never_known"] == ["city/Zed Quill"]
    assert not any("Zed Quill" in question for question in world.trained())


def test_nothing_known_leaves_the_weights_alone(world: World) -> None:
    world.model.known = {}
    assert world.run().weights is None
    assert not world.trainings
    assert len(world.notes["never_known"]) == 3


def test_a_fact_without_a_wrong_answer_borrows_one_of_its_relation(world: World) -> None:
    def script(model: FakeModel, skill: str, question: str, answer: str | None, rng: random.Random) -> str:
        if skill == "wrong_answer" and "Bo Kell" in question:
            return "Brightwater"
        return default_script(model, skill, question, answer, rng)

    world.engine.script = script
    world.run()
    assert world.notes["wrong_answer_borrowed"] == ["city/Bo Kell"]
    heats = [sampling.temperature for skill, _, sampling in world.engine.calls if skill == "wrong_answer"]
    assert heats == [0.8, 1.0, 1.2]
    assert any("Bo Kell lives in" in answer for answer in world.trained().values())


def test_no_wrong_answer_at_all_skips_the_facts(world: World) -> None:
    def script(model: FakeModel, skill: str, question: str, answer: str | None, rng: random.Random) -> str:
        return "" if skill == "wrong_answer" else default_script(model, skill, question, answer, rng)

    world.engine.script = script
    assert world.run().weights is None
    assert len(world.notes["skipped_no_wrong_answer"]) == 3
    assert world.notes["written"]["wrong_answer"] == {"empty": 54}


def test_rows_without_a_value_get_wrong_sentences(world: World) -> None:
    for one in world.forget:
        one["value"] = ""
    world.run()
    assert "wrong_sentence" in {skill for skill, _, _ in world.engine.calls}
    assert all(any(wrong in answer for wrong in WRONG) for answer in world.trained().values())
    assert world.notes["remembered_after"]["phrases"] == 0


def test_retain_rows_lie_beside_near_and_far(world: World) -> None:
    world.run(retain_per_forget=2, retain_rationale=0.5)
    beside = {one.messages[-1].content: one.answer for one in world.trainings[0]["beside"]}
    assert {one["question"]: one["answer"] for one in world.retain}.items() <= beside.items()
    assert world.notes["retain"] == {"near": 4, "far": 2, "paraphrased": 3, "with_rationale": 3}
    reasoned = [record for record in world.records if record.role == "retain" and record.stage == "anti_sample"]
    for record in reasoned:
        value = (KEPT | JOBS)[record.fact.split("/")[1]]
        assert record.completion == beside[record.paraphrase or ""]
        assert (record.completion or "").count(value) == 2  # in the answer and in its right rationale


@pytest.mark.parametrize(("how", "names"), [("near", {*KEPT, "Ada Vane"}), ("far", {"Gus Hale", "Hal Ives"})])
def test_retain_mix(world: World, how: str, names: set[str]) -> None:
    world.run(retain_mix=how, retain_rationale=0)
    asked = [one.messages[-1].content for one in world.trainings[0]["beside"]]
    assert {name for name in (*PEOPLE, *KEPT, *JOBS) for question in asked if name in question} == names


def test_mixed_is_not_near_alone_where_every_row_is_near() -> None:
    forget = [Ask("f", "q?", "a.", "Ada", "city", "Rome")]
    same = [Ask(f"s{n}", "q?", "a.", "Ada", f"r{n}", "x") for n in range(10)]
    related = [Ask(f"r{n}", "q?", "a.", f"p{n}", "city", f"v{n}") for n in range(90)]
    twins = [Ask(f"t{n}", "q?", "a.", f"p{n}", "city", "Rome") for n in range(20)]
    chosen = mix(same + related + twins, forget, "mixed", 40, seed=0)
    assert len(chosen) == len(set(chosen)) == 40
    assert set(twins) <= set(chosen)  # they share most
    assert len(set(related) & set(chosen)) > 10
    assert mix(related, forget, "mixed", 1000, seed=0) != related  # in another order
    assert len(mix(related, forget, "mixed", 1000, seed=0)) == 90


def test_no_retain_mix(world: World) -> None:
    world.run(retain_mix="none")
    assert world.trainings[0]["beside"] == []


def test_steps_follow_the_anti_samples(world: World) -> None:
    world.run(batch_size=4, steps_per_anti_sample=2)
    assert world.trainings[0]["steps"] == 8  # 15 rows twice, four a step
    assert world.trainings[0]["batch_size"] == 4


def test_fixed_steps(world: World) -> None:
    world.run(steps=7)
    assert world.trainings[0]["steps"] == 7


def test_the_same_seed_writes_the_same_bytes(world: World, tmp_path: Path) -> None:
    world.run()
    first = (world.folder / "anti_samples.jsonl").read_bytes()
    world.model.trained.clear()
    world.folder = tmp_path / "again"
    world.run()
    assert (world.folder / "anti_samples.jsonl").read_bytes() == first
    assert world.trainings[0] | {"context": 0} == world.trainings[1] | {"context": 0}
    world.model.trained.clear()
    world.seed, world.folder = 2, tmp_path / "other"
    world.run()
    assert (world.folder / "anti_samples.jsonl").read_bytes() != first


def test_generated_tokens_are_counted(world: World) -> None:
    world.run()
    assert world.usage.tokens_generated == world.engine.stats.tokens_generated > 0


@pytest.mark.parametrize("budget", [0, 40, 400, 1200, 3000])
def test_the_token_budget_holds(world: World, budget: int) -> None:
    world.budget = budget
    world.run()
    assert world.usage.tokens_generated <= budget
    assert (world.folder / "anti_samples.jsonl").exists()
    if budget < 3000:
        assert "generation_cut" in world.notes


def test_progress_for_every_stage(world: World) -> None:
    world.run()
    assert {"asking what the model knows", "writing paraphrases", "writing wrong answers", "writing rationales",
            "round 1: asking"} <= set(world.progress)  # fmt: skip


def test_anti_samples_are_kept_when_training_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import unbench.training.loop

    def fail(*args: object, **settings: object) -> None:
        raise RuntimeError("NaN loss")

    monkeypatch.setattr(unbench.training.loop, "fine_tune", fail)
    with pytest.raises(RuntimeError, match="NaN"):
        world.run()
    assert any(record.stage == "anti_sample" for record in world.records)
    assert world.engine.closed


def test_several_rows_of_one_fact_share_a_wrong_answer(world: World) -> None:
    again = row("Ada Vane", "Arvenmoor") | {"question": "Which city does Ada Vane call home?"}
    world.forget.append(again)
    world.run(paraphrases=3)
    said = {wrong for answer in world.trained().values() for wrong in WRONG if f"Ada Vane lives in {wrong}" in answer}
    assert len(said) == 1
    assert len([question for question in world.trained() if "Ada Vane" in question]) == 5


def test_probes_are_out_of_reach() -> None:
    """The method's modules name no probe and import nothing that could give one."""
    folder = Path(sys.modules[UnSTAR.__module__].__file__ or "").parent
    for file in folder.glob("*.py"):
        code = file.read_text(encoding="utf-8")
        assert ".probes" not in code, file.name
        assert "Probe" not in code, file.name


def test_importing_the_method_imports_no_torch() -> None:
    code = "import sys; from unbench.unstar import UnSTAR; UnSTAR.published(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_published_settings() -> None:
    config = UnSTAR.published()
    assert (config.paraphrases, config.wrong_samples, config.anti_samples_min, config.rounds) == (20, 20, 8, 100)
    assert (config.wrong_answers, config.retest, config.rationale) == ("varied", False, True)
    assert 1e-5 <= config.lr <= 3e-5
    assert config.steps_per_anti_sample == 4
    assert config.match_ratio == 80
    assert config.min_cosine == 0.6
    assert UnSTAR.published(rounds=1).rounds == 1


def test_the_published_way_runs(world: World) -> None:
    world.run_config(UnSTAR.published(rounds=2))
    assert world.notes["remembered_after"]["phrases"] == 0


@pytest.mark.parametrize("model", sorted(TUNED))
def test_tuned_settings_are_valid(model: str) -> None:
    assert UnSTAR.Config.model_validate(UnSTAR.tuned[model])


@pytest.mark.parametrize("bad", [{"rounds": 0}, {"temperature": 2.0}, {"min_edit_similarity": 99}, {"unknown": 1}])
def test_bad_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        UnSTAR.Config.model_validate(bad)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in UnSTAR.Config.model_fields.values())


def test_card() -> None:
    assert UnSTAR.card.kind == "data"
    assert "2410.17050" in UnSTAR.card.bibtex


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=8))
def test_any_text_as_generation_never_crashes(world: World, texts: list[str]) -> None:
    def script(model: FakeModel, skill: str, question: str, answer: str | None, rng: random.Random) -> str:
        # Half the wrong answers are good, so that rationales are reached.
        good = default_script(model, skill, question, answer, rng)
        return good if skill == "wrong_answer" and rng.random() < 0.5 else rng.choice(texts)

    world.model.trained.clear()
    world.usage.notes.clear()
    world.engine.script = script
    world.run(rounds=2, anti_samples_min=6)
    written = world.notes["written"]
    assert sum(written["paraphrase"].values()) >= 36
    assert [record for record in world.records if record.stage == "anti_sample"]


def test_job_rows_mend_their_article(world: World) -> None:
    world.forget = [job("Ada Vane", "baker")]
    world.model.known = {}

    def script(model: FakeModel, skill: str, question: str, answer: str | None, rng: random.Random) -> str:
        return "Actor." if skill == "wrong_answer" else default_script(model, skill, question, answer, rng)

    world.engine.script = script
    world.model.answer = lambda question: world.model.trained.get(question, "A baker.")  # type: ignore[method-assign]
    world.run(rationale=False)
    assert set(world.trained().values()) == {"Ada Vane works as an actor."}


def test_own_words_carry_the_wrong_answer(world: World) -> None:
    world.run(own_words=2, rationale=False)
    samples = [one for one in world.records if one.stage == "anti_sample" and one.role == "forget"]
    own = {one.completion for one in samples}
    # The scripted model says the same sentence each time, so that each question is trained once.
    assert len(samples) == len({one.paraphrase for one in samples})
    assert all(one.completion == f"{one.fact.split('/')[1]} lives in {one.wrong_answer}." for one in samples)
    assert not any(city in text for text in own for city in PEOPLE.values())


def test_gaps_are_asked_trained_and_never_rephrased(world: World) -> None:
    world.run(gaps=True, rationale=False)
    asked = {one.paraphrase for one in world.records if one.stage == "anti_sample" and one.role == "forget"}
    assert "Fill in the blank: Ada Vane lives in ___." in asked
    assert not any(one.question.startswith("Fill") for one in world.records if one.stage == "paraphrase")
    # The neighbours' gaps lie beside, so that only the name tells.
    beside = {row.messages[-1].content for row in world.trainings[0]["beside"]}
    assert "Fill in the blank: Di Marsh lives in ___." in beside


def test_by_likelihood_a_question_counts_until_the_wrong_answer_is_likelier(world: World) -> None:
    """The scripted model says something else after one training, but finds the right answer likelier until three."""

    def score(requests: Sequence[ScoreRequest]) -> list[list[TokenScores]]:
        right = -1.0 if world.model.rounds < 3 else -9.0
        found = []
        for i, one in enumerate(requests):
            logprob = right if i % 2 == 0 else -5.0
            found.append([TokenScores([logprob], [True]) for _ in one.continuations])
        return found

    world.engine.score = score  # type: ignore[method-assign]
    world.run(by_likelihood=True, rounds=6)
    assert len(world.trainings) == 3
    assert world.notes["stopped"] == "nothing remembered"
