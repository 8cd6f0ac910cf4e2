"""A logger that fails ends no training: it is named once, then left out."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyExperiment
from lightning.pytorch.utilities import rank_zero_warn

from .private_names import switch_to_offline

METHODS = ("after_save_checkpoint", "finalize", "save", "watch")  # and log_...: what Lightning and modules call


def survive_logger_errors(trainer: Trainer) -> None:
    """Let training go on when a logger raises: a full disk, no network, a mistake in the logger.

    The first error is a warning with the logger's name; from then on that logger does nothing. Weights & Biases that
    cannot be reached when the run begins goes on offline. Loggers stay instances of their classes.
    """
    for logger in trainer.loggers:
        if not hasattr(logger, "given_up"):
            logger.__class__ = guarded(type(logger))


@contextmanager
def surviving(logger: Logger) -> Iterator[None]:
    """Inside, an error is the logger's if it is one that survives its errors."""
    try:
        yield
    except Exception as error:  # whatever a logger's library or a full disk raises
        if not hasattr(logger, "given_up"):
            raise
        give_up(logger, error)


def give_up(logger: Any, error: Exception) -> None:
    """Warn, once, and leave the logger out from now on."""
    if not logger.given_up:
        logger.given_up = True
        rank_zero_warn(f"{name_of(logger)} failed and logs nothing more, training goes on: {in_short(error)}")


def name_of(logger: Any) -> str:
    """The name of the class that the user knows."""
    return type(logger).__mro__[1].__name__


def in_short(error: Exception) -> str:
    """Class and first line of an error."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


@functools.cache
def guarded(kind: type[Logger]) -> type[Logger]:
    """A subclass whose methods give up instead of raising."""
    names = [name for name in dir(kind) if name.startswith("log_") or name in METHODS]
    members: dict[str, Any] = {
        name: _guarded_method(getattr(kind, name)) for name in names if inspect.isfunction(getattr(kind, name))
    }
    if isinstance(found := getattr(kind, "experiment", None), property) and found.fget:
        members["experiment"] = property(_guarded_experiment(found.fget))
    members |= {"given_up": False, "__module__": __name__, "__doc__": kind.__doc__, "__reduce_ex__": _reduce}
    return type(f"_Surviving{kind.__name__}", (kind,), members)  # the command line must not find two of a name


def _guarded_method(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.given_up:
            with surviving(self):
                return function(self, *args, **kwargs)
        return None

    return call


def _guarded_experiment(getter: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def experiment(self: Any) -> Any:
        if not self.given_up:
            try:
                return getter(self)
            except Exception as error:  # whatever the logger's library raises
                if switch_to_offline(self):
                    rank_zero_warn(
                        f"{name_of(self)} cannot reach its server, so it goes on offline, "
                        f"for `wandb sync`: {in_short(error)}"
                    )
                    with surviving(self):
                        return getter(self)
                else:
                    give_up(self, error)
        return DummyExperiment()

    return experiment


def _reduce(self: Any, protocol: Any) -> Any:
    # a class made while running cannot be found by another process: send the original
    build, arguments, *state = super(type(self), self).__reduce_ex__(protocol)
    return _build, (build, type(self).__mro__[1], arguments[1:]), *state


def _build(build: Callable[..., Any], kind: type[Logger], arguments: tuple[Any, ...]) -> Any:
    return build(guarded(kind), *arguments)
