"""The command line as it is, with a bound: no training of more than a step, nothing that hangs, an empty folder."""

import contextlib
import io
import os
import signal
import tempfile
import warnings
from typing import Any

from examples import OF
from hypothesis import Phase, settings
from lightning.pytorch import Callback, Trainer

import train
from zoo.command_line import messages as errors

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
LONGEST = 100  # seconds after which an example hangs; the slowest takes two


def few(short: int) -> settings:
    """Settings with so many examples in the short profile, and ten times as many in the long one.

    An example builds a whole command line, a tenth of a second and more, so none is made smaller either.
    """
    times = min(10, settings().max_examples // OF)
    return settings(max_examples=short * max(1, times), phases=[Phase.reuse, Phase.generate])


class Trained(BaseException):
    """One step was made: there was nothing to refuse."""


class AfterOneStep(Callback):
    """Ends a training that has begun."""

    def on_train_batch_end(self, *_: Any) -> None:
        raise Trained


class Bounded(train.ZooCLI):
    """The command line as it is, and no training of more than a step."""

    trains = True

    def before_fit(self) -> None:
        if not self.trains:
            raise Trained

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        trainer.callbacks.append(AfterOneStep())
        return trainer


class Built(Bounded):
    """... and none at all."""

    trains = False


def hangs(*_: Any) -> None:
    raise AssertionError(f"nothing came within {LONGEST} s")


def outcome(args: list[str], kind: type[Bounded] = Bounded) -> tuple[int, str]:
    """The exit status and the line of an error, nothing where it runs; like ``python train.py`` in an empty folder."""
    own, train.ZooCLI = train.ZooCLI, kind  # type: ignore[misc]  # for a moment
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    error, left, status = io.StringIO(), [], 0
    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(LONGEST)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.chdir(folder),
            contextlib.redirect_stderr(error),
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            try:
                train.main(args)
            except Trained:
                pass
            except SystemExit as end:
                status = int(str(end.code or 0))
            left = sorted(os.listdir(folder))
    finally:
        signal.alarm(0)
        train.ZooCLI = own  # type: ignore[misc]  # as it was
        for number, handler in handlers:  # which a trainer that was not torn down leaves behind
            signal.signal(number, handler)
    said = error.getvalue()
    assert "Traceback" not in said
    assert "planted" not in left, "what a text asked for was run"
    line = said[said.find("error: ") :] if "error: " in said else ""
    if status == 0:
        assert line == ""
        return status, line
    assert status in (1, 2), said
    assert line.count("\n") == 1, line
    assert line.endswith("\n")
    assert line.strip().isprintable(), line
    assert len(line) < errors.LONGEST + 50, line
    assert status == 1 or left == [], left
    return status, line


def refused(args: list[str], *words: str, status: int = 2) -> None:
    """That it is refused with this status, in a line with these words."""
    found, line = outcome(args)
    assert found == status, line
    assert [word for word in words if word not in line] == [], line
