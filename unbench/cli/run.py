"""``unbench run`` and ``unbench eval``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from unbench.errors import UsageError

if TYPE_CHECKING:
    from unbench.method import Progress
    from unbench.results.schema import Result
    from unbench.task import Task

F = TypeVar("F", bound=Callable[..., Any])


def machine_options(function: F) -> F:
    """Options of where and how to compute."""
    options = [
        click.option("--device", default="auto", show_default=True, envvar="UNBENCH_DEVICE", show_envvar=True,
                     help="auto, cpu, cuda, cuda:1 …"),
        click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto",
                     show_default=True, help="Number format of the weights; auto: bfloat16 on CUDA, else float32."),
        click.option("--batch-size", type=click.IntRange(1), help="Sequences a forward pass may hold at once."),
        click.option("--limit", type=click.IntRange(1), help="At most so many probes of each kind: a quick look."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout."),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


data_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Folder of the task's data files.  [env var: UNBENCH_DATA, where the task takes a folder; default: the hub]",
)


def asked_options(function: F) -> F:
    """Options of what a model is held against and what more it is asked."""
    options = [
        click.option("--reference", "references", multiple=True, metavar="MODEL",
                     help="A model that never saw the forget set (hub id or folder); repeatable."),
        data_option,
        click.option("--gradnorm", is_flag=True, help="Take gradient norms too (mia_gradnorm): a backward pass more."),
        click.option("--lm-eval", metavar="TASKS", help="Tasks of lm-eval to ask too, with commas: mmlu,hellaswag."),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def names(text: str | None) -> tuple[str, ...]:
    """The parts of an option's value with commas."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


@click.command()
@click.option("--method", "-m", default="unstar", show_default=True, help="Method; 'unbench methods' lists them.")
@click.option("--task", "-t", default="bios/fact", show_default=True, help="Task; 'unbench tasks' lists them.")
@click.option("--model", help="nano, smollm2, a hub id or a folder.  [default: the task's own]")
@click.option("--target", metavar="MODEL", help="A model that knows the task already, in place of a prepared --model.")
@asked_options
@click.option("--revision", help="Revision of a hub model.")
@click.option("--seed", "one_seed", type=click.IntRange(0), help="One seed.  [default: 0]")
@click.option("--seeds", "n_seeds", type=click.IntRange(1), help="Seeds 0 … N-1.")
@click.option(
    "--split",
    type=click.Choice(["report", "select"]),
    default="report",
    show_default=True,
    help="Forget set: report for results, select for tuning.",
)
@click.option(
    "--train", type=click.Choice(["full", "lora"]), help="What is trained.  [default: nano full, others lora]"
)
@click.option("--rank", type=click.IntRange(1), help="LoRA rank.  [default: 8]")
@click.option("--lora-alpha", type=click.IntRange(1), help="LoRA alpha.  [default: 16]")
@click.option("--lora-targets", help="Modules that LoRA adapts, with commas.  [default: q_proj,v_proj]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the method; repeatable.")
@click.option("--budget-tokens", type=click.IntRange(1), help="Most tokens the method may train on and generate.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    envvar="UNBENCH_OUT",
    show_envvar=True,
    help="Folder of the runs.",
)
@click.option("--resume", is_flag=True, help="Keep the finished steps of this run; start it where there are none.")
@click.option("--dry-run", is_flag=True, help="Print the resolved plan and stop.")
@machine_options
@click.pass_obj
def run(
    obj: dict[str, Any],
    method: str,
    task: str,
    model: str | None,
    target: str | None,
    references: tuple[str, ...],
    data_dir: Path | None,
    gradnorm: bool,
    lm_eval: str | None,
    revision: str | None,
    one_seed: int | None,
    n_seeds: int | None,
    split: str,
    train: str | None,
    rank: int | None,
    lora_alpha: int | None,
    lora_targets: str | None,
    settings: tuple[str, ...],
    budget_tokens: int | None,
    out: Path,
    resume: bool,
    dry_run: bool,
    device: str,
    dtype: str,
    batch_size: int | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Run a method on a task and score what it hands back.

    \b
    unbench run --method unstar
    unbench run --method npo --task bios/relation --seeds 3
    unbench run --method unstar --model smollm2 --task facts/hogwarts
    unbench run --method npo --task tofu/forget10 --model smollm2     (after 'unbench prepare' with the same options)
    """
    from unbench.plan import make_plan, parse_settings

    if one_seed is not None and n_seeds is not None:
        raise UsageError("Give --seed or --seeds, not both.", "--seed 4 is one seed, --seeds 3 are seeds 0, 1, 2.")
    plan = make_plan(
        method, task, model, revision=revision, split=split,  # type: ignore[arg-type]
        seeds=range(n_seeds) if n_seeds else (one_seed or 0,),
        train=train, rank=rank, lora_alpha=lora_alpha,
        lora_targets=names(lora_targets) or None,
        target=target, references=references, data_dir=data_dir, gradnorm=gradnorm, lm_eval=names(lm_eval),
        settings=parse_settings(settings), budget_tokens=budget_tokens,
        device=device, dtype=dtype, batch_size=batch_size, limit=limit,
    )  # fmt: skip
    if dry_run:
        _print_plan(plan)
        return
    quiet_libraries()
    from unbench import spine
    from unbench.cli.progress import progress_bars

    with progress_bars(obj["quiet"]) as progress:
        result = spine.run(plan, out, resume=resume, progress=progress)
    _print_result(result, as_json)
    _refresh_page(out, as_json)


@click.command("eval")
@click.argument("model")
@click.option("--task", "-t", default="bios/fact", show_default=True, help="Task; 'unbench tasks' lists them.")
@click.option("--target", metavar="MODEL", help="The model it was made from.  [default: the task's own, or none]")
@click.option(
    "--split", type=click.Choice(["report", "select"]), default="report", show_default=True, help="Forget set to score."
)
@asked_options
@machine_options
@click.pass_obj
def evaluate(
    obj: dict[str, Any],
    model: str,
    task: str,
    target: str | None,
    split: str,
    references: tuple[str, ...],
    data_dir: Path | None,
    gradnorm: bool,
    lm_eval: str | None,
    device: str,
    dtype: str,
    batch_size: int | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Score a model (a folder, an adapter folder for the target, a built-in name or a hub id) on a task.

    Without a target, UnBench's own scores are null; metrics that need none (TOFU's) are given all the same.
    """
    from unbench.plan import data_folder
    from unbench.plugins import open_task

    problem = open_task(task, split, data_folder(task, data_dir))  # type: ignore[arg-type]
    quiet_libraries()
    from unbench import api
    from unbench.cli.progress import progress_bars
    from unbench.models.cache import folder_hash

    with progress_bars(obj["quiet"]) as progress:
        loaded, tokenizer, folder = _load_for_evaluation(model, problem, target, device, dtype, progress)
        result = api.evaluate(
            loaded, tokenizer, task, target=target, name=Path(model).resolve().name, split=split,  # type: ignore[arg-type]
            references=references, data_dir=data_dir, gradnorm=gradnorm, lm_eval=names(lm_eval),
            limit=limit, batch_size=batch_size, weights_hash=folder_hash(folder), progress=progress,
        )  # fmt: skip
    _print_result(result, as_json)


def _load_for_evaluation(
    name: str, task: Task, target: str | None, device: str, dtype: str, progress: Progress
) -> tuple[Any, Any, Path]:
    """Model, tokenizer and the folder of what was named."""
    from unbench.api import has_own_target
    from unbench.models.load import load_adapter, load_model, load_tokenizer, model_folder, pick_device, pick_dtype

    where = pick_device(device)
    if not (Path(name) / "adapter_config.json").is_file():
        folder = model_folder(name, None, progress)
        return load_model(folder, where, pick_dtype(dtype, where)), load_tokenizer(folder), folder
    if target is None and not has_own_target(task):
        raise UsageError(f"{name} is an adapter, which needs the model that it was trained on.", "Name it: --target.")
    folder = model_folder(target or task.default_model, None, progress)
    base = load_model(folder, where, pick_dtype(dtype, where))
    return load_adapter(base, Path(name)), load_tokenizer(folder), Path(name)


def quiet_libraries() -> None:
    import os
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # Their bars and advice would land between ours.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _print_plan(plan: Any) -> None:
    from unbench.cli.output import print_json

    print_json({**plan.model_dump(mode="json", by_alias=True), "run_id": plan.run_id, "folder": plan.folder_name})


def _refresh_page(out: Path, as_json: bool) -> None:
    """The page of everything below the runs folder. The result is safe already, so a failure is only told."""
    import logging

    from unbench.leaderboard.site import build_site, collect
    from unbench.plugins import method_cards

    try:
        page = build_site(collect(out), out / "site", cards=method_cards())
    except Exception as problem:
        logging.getLogger(__name__).warning("The page %s could not be made: %s", out / "site", problem)
        return
    if not as_json:
        click.echo(f"page: {page}")


def _print_result(result: Result, as_json: bool) -> None:
    from unbench.cli.output import console, print_json, print_result

    if as_json:
        print_json(result.summary())
        return
    print_result(result)
    if result.dir:
        console().print(f"run:  {result.dir}", soft_wrap=True)
