"""A task of sixteen invented facts, and a small random Llama that can learn them: for tests of prepared pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from unbench import plugins
from unbench.task import Knowledge, Message, Probe, Row, Task, TaskCard, TaskData

NAMES = ["Abo", "Bemi", "Cado", "Dilu", "Enga", "Fopu", "Giri", "Hamo", "Ibu", "Jolo", "Kaze", "Lumi", "Mado", "Nipi",
         "Oru", "Pelo"]  # fmt: skip
PLACES = ["Tarn", "Welk", "Ostri", "Vanta", "Quill", "Zemm", "Yarrow", "Xilo"]
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def question(number: int) -> str:
    return f"Where does {NAMES[number]} live?"


def answer(number: int, shift: int = 0) -> str:
    return f"{NAMES[number]} lives in {PLACES[(3 * number + shift) % len(PLACES)]}."


def row(number: int) -> Row:
    return Row(question=question(number), answer=answer(number), fact=f"fact-{number}", subject=NAMES[number])


def probe(number: int, ring: Any, kind: str, **more: Any) -> Probe:
    wrong = [answer(number, shift) for shift in (1, 2, 3)]
    return Probe(
        id=f"{ring}-{number}", ring=ring, kind=kind, subject=NAMES[number], cluster=NAMES[number],
        fact=f"fact-{number}", messages=(Message(role="user", content=question(number)),), answer=answer(number),
        candidates=(answer(number), *wrong), **more,
    )  # fmt: skip


class Small(Task):
    """``small/first`` forgets facts 0 to 5, ``small/last`` facts 6 to 11; 12 and 13 are far, 14 and 15 strangers.

    Both problems train their target on the same fourteen rows.
    """

    family: ClassVar[str] = "small"
    version: ClassVar[str] = "1"
    default_problem: ClassVar[str] = "first"
    default_model: ClassVar[str] = "owner/base"
    knowledge: ClassVar[Knowledge] = "probability"
    max_new_tokens: ClassVar[int] = 16
    takes_data_dir: ClassVar[bool] = True
    card: ClassVar[TaskCard] = TaskCard(
        "Small", "Invented.", bibtex="", licence="MIT", problems={"first": "", "last": ""}
    )

    def _numbers(self) -> tuple[range, list[int]]:
        forget = range(6) if self.problem == "first" else range(6, 12)
        return forget, [n for n in range(14) if n not in forget]

    def data(self) -> TaskData:
        forget, kept = self._numbers()
        if self.data_dir is not None:
            self.sources["rows"] = "0" * 64
        return TaskData(
            forget=tuple(map(row, forget)), retain=tuple(map(row, kept[:4])), withheld=tuple(map(row, kept[4:])),
            holdout=(row(14), row(15)),
        )  # fmt: skip

    def probes(self) -> Sequence[Probe]:
        forget, kept = self._numbers()
        return [
            *(probe(n, "forget", "direct") for n in forget),
            *(probe(n, "far", "retain", given=i < 4) for i, n in enumerate(kept)),
            *(probe(n, "holdout", "holdout", generate=False) for n in (14, 15)),
        ]


class _Entry:
    """What a registry wants of an entry point."""

    def __init__(self, task: type[Task]) -> None:
        self._task = task
        self.value = f"{task.__module__}:{task.__name__}"

    def load(self) -> type[Task]:
        return self._task


def registry(*tasks: type[Task]) -> Callable[..., plugins.Registry[Task]]:
    """The installed tasks and these, in place of ``plugins.tasks``."""
    own = [plugins.Plugin(task.family, "tests", _Entry(task)) for task in tasks]  # type: ignore[arg-type]
    installed = plugins.tasks().plugins
    return lambda files=(): plugins.Registry("task", Task, [*installed, *own])  # type: ignore[type-abstract]


LEARNS: dict[str, Any] = {"epochs": 60, "lr": 1e-2, "global_batch": 8}
"""A recipe by which the small Llama gets to know fourteen rows in a second."""


def save_base(folder: Path, seed: int = 0) -> Path:
    """Two layers of width 48 and a byte-level tokenizer, never trained."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<end>", "<user>", "<assistant>", "<system>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((f"{question(n)} {answer(n)}" for n in range(16)), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = TEMPLATE
    set_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.1,
            tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
