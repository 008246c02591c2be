"""The loggers of `--loggers`: files and services beside the run, which goes on without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from zoo.errors import ZooError
from zoo.options.checks import LOGGERS, no_package
from zoo.runs import Run


class Trackers:
    """Lightning loggers by name (of `LOGGERS`), all writing below the run folder.

    One that fails is told once and tried again with the next row; how many rows it missed is told at the end. say:
    called with these lines. Raises ZooError for a missing package.
    """

    def __init__(self, names: list[str], run: Run, say: Callable[[str], None]):
        self.say = say
        self.missed: Counter[str] = Counter()
        self._loggers: dict[str, Any] = {}
        for name in names:
            self._try(name, lambda name=name: self._loggers.update({name: _logger(name, run)}))  # type: ignore[misc]

    def write(self, values: dict[str, float], step: int) -> None:
        for name, logger in self._loggers.items():
            self._try(name, lambda logger=logger: logger.log_metrics(values, step=step))  # type: ignore[misc]

    def close(self) -> None:
        """Write what they still hold."""
        for name, logger in self._loggers.items():
            self._try(name, lambda logger=logger: logger.finalize("success"))  # type: ignore[misc]
        for name, count in self.missed.items():
            if count > 1:
                self.say(f"The logger {name} has failed {count} times.")
        self._loggers = {}

    def _try(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except ZooError:
            raise
        except Exception as error:
            self.missed[name] += 1
            if self.missed[name] == 1:
                first = (str(error).strip() or "no message").splitlines()[0]
                self.say(f"The logger {name} fails ({type(error).__name__}: {first}); the run goes on without it.")


def _logger(name: str, run: Run) -> Any:
    from zoo.libraries.trainer import logger_class

    cls, package = LOGGERS[name]
    folder = str(run.path / "logs")
    try:
        if name == "mlflow":
            return logger_class(cls)(experiment_name="zoo", run_name=run.name, save_dir=folder)
        return logger_class(cls)(save_dir=folder, name=run.name if name == "wandb" else name)
    except ModuleNotFoundError:
        raise no_package(name, package) from None
