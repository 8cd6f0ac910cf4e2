"""Train, validate, test and predict with any paper of the zoo, from the command line.

    python train.py fit --model JEM                        the paper's recipe, on embedded data
    python train.py fit --model JEM --model.lr 3e-4        ... with one value changed
    python train.py fit --model JEM --data MNIST           ... on other data
    python train.py fit --config zoo/classifier/paper_cifar10.yaml --data.data_dir DIR
    python train.py test --model JEM --ckpt_path FILE      judge a checkpoint

``--model X`` without ``--config`` starts from the ``recipe.yaml`` beside X. ``--data Y``, short for ``YDataModule``,
then replaces the recipe's data module: arguments that both have (such as ``batch_size`` and ``ood``) keep the
recipe's values, the others are dropped. ``--print_config``, ``--model.help X`` and ``--data.help Y`` show what
there is.

A checkpoint brings its module's arguments with it, and its data where it was trained from here, unless ``--data`` or
``--config`` says otherwise (``--data.data_dir DIR`` changes that one value). Its module's arguments win over the recipe
and the configuration; ``--model.<argument>`` beside ``--ckpt_path`` is refused rather than ignored.

Bad input ends with one message: exit status 2 for the command line, 1 for what goes wrong later. With
``JSONARGPARSE_DEBUG=true`` in the environment it ends with a traceback instead.
"""

import difflib
import functools
import inspect
import json
import os
import pickle
import re
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch.callbacks
import lightning.pytorch.loggers
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.trainer import connectors
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import callbacks
import datamodules
import zoo

DEBUG = "JSONARGPARSE_DEBUG"
CONFIG_KEY = "command_line_config"  # where a checkpoint keeps the configuration that it was trained with
FROM_DATA = ("num_classes", "image_shape")  # the module's arguments that the data decide
NOISE = (  # lines of jsonargparse about its own search for a fitting type
    r"Does not validate|Subtypes:|Errors:|Expected a <class 'NoneType'>|Expected a path but|Problem with given"
    r"|Given value( type)?:|$"
)


class Parser(LightningArgumentParser):
    """Ends with one line instead of the usage of ninety arguments."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the essence of an error and exit with status 2."""
        if not self.exit_on_error or DEBUG in os.environ:
            super().error(message, ex)  # raises
        if unknown := re.match(r"unrecognized arguments: --([\w.]+)", message):
            options = getattr(ex, "subcommand_parser", self).get_defaults().keys()
            message = f"--{unknown[1]}: no such argument{suggestion(unknown[1], options)}"
        sys.stderr.write(f"error: {in_one_line(message)}\n")
        raise SystemExit(2)


class SaveConfig(SaveConfigCallback):
    """Puts the configuration into every logger, a file beside what the logger writes, and every checkpoint."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log and write it."""
        folders = [] if trainer.loggers else [Path(trainer.default_root_dir)]
        for logger in trainer.loggers:
            logger.log_hyperparams({"config": self._as_dict})
            # the run's folder of W&B, one above `dir`, into which W&B writes a config.yaml of its own
            own = getattr(getattr(logger, "experiment", None), "dir", None)
            folders.append(Path(own).parent if isinstance(own, str) else Path(logger.log_dir or logger.save_dir or "."))
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / self.config_filename).write_text(self._dump("yaml"), encoding="utf-8")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep it in the checkpoint, for the data that the checkpoint was trained on."""
        checkpoint[CONFIG_KEY] = self._as_dict

    @functools.cached_property
    def _as_dict(self) -> dict[str, Any]:
        return json.loads(self._dump("json"))

    def _dump(self, form: str) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # skip_none has another name in new jsonargparse
            return self.parser.dump(self.config, skip_none=False, format=form)


class ZooCLI(LightningCLI):
    """LightningCLI with a recipe for each paper, and checkpoints that need no further arguments."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Take from the data what only the data know; whoever lacks such an argument is skipped quietly."""
        for name in FROM_DATA:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Put the recipe in front and spell names out."""
        self.flags: dict[str, str] = {}
        self.checkpoint_arguments: dict[str, Any] = {}
        args = sys.argv[1:] if args is None else args
        if isinstance(args, list):
            args, self.flags = expand([str(arg) for arg in args], [*self.subcommands()])
            self.config = parser.parse_args(args)
        else:
            super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        """Take arguments from the checkpoint.

        Lightning's own cannot read one saved from Python, and builds the checkpoint's class whatever ``--model`` says.
        """
        subcommand = self.config.get("subcommand")
        path = self.config[subcommand].get("ckpt_path") if subcommand else None
        if subcommand in ("validate", "test", "predict") and not path:
            rank_zero_warn("no --ckpt_path: these are untrained weights")
        if not path or path in ("last", "best", "hpc") or path.startswith("registry") or "://" in path:
            return  # the last ones are for Lightning to find
        checkpoint, wanted = read_checkpoint(path), self.config[subcommand].model.class_path
        arguments = {k: v for k, v in checkpoint.get("hyper_parameters", {}).items() if k != "_instantiator"}
        saved = arguments.pop("_class_path", None)
        if saved is None and not arguments.keys() <= parameters(wanted):  # saved from Python: arguments tell the class
            alike = [f"zoo.{name}" for name in zoo.__all__ if parameters(f"zoo.{name}") == arguments.keys()]
            saved = alike[0] if alike else f"a class with the arguments {', '.join(arguments)}"
        if saved not in (None, wanted):
            raise ValueError(f"{path} is a checkpoint of {saved}, but --model asks for {wanted}")
        for flag in self.flags:
            if (option := re.match(r"--model\.(?:init_args\.)?(\w+)", flag)) and option[1] in arguments:
                raise ValueError(f"{flag} would be ignored: {path} brings its own {option[1]}; change it in Python")
        found: dict[str, Any] = {"model": {"class_path": wanted, "init_args": arguments}}
        if CONFIG_KEY in checkpoint and not self.flags.keys() & {"--data", "--config", "-c"}:
            found["data"] = checkpoint[CONFIG_KEY]["data"]
            options = [re.match(r"--data\.(?:init_args\.)?(\w+)$", flag) for flag in self.flags]
            given = {option[1]: self.config[subcommand].data.init_args[option[1]] for option in options if option}
            found["data"].setdefault("init_args", {}).update(given)
        self.config = self.parser.parse_object({subcommand: found}, self.config)
        self.checkpoint_arguments = arguments

    def after_instantiate_classes(self) -> None:
        """Refuse data of another kind than the checkpoint's."""
        for name in FROM_DATA:
            trained, now = self.checkpoint_arguments.get(name), getattr(self.datamodule, name, None)
            if None not in (trained, now) and json.dumps(trained) != json.dumps(now):
                raise ValueError(
                    f"the checkpoint was trained with {name}={trained}, but the data have {now}: set --data"
                )


def expand(args: list[str], subcommands: list[str]) -> tuple[list[str], dict[str, str]]:
    """Put the recipe of ``--model X`` in front unless there is a ``--config``; make a class name of ``--data Y``.

    Returns:
        The new arguments, and the flags among them with their values.
    """
    args, flags = list(args), {}
    for i, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        value = value if equals else next(iter(args[i + 1 :]), "")
        if flag in ("--data", "--data.help") and f"{value}DataModule" in datamodules.__all__:
            value += "DataModule"
            args[i if equals else i + 1] = f"{flag}={value}" if equals else value
        if flag.startswith("-"):
            flags[flag] = value
    paper = flags.get("--model", "").removeprefix("zoo.")
    if paper in zoo.__all__ and not flags.keys() & {"-c", "--config"}:
        at = int(args[0] in subcommands)
        args.insert(at, f"--config={Path(inspect.getfile(getattr(zoo, paper))).with_name('recipe.yaml')}")
    return args, flags


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a file that Lightning saved, without loading its tensors into memory.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else, or damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"--ckpt_path {path}: no such file; expected a checkpoint of `train.py fit`")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError, EOFError, KeyError, OSError, pickle.UnpicklingError) as error:
        what = "damaged, or not a checkpoint of Lightning with tensors and plain values only"
        raise ValueError(f"--ckpt_path {path}: {what}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"--ckpt_path {path}: holds no `state_dict`; expected a checkpoint that Lightning saved")
    return checkpoint


def parameters(class_path: str) -> set[str]:
    """Names of the arguments of a class's constructor."""
    module, _, name = class_path.rpartition(".")
    return set(inspect.signature(getattr(sys.modules[module], name)).parameters)


def suggestion(name: str, known: Any) -> str:
    """What was expected instead of an unknown name: all of a few, the closest of many."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 3)
    all_of_them = f"; expected one of {', '.join(known)}" if len(known) <= 40 else "" if close else "; see --help"
    return all_of_them + (f"; did you mean {' or '.join(close)}?" if close else "")


def in_one_line(message: str) -> str:
    """The essence of a message of jsonargparse: which argument, what was expected, what came."""
    keys = re.findall(r'Parser key "([^"]+)":', message)
    option = re.search(r"given class_path '([^']+)':\s+Option '(\w+)' is not accepted", message)
    name = re.search(r"Expected a dot import path string: (\S+)", message)
    if option:
        keys.append(option[2])
        essence = f"{option[1]} takes no such argument{suggestion(option[2], parameters(option[1]))}"
    elif name:
        known = {"model": [zoo], "data": [datamodules], "trainer.callbacks": [callbacks, lightning.pytorch.callbacks]}
        packages = known.get(keys[-1], [lightning.pytorch.loggers])
        essence = f"no such class: {name[1]}{suggestion(name[1], [n for package in packages for n in package.__all__])}"
    else:
        lines = [re.sub(r'Parser key "[^"]+":', "", line).strip().removeprefix("- ") for line in message.splitlines()]
        kept = dict.fromkeys(line for line in lines if not re.match(NOISE, line))
        essence = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", "; ".join(kept))
        given = re.findall(r"Given value: (?!NestedArg)(.{1,80})", message)
        essence = essence.replace("Expected a", "expected a").replace('"<unicode string>"', "the file")
        essence += f"; got {given[0]}" if given else ""
    return f"--{'.'.join(keys)}: {essence}" if keys else essence


def explanation(error: BaseException) -> str | None:
    """The message, if somebody wrote it for whoever gives the input; None for a bug."""
    while error.__cause__ and str(error).startswith(
        "Does not validate"
    ):  # jsonargparse about an error of a constructor
        error = error.__cause__
    if isinstance(error, OSError) and error.filename:
        return f"cannot use {error.filename}: {error.strerror}"
    if str(error).startswith("Error(s) in loading state_dict"):
        return "the checkpoint does not fit the module: " + "; ".join(map(str.strip, str(error).splitlines()[:3]))
    place = traceback.extract_tb(error.__traceback__)[-1]
    ours = [Path(inspect.getfile(package)).resolve().parent for package in (zoo, datamodules, callbacks, connectors)]
    inside = place.filename == __file__ or any(Path(place.filename).resolve().is_relative_to(path) for path in ours)
    raised = (place.line or "").startswith("raise ")
    return str(error) if isinstance(error, OSError | MisconfigurationException) or (inside and raised) else None


def main(args: ArgsType = None, run: bool = True) -> ZooCLI:
    """Run the command line.

    Args:
        args: Instead of ``sys.argv[1:]``.
        run: Whether ``args`` begin with a subcommand, which is run; otherwise everything is built and returned.

    Raises:
        SystemExit: With status 0 after a help text, 2 or 1 after an error in the input.
    """
    for package, content in ((zoo, "JEM"), (datamodules, "DigitsDataModule"), (callbacks, "Report")):
        if not hasattr(package, content):
            hiding = getattr(package, "__file__", None) or next(iter(package.__path__))
            sys.stderr.write(f"error: {hiding} hides the zoo's own package {package.__name__!r}: rename or move it\n")
            raise SystemExit(2)
    try:
        return ZooCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            parser_class=Parser,
            parser_kwargs={"allow_abbrev": False},
            args=args,
            run=run,
        )
    except Exception as error:
        message = explanation(error)
        if DEBUG in os.environ or message is None:
            raise
        sys.stderr.write(f"error: {message}\n")
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
