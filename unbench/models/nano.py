"""``nano``: a Llama of about a million parameters that learns the world of ``bios`` on two CPU cores in minutes.

Its base model is pretrained on background people, world facts and the skills UnSTAR asks for; the target, the
references and the ``retrain`` control are fine-tuned from that base with fixed seeds. The base, target, retrain and
first reference's weights ship in the package in half precision; ``build_all`` makes all of them, and the other
references, from nothing.
"""

from __future__ import annotations

from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unbench.errors import UsageError
from unbench.models.nano_text import build_tokenizer
from unbench.models.nano_training import Progress, Recipe, train

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

TARGET_SEED, REFERENCE_SEEDS, RETRAIN_SEED = 0, (1, 2, 3), 4
"""Fixed before any result was seen."""
PRETRAINING = Recipe(epochs=16, lr=2e-3)
FINETUNING = Recipe(epochs=10, lr=2e-3)
SHIPPED = {"base": "base", "target": "target", "retrain": "retrain-4", "reference": "reference-1"}


def nano_folder(role: Literal["base", "target", "retrain", "reference"], seed: int | None = None) -> Path:
    """The shipped folder of one role, in the ordinary transformers layout.

    Raises ``UsageError`` for a role or seed that doesn't ship: references and other seeds are built by ``build_all``.
    """
    seeds = {"base": 0, "target": TARGET_SEED, "retrain": RETRAIN_SEED, "reference": REFERENCE_SEEDS[0]}
    if role not in SHIPPED or seed not in (None, seeds[role]):
        raise UsageError(
            f"nano ships no weights for {role!r} with seed {seed}.",
            "Build them with `unbench models build`; shipped are: "
            + ", ".join(f"{name} (seed {value})" for name, value in seeds.items())
            + ".",
        )
    return Path(str(files("unbench.models").joinpath("nano_weights", SHIPPED[role])))


def retrain_folder(seed: int) -> Path:
    """Folder of the ``retrain`` control: the reference of one further seed, whatever the run's own ``seed`` is."""
    return nano_folder("retrain")


def build_base(out: Path, seed: int = 0, progress: Progress | None = None) -> None:
    """Tokenizer and base model from nothing, into the folder ``out``."""
    import torch
    from transformers import LlamaForCausalLM
    from unbench_tasks.bios import corpus

    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(_config(tokenizer))
        train(model, tokenizer, partial(corpus.pretraining, seed), PRETRAINING, seed, "nano base", progress)
    _save(model, tokenizer, out)


def build_finetuned(
    base: Path,
    out: Path,
    role: Literal["target", "reference"],
    seed: int,
    progress: Progress | None = None,
) -> None:
    """A target or reference from the base model in folder ``base``, into the folder ``out``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from unbench_tasks.bios import corpus

    tokenizer = AutoTokenizer.from_pretrained(base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        texts = partial(corpus.finetuning, role, seed)
        train(model, tokenizer, texts, FINETUNING, seed, f"nano {role} {seed}", progress)
    _save(model, tokenizer, out)


def build_all(out: Path, progress: Progress | None = None) -> None:
    """Everything from nothing: base, target, retrain-4 and reference-1 to -3 as folders of ``out``.

    A folder that is already there with weights in it is kept, so a build that was stopped goes on.
    """
    base = out / "base"
    if not (base / "model.safetensors").exists():
        build_base(base, 0, progress)
    plan: list[tuple[str, Literal["target", "reference"], int]] = [
        ("target", "target", TARGET_SEED),
        (f"retrain-{RETRAIN_SEED}", "reference", RETRAIN_SEED),
        *((f"reference-{seed}", "reference", seed) for seed in REFERENCE_SEEDS),
    ]
    for name, role, seed in plan:
        if not (out / name / "model.safetensors").exists():
            build_finetuned(base, out / name, role, seed, progress)


def _config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Half precision, ordinary layout; the weights last, so that their presence means a whole folder."""
    from transformers import GenerationConfig

    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=64, **ids)  # type: ignore[no-untyped-call]
    model.half().save_pretrained(out)  # type: ignore[no-untyped-call]
