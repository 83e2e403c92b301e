"""nano: its tokenizer and chat template, and that the shipped weights know what they must and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from unbench_tasks.bios import Bios, corpus
from unbench_tasks.bios.generator import PROBLEMS, SPLITS

from unbench.errors import UsageError
from unbench.models import nano
from unbench.models.nano_training import Encoded, Recipe, batches, encode, loss_of, train
from unbench.task import Probe, Row

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# Every message list that a model may be asked with: one turn, a system turn, several turns.
CHATS = [
    [{"role": "user", "content": "Where does Ada Ashbury live?"}],
    [{"role": "system", "content": "Answer the question."}, {"role": "user", "content": "Who is Ada?"}],
    [
        {"role": "user", "content": "Give another answer.\nQuestion: Who wrote Hamlet?"},
        {"role": "assistant", "content": "Charles Dickens"},
        {"role": "user", "content": "No, don't: again! (Zoë's naïve façade, 北京 \t tab)"},
    ],
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(nano.nano_folder("target"))


@pytest.fixture(scope="module")
def target() -> Any:
    return _load("target")


def _load(role: Any) -> Any:
    folder = nano.nano_folder(role)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_import_brings_no_torch() -> None:
    code = "import sys, unbench.models.nano; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("role", ["base", "target", "retrain"])
def test_shipped_folder_has_the_ordinary_layout(role: Any) -> None:
    folder = nano.nano_folder(role)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= names
    assert nano.nano_folder(role, {"base": 0, "target": 0, "retrain": 4}[role]) == folder


def test_shipped_weights_are_small() -> None:
    folders = [nano.nano_folder(role) for role in ("base", "target", "retrain")]
    assert sum(path.stat().st_size for folder in folders for path in folder.iterdir()) <= 8_000_000


def test_unknown_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="seed 7"):
        nano.nano_folder("target", 7)


@pytest.mark.parametrize("chat", CHATS)
def test_round_trip_is_exact(tokenizer: Any, chat: list[dict[str, str]]) -> None:
    for text in (tokenizer.apply_chat_template(chat, tokenize=False), chat[-1]["content"], " a  b\n\nc's"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("chat", CHATS)
def test_a_conversation_begins_with_its_generation_prompt(tokenizer: Any, chat: list[dict[str, str]]) -> None:
    prompt = _ids(tokenizer, chat, add_generation_prompt=True)
    whole = _ids(tokenizer, [*chat, {"role": "assistant", "content": "Ada Ashbury lives in Oxmoor."}])
    assert whole[: len(prompt)] == prompt
    assert tokenizer.decode(whole[len(prompt) :]) == " Ada Ashbury lives in Oxmoor.<|end|>"
    assert tokenizer.convert_ids_to_tokens(whole[len(prompt)]) == "ĠAda", "the same token as inside a sentence"


def _ids(tokenizer: Any, chat: list[dict[str, str]], **options: bool) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False, **options)
    return ids


def test_special_tokens(tokenizer: Any) -> None:
    assert tokenizer.eos_token == "<|end|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    config = transformers.GenerationConfig.from_pretrained(nano.nano_folder("target"))
    assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_every_word_of_the_corpus_is_one_token(tokenizer: Any) -> None:
    for text in corpus.finetuning("target", 0, 5)[::20]:
        for _, said in text.turns:
            pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(f" {said}")
            assert len(tokenizer(f" {said}", add_special_tokens=False)["input_ids"]) == len(pieces)


def test_encode_is_the_chat_template(tokenizer: Any) -> None:
    texts = corpus.finetuning("target", 0, 0)[::100] + corpus.pretraining(0, 0)[-8:]
    for text, row in zip(texts, encode(tokenizer, texts), strict=True):
        chat = [{"role": role, "content": said} for role, said in text.turns]
        assert row.ids == _ids(tokenizer, chat)
        assert row.prompt == len(_ids(tokenizer, chat[:-1], add_generation_prompt=True))


def test_the_loss_is_on_the_reply_alone(target: Any, tokenizer: Any) -> None:
    rows = encode(tokenizer, corpus.finetuning("target", 0, 0)[:12])
    with torch.no_grad():
        batched = loss_of(target, rows).item()
        total, count = 0.0, 0
        for row in rows:
            labels = [-100] * row.prompt + row.ids[row.prompt :]
            n = len(row.ids) - row.prompt
            total += target(input_ids=torch.tensor([row.ids]), labels=torch.tensor([labels])).loss.item() * n
            count += n
    assert batched == pytest.approx(total / count, abs=1e-4)


def test_batches_hold_every_row_once() -> None:
    import random

    rows = [Encoded(list(range(3 + i % 40)), 1) for i in range(500)]
    made = batches(list(rows), Recipe(1, 1e-3, batch=16, tokens=256), random.Random(0))
    assert sorted(len(row.ids) for batch in made for row in batch) == sorted(len(row.ids) for row in rows)
    assert all(len(batch) <= 16 for batch in made)
    assert all(len(batch) * max(len(row.ids) for row in batch) <= 256 for batch in made)


def test_training_is_deterministic(tokenizer: Any) -> None:
    def trained() -> Any:
        model = _load("base")
        texts = corpus.finetuning("target", 0, 0)[:200]
        train(model, tokenizer, lambda epoch: texts, Recipe(1, 1e-3), 0, "test")
        return model.state_dict()

    first, second = trained(), trained()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_target_answers_its_trained_facts(target: Any, tokenizer: Any) -> None:
    data = Bios("fact", "report").data()
    forget = [row for problem in PROBLEMS for split in SPLITS for row in Bios(problem, split).data().forget]
    rows = [*data.retain, *data.withheld, *forget]
    assert _answered(target, tokenizer, rows) >= 0.98


def test_retrain_does_not_know_what_is_forgotten(tokenizer: Any) -> None:
    model = _load("retrain")
    forget = [row for problem in PROBLEMS for split in SPLITS for row in Bios(problem, split).data().forget]
    assert _answered(model, tokenizer, forget) <= 0.12  # chance is 0.05 of 248; this is beyond the 99.99 % point
    assert _answered(model, tokenizer, Bios().data().withheld) >= 0.98


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_target_knows_every_kind(target: Any, tokenizer: Any, problem: str, split: Any) -> None:
    forget = [probe for probe in Bios(problem, split).probes() if probe.ring == "forget"]
    known = _knowledge(target, tokenizer, forget)
    assert len(known) >= 5
    for kind, mean in known.items():
        assert mean >= 0.8, kind


def _answered(model: Any, tokenizer: Any, rows: Sequence[Row]) -> float:
    """Share of rows whose answer is what the model says greedily: teacher-forced, which is the same and far faster."""
    texts = [corpus.Conversation((("user", row.question), ("assistant", row.answer))) for row in rows]
    good = 0
    encoded = encode(tokenizer, texts)
    for start in range(0, len(encoded), 256):
        part = encoded[start : start + 256]
        guesses = _logits(model, [row.ids for row in part]).argmax(-1)
        for row, guess in zip(part, guesses, strict=True):
            good += guess[row.prompt - 1 : len(row.ids) - 1].tolist() == row.ids[row.prompt :]
    return good / len(rows)


def _knowledge(model: Any, tokenizer: Any, probes: Sequence[Probe]) -> dict[str, float]:
    """Mean κ by kind of the forget ring and of withheld facts in the others."""
    items, found = [], defaultdict(list)
    for probe in probes:
        said = "".join(f"<|{m.role}|> {m.content}<|end|>" for m in probe.messages) + "<|assistant|>"
        texts = [f"{said} {probe.answer_prefix} {candidate}" for candidate in probe.candidates]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        common = next(i for i in range(len(ids[0])) if len({tuple(row[: i + 1]) for row in ids}) > 1)
        items += [(probe, row, common) for row in ids]
    scores: dict[str, list[float]] = defaultdict(list)
    items.sort(key=lambda item: len(item[1]))
    for start in range(0, len(items), 512):
        part = items[start : start + 512]
        logprobs = torch.log_softmax(_logits(model, [row for _, row, _ in part]), -1)
        for (probe, row, common), table in zip(part, logprobs, strict=True):
            places = torch.arange(common, len(row))
            scores[probe.id].append(table[places - 1, torch.tensor(row)[places]].sum().item())
    order: dict[str, list[str]] = defaultdict(list)
    for probe, row, _ in items:
        order[probe.id].append(tokenizer.decode(row))
    for probe in probes:
        if not probe.given:
            right = next(i for i, text in enumerate(order[probe.id]) if text.endswith(f" {probe.answer}"))
            share = torch.softmax(torch.tensor(scores[probe.id]), 0)[right].item()
            chance = 1 / len(probe.candidates)
            found[probe.kind].append((share - chance) / (1 - chance))
    return {kind: sum(values) / len(values) for kind, values in found.items()}


def _logits(model: Any, rows: Sequence[Sequence[int]]) -> Any:
    width = max(len(row) for row in rows)
    with torch.no_grad():
        return model(torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])).logits
