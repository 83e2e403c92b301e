"""``unbench run`` and ``unbench eval``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from unbench.cli.engine import engine_options
from unbench.cli.pluginfile import method_names, plugin_option
from unbench.errors import UsageError

if TYPE_CHECKING:
    from unbench.method import Progress
    from unbench.models.load import Target
    from unbench.results.schema import Result
    from unbench.task import Task

F = TypeVar("F", bound=Callable[..., Any])


dtype_option = click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Number format of the weights; auto: bfloat16 on CUDA, else float32.",
)


def machine_options(function: F) -> F:
    """Options of where and how to compute."""
    options = [
        click.option("--device", default="auto", show_default=True, envvar="UNBENCH_DEVICE", show_envvar=True,
                     help="auto, cpu, cuda, cuda:1 …"),
        dtype_option,
        click.option("--batch-size", type=click.IntRange(1), help="Sequences a forward pass may hold at once."),
        click.option("--limit", type=click.IntRange(1), help="At most so many probes of each kind: a quick look."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout."),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def training_options(function: F) -> F:
    """Options of how training is carried out, and when it stops."""
    options = [
        click.option("--num-processes", type=click.IntRange(1), default=1, show_default=True,
                     help="Processes that share each training step: one a GPU, or of the CPU."),
        click.option("--gradient-checkpointing/--no-gradient-checkpointing", default=None,
                     help="Recompute activations to save memory.  [default: on a GPU, above 1 B parameters]"),
        click.option("--report-to", type=click.Choice(["none", "tensorboard", "wandb"]), default="none",
                     show_default=True, help="Where learning curves are sent while training."),
        click.option("--checkpoint-every", type=click.FloatRange(0), metavar="SECONDS", default=600.0,
                     show_default=True, help="Between checkpoints of the training, which --resume goes on from."),
        click.option("--max-retain-rise", type=click.FloatRange(0, min_open=True), metavar="NATS",
                     help="Stop training once the retain rows' NLL has risen by so many nats a token."),
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
@click.option("--method", "-m", shell_complete=method_names,
              help="Method; 'unbench methods' lists them.  [default: unstar, or the one of --plugin]")  # fmt: skip
@plugin_option
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
@click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="FILE",
              help="Settings from a file: a tuned.json of 'unbench tune' (its method and budget too), or YAML; --set "
              "goes on top.")  # fmt: skip
@click.option(
    "--budget-tokens",
    type=click.IntRange(1),
    help="Most tokens the method may train on and generate.  [default: what its settings were tuned within]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    envvar="UNBENCH_OUT",
    show_envvar=True,
    help="Folder of the runs.",
)
@click.option("--attacks", default="default", show_default=True,
              help="Attacks on what the method hands back: names with commas, all, default (quick), none.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Keep the finished steps of this run; start it where there are none.")
@click.option("--dry-run", is_flag=True, help="Print the resolved plan and stop.")
@training_options
@engine_options
@machine_options
@click.pass_obj
def run(
    obj: dict[str, Any],
    method: str | None,
    plugins: tuple[str, ...],
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
    config_file: Path | None,
    budget_tokens: int | None,
    out: Path,
    attacks: str,
    resume: bool,
    dry_run: bool,
    num_processes: int,
    gradient_checkpointing: bool | None,
    report_to: str,
    checkpoint_every: float,
    max_retain_rise: float | None,
    engine: str,
    score_engine: str,
    tensor_parallel: int,
    data_parallel: int,
    gpu_memory: float | None,
    device: str,
    dtype: str,
    batch_size: int | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Run a method on a task and score what it hands back.

    \b
    unbench run --method unstar
    unbench run --plugin my_method.py
    unbench run --method npo --task bios/relation --seeds 3
    unbench run --method unstar --model smollm2 --task facts/hogwarts
    unbench run --method npo --task tofu/forget10 --model smollm2     (after 'unbench prepare' with the same options)
    """
    from unbench.plan import make_plan, parse_settings

    if one_seed is not None and n_seeds is not None:
        raise UsageError("Give --seed or --seeds, not both.", "--seed 4 is one seed, --seeds 3 are seeds 0, 1, 2.")
    found = parse_settings(settings)
    if config_file is not None:
        from unbench.tuned import read_config

        method, kept, budget = read_config(config_file, method)
        found, budget_tokens = kept | found, budget_tokens or budget
    plan = make_plan(
        method, task, model, revision=revision, split=split,  # type: ignore[arg-type]
        seeds=range(n_seeds) if n_seeds else (one_seed or 0,),
        train=train, rank=rank, lora_alpha=lora_alpha,
        lora_targets=names(lora_targets) or None,
        target=target, references=references, data_dir=data_dir, gradnorm=gradnorm, lm_eval=names(lm_eval),
        settings=found, budget_tokens=budget_tokens,
        device=device, dtype=dtype, batch_size=batch_size, limit=limit, plugins=plugins,
        attacks=names(attacks), num_processes=num_processes,
        gradient_checkpointing=gradient_checkpointing, report_to=report_to, checkpoint_every=checkpoint_every,
        max_retain_rise=max_retain_rise, engine=engine, score_engine=score_engine,
        tensor_parallel=tensor_parallel, data_parallel=data_parallel, gpu_memory=gpu_memory,
    )  # fmt: skip
    if dry_run:
        _print_plan(plan)
        return
    quiet_libraries()
    from unbench import spine
    from unbench.cli.progress import progress_bars
    from unbench.processes import launched

    with progress_bars(obj["quiet"]) as progress:
        result = spine.run(plan, out, resume=resume, progress=progress)
    place = launched()
    if place is not None and place.rank > 0:
        return
    _print_result(result, as_json)
    refresh_page(out, as_json)


@click.command("eval")
@click.argument("model")
@plugin_option
@click.option("--task", "-t", default="bios/fact", show_default=True, help="Task; 'unbench tasks' lists them.")
@click.option("--target", metavar="MODEL", help="The model it was made from.  [default: the task's own, or none]")
@click.option(
    "--split", type=click.Choice(["report", "select"]), default="report", show_default=True, help="Forget set to score."
)
@asked_options
@engine_options
@machine_options
@click.pass_obj
def evaluate(
    obj: dict[str, Any],
    model: str,
    plugins: tuple[str, ...],
    task: str,
    target: str | None,
    split: str,
    references: tuple[str, ...],
    data_dir: Path | None,
    gradnorm: bool,
    lm_eval: str | None,
    engine: str,
    score_engine: str,
    tensor_parallel: int,
    data_parallel: int,
    gpu_memory: float | None,
    device: str,
    dtype: str,
    batch_size: int | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Score a model (a folder, an adapter folder for the target, a built-in name or a hub id) on a task.

    Without a target, UnBench's own scores are null; metrics that need none (TOFU's) are given all the same.
    """
    from unbench.engines.room import for_evaluation
    from unbench.engines.settings import ServingSettings, choose_engines
    from unbench.plan import data_folder
    from unbench.pluginfile import plugin_files
    from unbench.plugins import open_task

    serving = ServingSettings(tensor_parallel=tensor_parallel, data_parallel=data_parallel, gpu_memory=gpu_memory)
    engines = choose_engines(engine, score_engine, device, generates=False, processes=1, serving=serving)
    files = plugin_files(plugins)
    problem = open_task(task, split, data_folder(task, data_dir, files), files)  # type: ignore[arg-type]
    quiet_libraries()
    from unbench import api
    from unbench.cli.progress import progress_bars
    from unbench.models.cache import folder_hash
    from unbench.models.load import load_unlearned

    with progress_bars(obj["quiet"]) as progress:
        base, folder = _base_for_evaluation(model, problem, target, device, dtype, progress)
        with for_evaluation(engines, base, folder, serving, batch_size) as vllm:
            result = api.evaluate(
                load_unlearned(base, folder), base.tokenizer, task, target=target, name=Path(model).resolve().name,
                split=split, references=references, data_dir=data_dir, gradnorm=gradnorm,  # type: ignore[arg-type]
                lm_eval=names(lm_eval), limit=limit, batch_size=batch_size, weights_hash=folder_hash(folder),
                progress=progress, plugins=plugins, engines=engines, vllm=vllm,
            )  # fmt: skip
    _print_result(result, as_json)


def _base_for_evaluation(
    name: str, task: Task, target: str | None, device: str, dtype: str, progress: Progress
) -> tuple[Target, Path]:
    """Where the model lies and is to run, and the folder of what was named: the same, or an adapter for the model."""
    from unbench.api import has_own_target
    from unbench.models.load import Target, model_folder, pick_device, pick_dtype

    where = pick_device(device)
    adapter = (Path(name) / "adapter_config.json").is_file()
    if adapter and target is None and not has_own_target(task):
        raise UsageError(f"{name} is an adapter, which needs the model that it was trained on.", "Name it: --target.")
    folder = model_folder((target or task.default_model) if adapter else name, None, progress)
    return Target(folder, where, pick_dtype(dtype, where)), Path(name) if adapter else folder


def quiet_libraries() -> None:
    import os
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # Their bars and advice would land between ours.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _print_plan(plan: Any) -> None:
    from unbench.cli.output import print_json

    print_json({**plan.model_dump(mode="json", by_alias=True), "run_id": plan.run_id, "folder": plan.folder_name})


def refresh_page(out: Path, as_json: bool) -> None:
    """The page of everything below the runs folder. The result is safe already, so a failure is only told."""
    import logging

    from unbench.leaderboard.site import build_site, collect
    from unbench.plugins import method_cards

    try:
        results = collect(out)
        page = build_site(results, out / "site", cards=method_cards({one.method: one.dir for one in results}))
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
