"""A small leaderboard of made-up answers, and the tools of somebody who tampers with it."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unbench.match import holds
from unbench.method import TrainSettings
from unbench.plan import Plan, identity_of
from unbench.pluginfile import PluginFile
from unbench.responses import table_of
from unbench.results.schema import AttackResult, Result, Score
from unbench.submissions import files as names
from unbench.submissions.check import computed
from unbench.submissions.read import open_submission
from unbench.submissions.rows import (
    Of,
    Own,
    read_attacks,
    read_rows,
    write_attacks,
    write_rows,
)
from unbench.submissions.schema import SCORED, Submission, Yardstick
from unbench.submissions.score import Tried, score_rows
from unbench.submissions.strict import pack
from unbench.submissions.yardstick import (
    Lock,
    LockedAttack,
    LockedModel,
    LockedTask,
    Measuring,
    Yardsticks,
    asked_by_attacks,
    attack_file,
    model_folder,
    probes_content,
    sha256,
    write_lock,
)
from unbench.task import Knowledge, Message, Probe, canonical_json

TASK = "bios/fact"
TASK_HASH, MODEL_HASH = "a" * 64, "b" * 64
SEEDS = (0, 1)
TRAIN = TrainSettings()
FACTS = 12
WORDS = ("Basel", "Cork", "Delft", "Essen", "Faro", "Ghent", "Hull", "Imola", "Jena", "Kiel", "Lyon", "Metz")


def probes_of(knowledge: Knowledge = "candidates", *, pairs: bool = False) -> tuple[Probe, ...]:
    """Invented probes of every ring; ``pairs``: of the forget ring some as yes/no pairs too."""
    found = []

    def add(ring: str, kind: str, number: int, given: bool = False, **more: Any) -> None:
        who = f"{ring[:2]}{number}"
        cluster = f"fo{number % FACTS}" if ring in ("forget", "near") else who
        question = f"Where does {kind} {who} live?"
        body: dict[str, Any] = {
            "id": f"{ring}/{kind}/{number}", "ring": ring, "kind": kind, "subject": who, "cluster": cluster,
            "fact": f"{cluster}/home" if ring == "forget" else f"{who}/{kind}", "given": given,
            "messages": (Message(role="user", content=question),), "answer": WORDS[number % 12],
            "candidates": tuple(WORDS[(number + step) % 12] for step in range(10)),
        } | more  # fmt: skip
        found.append(Probe(**body))

    for number in range(FACTS):
        add("forget", "direct", number)
        add("forget", "paraphrase", number, paraphrased=WORDS[(number + 1) % 12])
        if pairs:
            pair = f"forget/yesno/{number}"
            for answer in ("Yes", "No"):
                add("forget", "yesno", number, id=f"{pair}/{answer}", pair=pair, answer=answer,
                    candidates=("Yes", "No"))  # fmt: skip
        add("near", "same_subject", number, given=number % 3 == 0)
        add("near", "same_answer", number)
    for number in range(6):
        add("far", "far" if knowledge == "candidates" else "retain", number, given=number % 2 == 0)
        add("world", "world" if knowledge == "candidates" else ("real_authors", "world_facts")[number % 2], number)
        add("holdout", "holdout", number)
    return tuple(found)


def frame_of(
    probes: Sequence[Probe], role: str, known: Mapping[str, float], seed: int, *, tokens: bool = False
) -> pd.DataFrame:
    """What a made-up model answers: it favours the right candidate by so many nats, by ring."""
    draw = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {}
    for probe in probes:
        lift = known.get(probe.ring, 0.0)
        scores = draw.normal(size=len(probe.candidates)) - 3.0
        scores[probe.candidates.index(probe.answer)] += lift
        logprobs = scores - np.logaddexp.reduce(scores)
        text = f"It is {probe.answer if draw.random() < lift / 4 else probe.candidates[1]}."
        question, finished = probe.messages[-1].content, bool(draw.random() < 0.95)
        for i, candidate in enumerate(probe.candidates):
            right = candidate == probe.answer
            n = 2 + i % 3
            parts = np.round(draw.dirichlet(np.ones(n)) * float(logprobs[i]), 6).tolist()
            row = {
                "role": role, "probe": probe.id, "ring": probe.ring, "kind": probe.kind, "subject": probe.subject,
                "cluster": probe.cluster, "fact": probe.fact, "given": probe.given, "pair": probe.pair,
                "continuation": i, "candidate": candidate, "is_right": right,
                "is_paraphrase": candidate == probe.paraphrased,
                "logprob": float(sum(parts)) if tokens else float(logprobs[i]), "n_tokens": n,
                "token_logprobs": parts, "token_argmax": [part > -0.5 for part in parts],
                "token_mean": [-9.25] * n if right else None, "token_variance": [3.5] * n if right else None,
                "question": question, "text": text, "finished": finished,
                "recalled": holds(text, (probe.answer, *probe.accept), question),
            }  # fmt: skip
            if tokens:
                row["gradnorm"] = float(draw.random()) if right and probe.ring in ("forget", "holdout") else None
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
    return table_of(columns)


def attack_table(probes: Mapping[str, Probe], role_known: float, own: bool, seed: int) -> pd.DataFrame:
    """What an attack of two strengths finds."""
    draw = np.random.default_rng(seed)
    rows = []
    for strength in (4.0, 8.0):
        for id_, probe in probes.items():
            known = role_known * (strength / 8) + 0.05 * draw.normal()
            rows.append({
                "series": "bits" if not own else "", "strength": strength, "counted": True, "own": own, "probe": id_,
                "kind": probe.kind, "cluster": probe.cluster, "fact": probe.fact, "known": known, "rank": 0.0,
                "recall": 0.0,
            })  # fmt: skip
    return pd.DataFrame(rows)


TARGET = {"forget": 6.0, "near": 6.0, "far": 6.0, "world": 5.0}
REFERENCE = {"near": 5.0, "far": 5.0, "world": 5.0}
UNLEARNED = {"forget": 1.5, "near": 4.5, "far": 5.5, "world": 5.0}
ATTACKS = (("unbench:quantize", "weights", False), ("unbench:sample", "decoding", True))
SOURCE = """from pathlib import Path

Path({sentinel!r}).write_text("it ran")
"""
"""A method that tells on whoever runs it."""


@dataclass
class World:
    """A leaderboard's folder and its yardstick."""

    root: Path

    @property
    def submissions(self) -> Path:
        return self.root / "submissions"

    def yard(self) -> Measuring:
        sticks = Yardsticks(self.root)
        task = sticks.lock.tasks[0]
        return sticks.read(task, task.models[0])


def build_world(root: Path) -> World:
    """The lock with one task version: a target, three references, two attacks on them."""
    probes = probes_of()
    frames: dict[Of, pd.DataFrame] = {"target": frame_of(probes, "target", TARGET, 1)}
    frames |= {f"reference-{k}": frame_of(probes, f"reference-{k}", REFERENCE, 10 + k) for k in (1, 2, 3)}
    answers = write_rows(frames, {}, probes, "candidates")
    content = probes_content(probes)
    task = LockedTask(task=TASK, version="1", task_hash=TASK_HASH, knowledge="candidates", target="trained",
                      probes=sha256(content))  # fmt: skip
    model = LockedModel(model="nano", model_hash=MODEL_HASH, references=["c" * 64], responses=sha256(answers))
    task.models.append(model)
    folder = model_folder(root, task, model)
    found = {root / "references" / task.folder / "probes.jsonl.gz": content, folder / "responses.jsonl.gz": answers}
    asked = asked_by_attacks(probes, frames["target"], task)
    for number, (name, kind, own) in enumerate(ATTACKS):
        tables = {"reference": attack_table(asked, 0.05, own, 20 + number)}
        if own:
            tables["target"] = attack_table(asked, 0.9, own, 30 + number)
        packed = write_attacks({name: tables})
        entry = LockedAttack(name=name, kind=kind, config={"strengths": [4, 8]}, source="d" * 64,
                             train=TRAIN.model_dump(mode="json"), sha256=sha256(packed))  # fmt: skip
        model.attacks.append(entry)
        found[attack_file(folder, entry)] = packed
    for path, one in found.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one)
    write_lock(root, Lock(tasks=[task]))
    return World(root)


def submit(
    world: World,
    *,
    method: str = "unbench:altpo",
    source: str | None = None,
    seeds: Sequence[int] = SEEDS,
    known: Mapping[str, float] = UNLEARNED,
    first: int = 100,
    **said: Any,
) -> Path:
    """A submission of made-up answers, through the code that packs real ones; returns its folder."""
    yard = world.yard()
    plan = plan_of(method, source, seeds)
    frames: dict[Of, pd.DataFrame] = {seed: frame_of(yard.probes, "unlearned", known, first + seed) for seed in seeds}
    asked = [probe.id for probe in yard.probes if probe.ring == "forget"]
    taught = {"fo0/home": ["It is Delft.", "I don't know."]}
    rows = write_rows(frames, {seed: Own(taught, tuple(asked[:2])) for seed in seeds}, yard.probes, "candidates")
    attacks = write_attacks({
        name: {seed: attack_table(yard.asked, 0.4, own, first + 50 + seed) for seed in seeds}
        for name, _, own in ATTACKS
    })  # fmt: skip
    contents = {names.PLAN_FILE: names.dump(plan.public()), names.ROWS_FILE: rows, names.ATTACKS_FILE: attacks}
    if source is not None:
        contents[names.METHOD_FILE] = source.encode()
    body = body_of(world, yard, plan, contents, said)
    folder = world.submissions / names.Place(TASK, method.rpartition(":")[2], plan.run_id).path
    folder.mkdir(parents=True)
    for name, content in (contents | {names.SUBMISSION_FILE: names.dump(body)}).items():
        (folder / name).write_bytes(content)
    return folder


def plan_of(method: str, source: str | None, seeds: Sequence[int]) -> Plan:
    files = ()
    if source is not None:
        files = (PluginFile(name="method.py", hash=sha256(source.encode()), path="elsewhere/method.py"),)
    return Plan(
        schema="unbench.plan/1", method=method, config={"lr": 0.0005, "steps": 150, "name": "plain"}, task=TASK,
        task_version="1", task_hash=TASK_HASH, model="nano", train=TRAIN, seeds=tuple(seeds), plugins=files,
        attacks=tuple(name for name, _, _ in ATTACKS),
    )  # fmt: skip


def body_of(
    world: World, yard: Measuring, plan: Plan, contents: Mapping[str, bytes], said: Mapping[str, Any]
) -> dict[str, Any]:
    """``submission.json`` as it should be."""
    null = Score(value=None)
    tried = [
        Tried(one, AttackResult(name=one.name, kind=one.kind, config=one.config, forget=null, wall_s=1.5,
                                notes={"seed-0": "slow"}, method_hash=one.source))
        for one in yard.model.attacks
    ]  # fmt: skip
    read = read_rows(contents[names.ROWS_FILE], yard.probes, "candidates")
    attacked = read_attacks(contents[names.ATTACKS_FILE], yard.asked)
    scored = score_rows(read, attacked, tried, yard).fields()
    ranking = scored.pop("ranking")
    compute = dict.fromkeys(("wall_s", "prepare_s", "unlearn_s", "respond_s", "measure_s"), 1.5)
    compute |= dict.fromkeys(("peak_memory_bytes", "tokens_trained", "tokens_generated", "trainable_parameters"), 1000)
    method = sha256(contents[names.METHOD_FILE]) if names.METHOD_FILE in contents else "e" * 64
    result = Result.model_validate({
        "run_id": plan.run_id, "method": plan.method, "task": TASK, "split": "report", "model": "nano",
        "seeds": list(plan.seeds), **{name: scored[name] for name in SCORED}, "compute": compute,
        "plan": plan.public(), "versions": {"unbench": "0.1.0"}, "device": "CPU, 2 cores", "dtype": "float32",
        "hashes": {"task": TASK_HASH, "model": MODEL_HASH, "method": method, "references": ["c" * 64]},
        "code": {"commit": "1" * 40, "dirty": False}, "created_utc": "2026-01-02T03:04:05+00:00",
    })  # fmt: skip
    submission = Submission.model_validate({
        "schema": "unbench.submission/1", "result": result, "ranking": ranking,
        "method": {"name": plan.method, "version": "0.1.0", "source": method, "title": "A method", "kind": "loss"},
        "yardstick": Yardstick(
            task_hash=TASK_HASH, model_hash=MODEL_HASH, responses=yard.model.responses,
            attacks={one.name: one.sha256 for one in yard.model.attacks},
        ),
        "files": {name: sha256(content) for name, content in sorted(contents.items())},
        "command": "unbench run --method altpo", "submitter": "A. Researcher", **said,
    })  # fmt: skip
    return submission.model_dump(mode="json", by_alias=True)


class Forged:
    """A submission in the hands of a tamperer who knows how everything is checked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = next(one.parent for one in folder.parents if one.name == "submissions")
        self.body: dict[str, Any] = json.loads((folder / names.SUBMISSION_FILE).read_bytes())
        self.plan: dict[str, Any] = json.loads((folder / names.PLAN_FILE).read_bytes())

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = self.body["result"]
        return found

    def lines(self, name: str = names.ROWS_FILE) -> list[Any]:
        """The lines of a packed file."""
        return [json.loads(line) for line in gzip.decompress((self.folder / name).read_bytes()).splitlines()]

    def put_lines(self, lines: Sequence[Any], name: str = names.ROWS_FILE) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
        self.put(pack(text.encode()), name)

    def put(self, content: bytes, name: str = names.ROWS_FILE) -> None:
        """Another file, named with its hash as the honest one was."""
        (self.folder / name).write_bytes(content)
        self.body["files"][name] = sha256(content)

    def identify(self) -> None:
        """The plan's own run-id and place, for a plan that was changed."""
        own = hashlib.sha256(canonical_json(identity_of(self.plan)).encode()).hexdigest()[:12]
        self.result["run_id"], self.result["plan"] = own, self.plan
        self.put(names.dump(self.plan), names.PLAN_FILE)
        method = str(self.result["method"]).rpartition(":")[2]
        place = self.root / "submissions" / str(self.result["task"]) / method / own
        if place != self.folder and ".." not in place.parts and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(self.folder, place)
            self.folder = place

    def rescore(self) -> None:
        """Numbers that follow from the rows as they are now."""
        self.seal()
        opened = open_submission(self.folder)
        found = computed(opened, Yardsticks(self.root).find(TASK, opened.submission.yardstick))
        self.body["ranking"] = found.pop("ranking")
        self.result.update({name: found[name] for name in SCORED})

    def seal(self) -> Path:
        """Write ``submission.json``."""
        (self.folder / names.SUBMISSION_FILE).write_bytes(names.dump(self.body))
        return self.folder

    def raw(self, old: str, new: str) -> None:
        """Change the text of ``submission.json`` once, where ``json.dumps`` would not write such a thing."""
        text = self.seal().joinpath(names.SUBMISSION_FILE).read_text()
        assert text.count(old) >= 1, old
        (self.folder / names.SUBMISSION_FILE).write_text(text.replace(old, new, 1))
