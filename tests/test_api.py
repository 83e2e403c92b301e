"""The Python API: a model in memory, three lines; a callback along a Trainer's run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import unbench


def test_target_in_memory_scores_as_the_none_control() -> None:
    model, tokenizer = unbench.load_target("bios/fact")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    result = unbench.evaluate(model, tokenizer, task="bios/fact", limit=6)
    assert result.scores.forget.value == 0
    assert result.scores.retain.value == 1
    assert result.scores.specificity.value == 1
    assert list(result.table.index) == ["forget", "trace", "retain", "specificity", "overall"]
    assert isinstance(result.probes, pd.DataFrame)
    assert {"ring", "kind", "known_target", "known_seed_0"} <= set(result.probes.columns)
    assert model.training
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_run_returns_what_it_stored(tmp_path: Path) -> None:
    result = unbench.run("none", "bios/fact", limit=2, out=tmp_path, seeds=(0, 1))
    assert Path(result.dir, "result.json").is_file()
    assert [one.seed for one in result.per_seed] == [0, 1]
    assert len(result.probes) == len(set(result.probes["probe"]))


def test_callback_scores_along_a_trainer(tmp_path: Path) -> None:
    import torch
    from transformers import Trainer, TrainingArguments

    model, tokenizer = unbench.load_target("bios/fact")
    ids = tokenizer("The", return_tensors="pt").input_ids[0]
    rows = [{"input_ids": ids, "labels": ids}] * 4
    callback = unbench.UnlearningCallback(task="bios/fact", every=2, limit=6)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=1, report_to="none", learning_rate=1e-3,
        use_cpu=True, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer, callbacks=[callback])  # type: ignore[arg-type]
    torch.manual_seed(0)
    trainer.train()
    assert [entry["step"] for entry in callback.history] == [2, 3]
    assert all(entry["retain"] is not None for entry in callback.history)
    assert any("unbench_forget" in entry for entry in trainer.state.log_history)


def test_callback_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="every"):
        unbench.UnlearningCallback(every=0)
