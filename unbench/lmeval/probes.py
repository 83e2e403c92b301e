"""What the exported YAML names: ``ProbeTask``, an lm-eval task whose documents are the probes of an UnBench task.

Prompts are UnBench's own. With ``--apply_chat_template`` the model's template stands around the question, and a choice
begins where the template puts the answer (some put a blank before it). Without, the question stands in the plain lines
that UnBench gives to a model without a template. So the argmax over the choices is the candidate that UnBench ranks
first: the choices share every token before the ones in which they differ.

This module imports lm-eval; only lm-eval imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask

from unbench.lmeval.export import rows
from unbench.templates import plain


class ProbeTask(ConfigurableTask):  # type: ignore[misc,unused-ignore]
    """One ring of an UnBench problem. ``dataset_kwargs`` of its YAML: task, ring, and perhaps kinds and ask.

    Where the rows lie in a folder of the user's, ``--metadata '{"data_dir": "FOLDER"}'`` names it, else UNBENCH_DATA.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """The documents, from the installed task; nothing is fetched unless that task fetches its rows."""
        from datasets import Dataset

        from unbench import plugins

        wanted = dict(dataset_kwargs or {})
        name = wanted.pop("task")
        folder = (self.config.metadata or {}).get("data_dir")
        # The same metadata reaches every task of the call, and only some have their rows in a folder.
        if folder and not plugins.tasks().load(name.partition("/")[0]).takes_data_dir:
            folder = None
        task = plugins.open_task(name, data_dir=Path(folder) if folder else None)
        self.dataset = {"test": Dataset.from_list(rows(task, **wanted))}

    def fewshot_context(
        self,
        doc: dict[str, Any],
        num_fewshot: int = 0,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        fewshot_as_multiturn: bool = False,
        chat_template: Callable[..., Any] | None = None,
        gen_prefix: str | None = None,
    ) -> Any:
        """The prompt, up to where a choice or the greedy answer begins. There are no examples before the question."""
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in doc["turns"]]
        if system_instruction:
            turns.insert(0, {"role": "system", "content": system_instruction})
        if not apply_chat_template or chat_template is None:
            return plain(turns)
        prompt = chat_template(turns, add_generation_prompt=True)
        if self.OUTPUT_TYPE != "multiple_choice" or not isinstance(prompt, str):
            return prompt
        choice = doc["choices"][0]
        opened = chat_template([*turns, {"role": "assistant", "content": choice}], add_generation_prompt=False)
        # Models behind an API take other things than text, and some templates treat an open answer differently.
        return opened.removesuffix(choice) if isinstance(opened, str) and opened.startswith(prompt) else prompt


def rouge_recall(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """ROUGE-L recall of the greedy text, as UnBench's own metric takes it."""
    from unbench.metrics import tofu

    return {"rougeL_recall": float(tofu.rouge_recall([doc["answer"]], [results[0].strip()])[0])}
