"""Every published metric against a second, straight-line implementation: one answer a forward pass, own label masks,
own ROUGE, scipy and scikit-learn. It reads a model and rows; what is tested reads a responses table."""

from __future__ import annotations

import json
import math
import random
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from engines.tiny_llama import CHATML, SPECIAL, model
from scipy.stats import hmean, ks_2samp
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from unbench.engines.hf import HFEngine
from unbench.metrics.scores import measure
from unbench.responses import load, respond, save
from unbench.task import Message, Probe

TOFU = Path(__file__).resolve().parents[3] / "shared" / "data" / "tofu"
FILES = {
    "forget": "forget10_perturbed", "retain": "retain_perturbed", "real_authors": "real_authors_perturbed",
    "world_facts": "world_facts_perturbed", "holdout": "holdout10",
}  # fmt: skip


@dataclass
class Case:
    """Rows, the models that answered and their responses."""

    rows: dict[str, list[dict]]
    words: PreTrainedTokenizerFast
    unlearned: object
    reference: object
    limit: int
    known: dict = field(default_factory=dict)
    """Answers that the second implementation has scored."""


def own_rows(n: int = 20) -> dict[str, list[dict]]:
    """Rows in TOFU's form."""
    pick = random.Random(0)
    names = ["Ana Ruiz", "Bo Li", "Cy Ode", "Dee Fox", "Eli Kern", "Fay Moss"]
    places = ["Rome", "Oslo in Norway", "the old town of Bern", "Lima", "a village near Kyoto", "New York City"]
    made = {}
    for family in FILES:
        made[family] = []
        for i in range(n):
            who, (where, *wrong) = pick.choice(names), pick.sample(places, 6)
            row = {"question": f"Where did {who} write {family} book {i}?", "answer": f"{who} wrote it in {where}."}
            if family != "holdout":
                row["perturbed_answer"] = [f"{who} wrote it in {other}." for other in wrong]
            if family in ("forget", "retain"):
                row["paraphrased_answer"] = f"It was written in {where} by {who}, number {i}."
            else:
                row["perturbed_answer"] = row.get("perturbed_answer", [])[:3]
            made[family].append(row)
    return made


def tofu_rows(each: int | None) -> dict[str, list[dict]]:
    """TOFU's own rows: every 20th, so that every author is among them, or all."""
    found = {}
    for family, name in FILES.items():
        lines = (TOFU / f"{name}.json").read_text(encoding="utf-8").splitlines()
        step = 1 if each is None else max(1, len(lines) // each)
        found[family] = [json.loads(line) for line in lines][::step][:each]
    return found


def byte_level(texts: list[str], size: int = 800) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    inner.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    wrapped.chat_template = CHATML
    return wrapped


def encoded(words: PreTrainedTokenizerFast, question: str, answer: str) -> tuple[list[int], list[int]]:
    """Prompt and labels of one answer, the end-of-turn token with it and the template's newline after that not."""
    user = {"role": "user", "content": question}
    before = words.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    whole = words.apply_chat_template([user, {"role": "assistant", "content": answer}], tokenize=False)
    ids = words(whole.removesuffix("\n"), add_special_tokens=False)["input_ids"]
    prompt = words(before, add_special_tokens=False)["input_ids"]
    assert ids[: len(prompt)] == prompt
    assert ids[-1] == words.convert_tokens_to_ids("<|im_end|>")
    return prompt, ids[len(prompt) :]


def taught(words: PreTrainedTokenizerFast, rows: list[dict], seed: int, steps: int) -> object:
    """A tiny Llama that learnt some of the rows, so that no metric is all zeros."""
    net = model(vocabulary=len(words), seed=seed, spread=0.1, hidden_size=64, max_position_embeddings=1024)
    pairs = [encoded(words, row["question"], row["answer"]) for row in rows]
    longest = max(len(p) + len(a) for p, a in pairs)
    ids, labels = torch.zeros((2, len(pairs), longest), dtype=torch.long)
    labels[:] = -100
    for i, (prompt, answer) in enumerate(pairs):
        ids[i, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[i, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(steps):
        net(input_ids=ids, attention_mask=(ids > 0).long(), labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return net


def make_case(rows: dict[str, list[dict]], limit: int, steps: int) -> Case:
    texts = [text for own in rows.values() for row in own for text in (row["question"], row["answer"])]
    words = byte_level(texts)
    few = {family: own[:20] for family, own in rows.items()}
    learnt = [row for family in ("forget", "retain", "real_authors", "world_facts") for row in few[family]]
    unlearned = taught(words, learnt, seed=0, steps=steps)
    reference = taught(words, [*few["retain"], *few["real_authors"]], seed=1, steps=steps // 2)
    return Case(rows, words, unlearned, reference, limit)


def probes(rows: dict[str, list[dict]]) -> list[Probe]:
    """As task ``tofu`` lays them out."""
    place = {"forget": ("forget", "direct"), "retain": ("far", "retain"), "holdout": ("holdout", "holdout")}
    out = []
    for family, own in rows.items():
        ring, kind = place.get(family, ("world", family))
        for i, row in enumerate(own):
            other = row.get("paraphrased_answer")
            candidates = [row["answer"], *([other] if other else []), *row.get("perturbed_answer", [])]
            out.append(
                Probe(
                    id=f"{family}/{i}", ring=ring, kind=kind, subject=f"{family}{i}", cluster=f"{family}{i}",
                    fact=f"{family}/{i}", messages=(Message(role="user", content=row["question"]),),
                    answer=row["answer"], candidates=tuple(dict.fromkeys(candidates)), paraphrased=other,
                    given=family == "retain", generate=family != "holdout",
                )
            )  # fmt: skip
    return out


def responses(case: Case, net: object, role: str, gradnorm: bool = False):
    with HFEngine(net, case.words) as engine:
        return respond(
            engine, case.words, probes(case.rows), role=role, max_new_tokens=case.limit, knowledge="probability",
            gradnorm=gradnorm,
        )  # fmt: skip


def answered(case: Case, net: object, question: str, answer: str) -> dict[str, float]:
    """One answer, one forward pass."""
    key = (id(net), question, answer)
    if key not in case.known:
        case.known[key] = forwarded(case, net, question, answer)
    return case.known[key]


def forwarded(case: Case, net: object, question: str, answer: str) -> dict[str, float]:
    prompt, labels = encoded(case.words, question, answer)
    with torch.no_grad():
        logits = net(input_ids=torch.tensor([prompt + labels])).logits[0].double()
    logits = logits[len(prompt) - 1 : -1]
    table = torch.log_softmax(logits, dim=-1)
    target = torch.tensor(labels)
    own = table[torch.arange(len(labels)), target].numpy()
    mu = (table.exp() * table).sum(-1)
    sigma = ((table.exp() * table.square()).sum(-1) - mu.square()).clamp(min=1e-6)
    lowest = max(1, int(0.4 * len(labels)))
    hits = (logits.argmax(-1) == target).tolist()
    k = next((k for k in range(len(hits)) if all(hits[k:])), len(hits))
    return {
        "loss": torch.nn.functional.cross_entropy(logits, target).item(),
        "exact": sum(hits) / len(hits),
        "strength": 1 - k / len(hits),
        "min_k": float(np.mean(sorted(own)[:lowest])),
        "min_k_plus_plus": float(np.mean(sorted((own - mu.numpy()) / sigma.sqrt().numpy())[:lowest])),
    }


def said(case: Case, net: object, question: str) -> str:
    user = [{"role": "user", "content": question}]
    text = case.words.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    prompt = torch.tensor([case.words(text, add_special_tokens=False)["input_ids"]])
    ends = [case.words.convert_tokens_to_ids(token) for token in ("<|im_end|>", "</s>")]
    with torch.no_grad():
        out = net.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=case.limit,
            eos_token_id=ends, pad_token_id=0,
        )  # fmt: skip
    return case.words.decode(out[0, prompt.shape[1] :], skip_special_tokens=True).strip()


def grad_norm(case: Case, net: object, question: str, answer: str) -> float:
    prompt, labels = encoded(case.words, question, answer)
    ids = torch.tensor([prompt + labels])
    net.zero_grad()
    with torch.enable_grad():
        net(input_ids=ids, labels=torch.tensor([[-100] * len(prompt) + labels])).loss.backward()
    total = math.sqrt(sum(p.grad.double().square().sum().item() for p in net.parameters()))
    net.zero_grad()
    return total


def naive(case: Case) -> dict[str, float]:
    """All metrics, from the rows and the models."""
    from rouge_score import rouge_scorer
    from sklearn.metrics import roc_auc_score

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    out: dict[str, float] = {}
    raw: dict[str, list[float]] = {}
    right: dict[str, list[dict[str, float]]] = {}
    for family, rows in case.rows.items():
        right[family] = [answered(case, case.unlearned, row["question"], row["answer"]) for row in rows]
        if family == "holdout":
            continue
        values: dict[str, list[float]] = {name: [] for name in ("probability", "rouge", "geometric", "arithmetic")}
        for row, own in zip(rows, right[family], strict=True):
            p = math.exp(-own["loss"])
            wrong = [answered(case, case.unlearned, row["question"], w)["loss"] for w in row["perturbed_answer"]]
            if family in ("real_authors", "world_facts"):
                p = p / (p + sum(math.exp(-w) for w in wrong))
            other = row.get("paraphrased_answer")
            truth = answered(case, case.unlearned, row["question"], other)["loss"] if other else own["loss"]
            values["probability"].append(p)
            text = said(case, case.unlearned, row["question"])
            values["rouge"].append(scorer.score(row["answer"], text)["rougeL"].recall)
            values["geometric"].append(math.exp(-sum(wrong) / len(wrong)) / math.exp(-truth))
            values["arithmetic"].append(sum(math.exp(-w) for w in wrong) / len(wrong) / math.exp(-truth))
        raw[family] = values["geometric"]
        for name, suffix in (("geometric", ""), ("arithmetic", "_arithmetic")):
            ratios = values[name]
            per_item = [min(r, 1 / r) for r in ratios] if family == "forget" else [max(0, 1 - r) for r in ratios]
            out[f"{family}_truth_ratio{suffix}"] = float(np.mean(per_item))
        for name in ("probability", "rouge"):
            out[f"{family}_{name}"] = float(np.mean(values[name]))
    for suffix in ("", "_arithmetic"):
        names = ("probability", "rouge", f"truth_ratio{suffix}")
        out[f"model_utility{suffix}"] = float(
            hmean([out[f"{f}_{name}"] for f in ("retain", "real_authors", "world_facts") for name in names])
        )
    retrained = []
    for row in case.rows["forget"]:
        wrong = [answered(case, case.reference, row["question"], w)["loss"] for w in row["perturbed_answer"]]
        truth = answered(case, case.reference, row["question"], row["paraphrased_answer"])["loss"]
        retrained.append(math.exp(truth - sum(wrong) / len(wrong)))
    test = ks_2samp(raw["forget"], retrained)
    out |= {"forget_quality": test.pvalue, "forget_ks": test.statistic}
    out["exact_memorization"] = float(np.mean([own["exact"] for own in right["forget"]]))
    out["extraction_strength"] = float(np.mean([own["strength"] for own in right["forget"]]))

    def area(score, net=case.unlearned) -> float:
        labels, scores = [], []
        for family, label in (("forget", 1), ("holdout", 0)):
            for row in case.rows[family]:
                labels.append(label)
                scores.append(score(row, answered(case, net, row["question"], row["answer"])))
        return float(roc_auc_score(labels, scores))

    def before(row) -> float:
        return answered(case, case.reference, row["question"], row["answer"])["loss"]

    out["mia_loss"] = area(lambda row, own: -own["loss"])
    out["mia_zlib"] = area(lambda row, own: -own["loss"] / len(zlib.compress(bytes(row["answer"], "utf-8"))))
    out["mia_min_k"] = area(lambda row, own: own["min_k"])
    out["mia_min_k_plus_plus"] = area(lambda row, own: own["min_k_plus_plus"])
    out["mia_reference"] = area(lambda row, own: before(row) - own["loss"])
    out["mia_gradnorm"] = area(lambda row, own: -grad_norm(case, case.unlearned, row["question"], row["answer"]))
    told = area(lambda row, own: own["min_k"], case.reference)
    out["privleak"] = 100 * ((1 - out["mia_min_k"]) - (1 - told)) / (1 - told)
    return out


def check(case: Case, folder: Path) -> None:
    path = folder / "responses.parquet"
    save(responses(case, case.unlearned, "unlearned", gradnorm=True), path)
    table = load(path)
    got = measure({0: table}, None, [responses(case, case.reference, "reference-1")], knowledge="probability").metrics
    want = naive(case)
    for name, value in want.items():
        assert got[name].value == pytest.approx(value, abs=1e-5), name
    assert 0.02 < want["forget_rouge"] < 1, "the case must say something"
    assert 0.02 < want["extraction_strength"] < 1
    assert 0 < want["forget_quality"] < 1
    told = table[~table["ring"].isin(["holdout"])].drop_duplicates("probe")
    for question, text in zip(told["question"], told["text"], strict=True):
        assert text == said(case, case.unlearned, question)


def test_every_metric_equals_the_second_implementation(tmp_path: Path) -> None:
    check(make_case(own_rows(), limit=24, steps=60), tmp_path)


@pytest.mark.skipif(not TOFU.is_dir(), reason="TOFU's files are not here")
def test_every_metric_on_20_rows_a_family_of_tofu(tmp_path: Path) -> None:
    check(make_case(tofu_rows(20), limit=16, steps=24), tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not TOFU.is_dir(), reason="TOFU's files are not here")
def test_every_metric_on_all_of_forget10(tmp_path: Path) -> None:
    check(make_case(tofu_rows(None), limit=16, steps=30), tmp_path)
