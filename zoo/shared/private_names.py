"""Private names of Lightning and jsonargparse in `zoo`; tests/command_line/test_zoo_private_names.py watches them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Union, get_args

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser

CLASS_PATH, INSTANTIATOR = "_class_path", "_instantiator"  # what LightningCLI adds to a module's hyper-parameters


def prefer_whole_numbers(parser: LightningArgumentParser) -> None:
    """Let ``--trainer.limit_train_batches 1`` mean one batch.

    Python may keep Lightning's ``int | float`` as ``float | int``, whichever any library wrote first. Then jsonargparse
    makes 1.0 of a 1, which Lightning takes for all batches.

    Args:
        parser: Of a subcommand, changed in place.
    """
    for action in parser._actions:
        kinds = get_args(getattr(action, "_typehint", None))
        if {int, float} <= set(kinds):
            rest = tuple(kind for kind in kinds if kind not in (int, float))
            setattr(action, "_typehint", Union[(int, float, *rest)])  # noqa: B010  no attribute that types know


@contextmanager
def data_not_read_for_a_message() -> Iterator[None]:
    """Keep jsonargparse from reading the data while it builds classes.

    It writes the data module into a debugging message about a link, and Lightning's ``__str__`` builds its loaders.
    """
    described = LightningDataModule.__str__
    LightningDataModule.__str__ = LightningDataModule.__repr__  # type: ignore[method-assign]  # for a moment
    try:
        yield
    finally:
        LightningDataModule.__str__ = described  # type: ignore[method-assign]  # as it was


def subcommand_parser(error: Exception | None, otherwise: Any) -> Any:
    """The parser of the subcommand that an error of jsonargparse is about, `otherwise` if it is about none."""
    return getattr(error, "subcommand_parser", otherwise)


def deal_no_training_batches(trainer: Trainer) -> None:
    """Give every process all training batches, and let none wait for the others before each batch.

    Lightning would give each process a share. Before each batch it broadcasts whether the first process was told to
    stop; with gloo that lasts until the others have come to the same batch.
    """
    connector: Any = trainer._data_connector
    requires = connector._requires_distributed_sampler
    connector._requires_distributed_sampler = lambda loader: not trainer.training and requires(loader)
    loop: Any = trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor = lambda: None
