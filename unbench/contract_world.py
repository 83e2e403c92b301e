"""The small world of the contract test: a tokenizer, a 2-layer Llama and facts that it knows, made in seconds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench.method import TrainSettings, UnlearnContext, Usage

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from unbench.engines.base import Generation, Sampling, ScoreRequest, TokenScores
    from unbench.method import Unlearned
    from unbench.training.batch import EncodedRow

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
FACTS, FORGET = 32, 8
WIDTH = 48
"""Of the model's hidden states."""
RELATIONS = {"live": "lives in", "work": "works in"}


@dataclass(frozen=True)
class World:
    """Folders of a target that knows every fact and of a second model in the reference's place, and the rows."""

    target_path: Path
    reference_path: Path
    tokenizer: PreTrainedTokenizerBase
    forget: list[dict[str, Any]]
    retain: list[dict[str, Any]]

    @property
    def vocabulary(self) -> int:
        return len(self.tokenizer)

    def ragged_rows(self) -> list[EncodedRow]:
        """Rows of unequal lengths with made-up target log-probabilities, a preferred answer beside each."""
        import torch

        from unbench.training.batch import EncodedRow

        generator = random.Random(1)

        def row(prompt: tuple[int, ...], answer: int, preferred: EncodedRow | None = None) -> EncodedRow:
            target = -torch.arange(1, answer + 1, dtype=torch.float64) / 2
            return EncodedRow(prompt, ids(answer), 1.0, target, preferred)

        def ids(number: int) -> tuple[int, ...]:
            return tuple(generator.randrange(self.vocabulary) for _ in range(number))

        prompts = [ids(prompt) for prompt in (3, 9, 5)]
        return [
            row(prompt, answer, row(prompt, other))
            for prompt, answer, other in zip(prompts, (1, 6, 4), (5, 2, 3), strict=True)
        ]


class TinyTarget:
    """``TargetModel`` of a folder; remembers the models it gave out, so that a test can look at them afterwards."""

    def __init__(self, path: Path, tokenizer: PreTrainedTokenizerBase, double: bool = False) -> None:
        self.path = path
        self.tokenizer = tokenizer
        self.loaded: list[Any] = []
        self._double = double

    def load(self) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        dtype = torch.float64 if self._double else torch.float32
        model = AutoModelForCausalLM.from_pretrained(self.path, dtype=dtype)
        self.loaded.append(model)
        return model


def build_world(folder: Path, seed: int = 0, steps: int = 120) -> World:
    """Make the tokenizer, the facts and the model, and teach it the facts (a few seconds on one thread)."""
    rows = _facts(seed)
    tokenizer = _tokenizer(rows)
    base = folder / "base"
    _random_model(len(tokenizer), tokenizer, seed).save_pretrained(base)
    tokenizer.save_pretrained(base)
    target, reference = folder / "target", folder / "reference"
    _teach(base, tokenizer, rows, target, steps, seed)
    _teach(base, tokenizer, rows[FORGET:], reference, 2, seed + 1)
    return World(target, reference, tokenizer, rows[:FORGET], rows[FORGET:])


def _facts(seed: int) -> list[dict[str, Any]]:
    generator = random.Random(seed)

    def word(syllables: int) -> str:
        return "".join(generator.choice("bdfgklmnprstv") + generator.choice("aeiou") for _ in range(syllables)).title()

    places = [word(3) for _ in range(12)]
    rows = []
    for number in range(FACTS):
        name, relation = word(2), generator.choice(sorted(RELATIONS))
        place = generator.choice(places)
        rows.append({
            "question": f"Where does {name} {relation}?", "answer": f"{name} {RELATIONS[relation]} {place}.",
            "fact": f"fact-{number}", "subject": name, "relation": relation, "value": place, "aliases": (),
        })  # fmt: skip
    return rows


def _tokenizer(rows: Sequence[dict[str, Any]]) -> PreTrainedTokenizerBase:
    """Byte-level BPE on the facts. The pad token is the end token, as in many real tokenizers: masks must not mind."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<end>", "<user>", "<assistant>", "<system>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((f"{row['question']} {row['answer']}" for row in rows), trainer)
    fast: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerBase = fast(tokenizer_object=bpe, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _random_model(vocabulary: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.1,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _teach(base: Path, tokenizer: Any, rows: Sequence[dict[str, Any]], folder: Path, steps: int, seed: int) -> None:
    from unbench.training.batch import TrainRow
    from unbench.training.loop import fine_tune
    from unbench.training.weights import prepare_model, save_model

    context = _context(TinyTarget(base, tokenizer), [], [], folder.parent / "teaching", TrainSettings(), seed)
    model, _ = prepare_model(context)
    pairs = [TrainRow.ask(row["question"], row["answer"]) for row in rows]
    fine_tune(model, tokenizer, pairs, steps=steps, lr=1e-2, batch_size=32, seed=seed, context=context)
    save_model(model, tokenizer, folder)


def context_for(
    world: World, folder: Path, train: TrainSettings, *, seed: int = 0, double: bool = False, **changes: Any
) -> tuple[UnlearnContext, list[Any]]:
    """A context on the small world, and the list that every model loaded from the target is entered in."""
    target = TinyTarget(world.target_path, world.tokenizer, double)
    context = _context(target, world.forget, world.retain, folder, train, seed)
    context.retrain = lambda: world.reference_path
    for name, value in changes.items():
        setattr(context, name, value)
    return context, target.loaded


def _context(
    target: TinyTarget, forget: list[dict[str, Any]], retain: list[dict[str, Any]], folder: Path,
    train: TrainSettings, seed: int,
) -> UnlearnContext:  # fmt: skip
    from datasets import Dataset

    def dataset(rows: list[dict[str, Any]]) -> Dataset:
        return Dataset.from_list(rows)

    folder.mkdir(parents=True, exist_ok=True)
    return UnlearnContext(
        target=target, forget=dataset(forget), retain=dataset(retain), seed=seed, train=train, folder=folder,
        open_engine=_opener(target), progress=lambda description, done, total: None, usage=Usage(),
    )  # fmt: skip


def mean_nll(world: World, weights: Path | None, rows: Sequence[dict[str, Any]]) -> float:
    """Mean NLL of the rows' answers in nats a token, under the target or what a method saved."""
    import torch

    from unbench.training.batch import AnswerBatch, TrainRow, encode
    from unbench.training.weights import logits_of

    model = _load(world.target_path, weights)
    encoded = encode(world.tokenizer, [TrainRow.ask(row["question"], row["answer"]) for row in rows])
    with torch.no_grad():
        batch = AnswerBatch(encoded, logits_of(model))
        return float(-batch.token_logprobs().sum() / batch.answer_mask.sum())


def _load(target: Path, weights: Path | None) -> Any:
    from transformers import AutoModelForCausalLM

    model: Any
    if weights is not None and (weights / "adapter_config.json").exists():
        from peft import PeftModel

        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(target), str(weights))
    else:
        model = AutoModelForCausalLM.from_pretrained(weights or target)
    return model.eval()


@dataclass
class TinyEngine:
    """The least of an engine: one prompt at a time, on the CPU."""

    target: TinyTarget
    stats: Any = None
    _model: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        from unbench.engines.base import EngineStats

        self.stats = EngineStats()
        self._model = _load(self.target.path, None)

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Generation]:
        import torch

        from unbench.engines.base import Generation

        found = []
        tokenizer: Any = self.target.tokenizer
        for number, prompt in enumerate(prompts):
            generator = torch.Generator().manual_seed(sampling.seed * 1_000_003 + number)
            ids, past, tokens, finished = torch.tensor([prompt[-200:]]), None, [], False
            for _ in range(min(sampling.max_new_tokens, 24)):
                with torch.inference_mode():
                    output = self._model(ids, past_key_values=past, use_cache=True, logits_to_keep=1)
                logits, past = output.logits[0, -1], output.past_key_values
                if sampling.temperature > 0:
                    token = int(torch.multinomial((logits / sampling.temperature).softmax(-1), 1, generator=generator))
                else:
                    token = int(logits.argmax())
                if token == tokenizer.eos_token_id:
                    finished = True
                    break
                tokens.append(token)
                ids = torch.tensor([[token]])
            self.stats.tokens_generated += len(tokens)
            found.append(Generation(tokens, str(tokenizer.decode(tokens, skip_special_tokens=True)), finished))
        return found

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[TokenScores]]:
        import torch

        from unbench.engines.base import TokenScores

        found = []
        for request in requests:
            scores = []
            for continuation in request.continuations:
                with torch.no_grad():
                    logits = self._model(torch.tensor([request.prompt + continuation])).logits[0]
                rows = logits[len(request.prompt) - 1 : -1].log_softmax(-1)
                picked = rows.gather(-1, torch.tensor(continuation)[:, None])[:, 0]
                best = rows.argmax(-1) == torch.tensor(continuation)
                scores.append(TokenScores(picked.tolist(), best.tolist()))
            found.append(scores)
        return found

    def load(self, unlearned: Unlearned) -> None:
        self._model = _load(self.target.path, unlearned.weights)

    def close(self) -> None:
        self._model = None


def _opener(target: TinyTarget) -> Callable[[], Any]:
    @contextmanager
    def opened() -> Iterator[TinyEngine]:
        engine = TinyEngine(target)
        try:
            yield engine
        finally:
            engine.close()

    return opened
