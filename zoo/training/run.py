"""`train` and `resume`: a run from its options to its finished folder, as the command and as Python."""

from __future__ import annotations

import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from zoo.cards import described, real
from zoo.contract import registry
from zoo.contract.lent import is_lent
from zoo.data.sources.given import giving, refuse_missing_data, refuse_other_data
from zoo.data.sources.mixture import data_defaults
from zoo.environments.named import data_of
from zoo.errors import ZooError, in_words
from zoo.libraries.quiet import quiet_libraries
from zoo.models.facts import weights_of
from zoo.models.names import with_adapter
from zoo.numbers import amount
from zoo.options.checks import FSDP, check_values
from zoo.options.config import Resolved, TrainConfig, resolve
from zoo.options.fields import options_of
from zoo.options.strict_yaml import read_yaml
from zoo.runs import Run, find_run
from zoo.terminal import Console
from zoo.training.lending import again, named, refuse_missing
from zoo.training.outlook import is_first_process, look_ahead
from zoo.training.requeue import changes, run_to_go_on
from zoo.training.resuming import (
    REWARDS,
    Beginning,
    accept_code,
    check_allowed,
    named_code,
    refuse_ended,
    refuse_foreign_code,
)


@in_words
def train(
    algo: Any = None, *, config: str | Path | None = None, quiet: bool = False,
    sources: Mapping[str, Any] | None = None, **options: Any,
) -> Run:  # fmt: skip
    """Train a model: `zoo.train(algo="dpo", model=…, data=…, beta=0.1)`.

    algo: a registered algorithm, `name@package`, `./file.py:Class`, or the class itself; config: a YAML file of
    options; options: those of `zoo train --help`, the core's and the algorithm's. Returns the finished `Run`. Raises
    ZooError on input that cannot work, TrainingStopped when training cannot go on, TrainingFailed when no step
    trained anything.

    data, eval_data and decay_data may be rows themselves: a list of dicts, a generator function, a frame of pandas or
    polars, a Dataset, or a mapping of splits to these. sources: the same by names, which a mixture mentions:
    `data="0.7*python:mine + 0.3*chat.jsonl", sources={"mine": rows}`.

    reward and gold_reward may be functions, model and the other roles models of transformers: a pair of model and
    tokenizer, or a model alone, whose tokenizer is looked for where it was loaded from. A copy is trained.
    """
    judge_config(config, [*options, *(["algo"] if algo else [])])
    with named({**options, "algo": algo}) as options, giving(options, sources) as options:
        algo = options.pop("algo")
        start = resolve_options(algo, config, options, "keyword argument")
        refuse_other_data(start[0].as_dict(), {}, sources or ())
        given = {"algo": algo, "config": config and str(config), **options}
        call = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None or name in options)
        return execute(*start, Console(quiet=quiet), command=f"zoo.train({call})")


@in_words
def resume(
    run: str | Path | Run,
    *,
    algo: Any = None,
    reward: Any = None,
    gold_reward: Any = None,
    allow_change: Collection[str] = (),
    allow_code: bool = False,
    trust_remote_code: bool = False,
    quiet: bool = False,
    data: Any = None,
    eval_data: Any = None,
    decay_data: Any = None,
    sources: Mapping[str, Any] | None = None,
    devices: int | None = None,
    num_nodes: int | None = None,
    strategy: str | None = None,
    tensor_parallel: int | None = None,
    max_time: str | None = None,
    **former: Any,
) -> Run:
    """Go on with a stopped run from its last complete checkpoint; without one it starts again.

    allow_change: names of what may differ from what the run began with (docs/running.md lists them); allow_code: run
    the code that another user's run names; algo, reward, gold_reward: the class and the functions that the program
    gave, again; data, eval_data, decay_data, sources: the rows that it gave, again;
    devices, num_nodes, strategy, tensor_parallel, max_time: as of `train`, None for those that the run began with.
    Raises ZooError when the run is finished, has failed or is still going on, or differs.
    """
    if former:
        raise _no_argument(former)
    given = {
        "devices": devices, "num_nodes": num_nodes, "strategy": strategy, "tensor_parallel": tensor_parallel,
        "max_time": max_time,
    }  # fmt: skip
    options: dict[str, Any] = {
        "allow_change": allow_change,
        "allow_code": allow_code,
        "trust_remote_code": trust_remote_code,
        "changed": {name: value for name, value in given.items() if value is not None},
    }
    run = run.path if isinstance(run, Run) else run
    objects = {"algo": algo, "reward": reward, "gold_reward": gold_reward}
    rows = {"data": data, "eval_data": eval_data, "decay_data": decay_data}
    config = find_run(str(run)).config
    given_rows = giving({name: value for name, value in rows.items() if value is not None}, sources)
    with again(config, objects), given_rows as rows:
        refuse_other_data(config, rows, sources or ())
        return resume_with(Console(quiet=quiet), run, **options)


def resume_with(
    console: Console, run: str | Path, *, allow_change: Collection[str] = (), allow_code: bool = False,
    trust_remote_code: bool = False, changed: Mapping[str, Any] | None = None,
) -> Run:  # fmt: skip
    """`resume`, whose messages go to this console. changed: options that need not stay what they were."""
    stopped = find_run(str(run))
    if is_first_process():
        refuse_ended(stopped)
    elif stopped.is_complete:
        # The first process has ended it before this one came to look.
        return stopped
    refuse_missing_data(stopped.config, str(stopped.path))
    refuse_missing(stopped.config, str(stopped.path))
    _judge_code(stopped, allow_change, allow_code)
    options = {**(changed or {}), **({"trust_remote_code": True} if trust_remote_code else {})}
    if options.get("strategy", FSDP) != FSDP:
        # It is for models that are shared out.
        options["offload"] = False
    start = resolve_options(None, stopped.path / "run.yaml", options, "keyword argument")
    check_allowed(allow_change, start[0].as_dict())
    return execute(*start, console, resumed=stopped, allowed=allow_change)


def _judge_code(run: Run, allow_change: Collection[str], allow_code: bool) -> None:
    """Raises ZooError before code of somebody else's, or code that has changed, is imported; see `resume`."""
    refuse_foreign_code(run, allow_code, f"Read it. If you trust it: zoo resume {run.path} --allow-code")
    if not is_first_process() or not named_code(run.config):
        return
    if allow_code:
        accept_code(run)
    from zoo.training.fingerprints import VALUE, merged, of_code

    values = {name: {VALUE: value} for name, value in run.config.items() if name in ("algo", *REWARDS)}
    code = merged(values, of_code(run.config, installed=False))
    Beginning(run, allow_change, lambda text: None).compare(code, whole=False)


def _no_argument(former: Mapping[str, Any]) -> Exception:
    if "allow_data_change" in former:
        return ZooError("allow_data_change is one of the changes to allow by now.", 'Write allow_change=["data"].')
    return TypeError(f"resume() got an unexpected keyword argument '{next(iter(former))}'")


def judge_config(config: str | Path | None, typed: Collection[str]) -> None:
    """Raises ZooError for the run.yaml of somebody else's run that names code, unless the same was typed."""
    if config is not None and Path(config).name == "run.yaml" and Path(config).is_file():
        run = Run(Path(config).parent)
        untyped = {name: text for name, text in named_code(run.config).items() if name not in typed}
        flags = " ".join(f"--{name.replace('_', '-')} {shlex.quote(text)}" for name, text in untyped.items())
        refuse_foreign_code(run, not untyped, f"Read it. If you trust it, type it: {flags}")


def go_on(resolved: Resolved, asked: bool, console: Console) -> bool:
    """Go on with the run that the same command has begun before; whether there is one. asked: --resume was typed."""

    def stored(run: Run) -> Resolved:
        return resolve_options(None, run.path / "run.yaml", {}, "")[0]

    run = run_to_go_on(resolved, stored, asked)
    if run is None:
        return False
    if run.is_complete:
        console.say(f"The run {run.name} is finished: there is nothing left to do. Its model is in {run.model_path}.")
        return True
    resume_with(
        console, run.path, trust_remote_code=resolved.core.trust_remote_code, changed=changes(resolved, run, stored)
    )
    return True


def resolve_options(
    algo: str | None,
    config: str | Path | None,
    given: Mapping[str, Any],
    origin: str,
    between: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> tuple[Resolved, Any]:
    """The complete configuration and the algorithm's class.

    given: what was typed, without what was not; between: (origin, options) that outrank the file and stand below those.
    The class may be one from the algorithm's card, which loads no torch and trains nothing.
    """
    file = read_yaml(config) if config else {}
    from_file = file.pop("algo", None)
    name = algo or from_file or registry.default_name()
    short, cls = described(str(name))
    _refuse_other_program(config, file, cls)
    layers = [(str(config), file), *between, (origin, _given(given, cls))]
    resolved = resolve(
        str(name) if ".py" in str(name) or is_lent(str(name)) else short,
        cls,
        layers,
        data_defaults,
        weights_of,
        data_of,
    )
    resolved.origin["algo"] = origin if algo else str(config) if from_file else "default"
    check_values(resolved.core, resolved.origin)
    resolved.core.model = with_adapter(resolved.core.model, resolved.core.adapter, resolved.core.out)
    return resolved, cls


def _refuse_other_program(config: str | Path | None, file: Mapping[str, Any], cls: Any) -> None:
    """Raises ZooError for a config file in another program's words."""
    unknown = {*file} - {option.name for option in (*options_of(TrainConfig), *options_of(cls.Config))}
    if not unknown:
        return
    from zoo.conversion.tables import program_of

    if (program := program_of(unknown)) is not None:
        count = amount(len(unknown), "option")
        raise ZooError(
            f"{config} has {count} that zoo does not have, and looks like a file of {program}.",
            f"zoo convert-config {config}",
        )


def _given(values: Mapping[str, Any], cls: Any) -> dict[str, Any]:
    """Drop options that are None, but for those that may be none."""
    options = (*options_of(TrainConfig), *options_of(cls.Config))
    may_be_none = {option.name for option in options if type(None) in get_args(option.type)}
    return {name: value for name, value in values.items() if value is not None or name in may_be_none}


def execute(
    resolved: Resolved,
    cls: Any,
    console: Console,
    resumed: Run | None = None,
    allowed: Collection[str] = (),
    command: str = "",
) -> Run:
    """Everything between a configuration and a finished run folder; command: what was typed, for command.txt.

    Before anything is loaded it is looked for; a class from a card then gives way to the algorithm itself.
    """
    begun = time.monotonic()
    if is_first_process():
        memory = look_ahead(resolved, cls, resumed).memory
        if memory is not None and (warning := memory.warning()):
            console.say(warning, event="warning", level="warning")
    if (itself := real(cls)) is not cls:
        resolved, cls = resolved.of_class(itself), itself
    from zoo.training.execution import Execution

    quiet_libraries()
    return Execution(resolved, cls(), console, resumed, allowed, command, begun).go()
