"""Train, validate, test and predict with any paper of the zoo, from the command line.

    python train.py fit --model JEM                        the paper's recipe, on embedded data
    python train.py fit --model JEM --model.lr 3e-4        ... with one value changed
    python train.py fit --model JEM --data MNIST           ... on other data
    python train.py fit --config zoo/classifier/paper_cifar10.yaml --data.data_dir DIR
    python train.py test --model JEM --ckpt_path FILE      judge a checkpoint
    python train.py fit --model JEM --ckpt_path last       start, or continue where the newest run was interrupted

``--model X`` without ``--config`` starts from X's ``recipe_X.yaml``, or else its folder's ``recipe.yaml``. ``--data Y``
(``YDataModule``) replaces the recipe's data module and keeps the arguments that both have. ``--print_config``,
``--model.help X`` and ``--data.help Y`` show what there is. A checkpoint brings its module's arguments, which win over
everything else, and the data that it was trained on, unless ``--data`` or ``--config`` says otherwise.

An error ends with one line, and with status 2 for the command line or 1 for what goes wrong later. The traceback of an
unexpected one is in a file in the run's folder, which the line names; ``ZOO_DEBUG=1`` shows it on the terminal.
"""

import inspect
import json
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch import loggers as lightning_loggers
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

import zoo
from callbacks import CleanStop, EndTogether, KeptLogs
from callbacks import __all__ as callback_names
from callbacks.runs.clean_stop import requeued_from
from callbacks.runs.whole_checkpoints import WholeCheckpoints
from callbacks.shared.logger_errors import survive_logger_errors
from datamodules import __all__ as data_names
from zoo.command_line import messages, resume, trained
from zoo.command_line.parser import Parser, spell_out
from zoo.shared.private_names import data_not_read_for_a_message, prefer_whole_numbers

NAMES = {  # what each argument takes for what
    "model": {name: f"zoo.{name}" for name in zoo.__all__},
    "data": {short: f"datamodules.{name}" for name in data_names for short in (name, name.removesuffix("DataModule"))},
}
KNOWN = {
    "model": zoo.__all__,
    "data": data_names,
    "trainer.callbacks": [*callback_names, *lightning_callbacks.__all__],
    "trainer.logger": [name for name in lightning_loggers.__all__ if name not in ("Logger", "LitLogger")],  # no classes
}


class ZooCLI(LightningCLI):
    """LightningCLI with a recipe for each paper, and checkpoints that need no further arguments."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Raise errors, for `main` to explain, and take no abbreviations."""
        return super().init_parser(exit_on_error=False, allow_abbrev=False, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Take from the data what only the data know; whoever lacks such an argument is skipped quietly."""
        prefer_whole_numbers(parser)
        for name in trained.FROM_DATA:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Spell short names out, and put in front what the rest changes."""
        args = [f"--config={json.dumps(args, default=str)}"] if isinstance(args, dict) else args
        given, self.flags = spell_out([str(arg) for arg in (sys.argv[1:] if args is None else args)], NAMES)
        at = 1 if given and given[0] in self.subcommands() else 0
        self.config = parser.parse_args([*given[:at], *starting_points(self.flags), *given[at:]])
        subcommand = self.config.get("subcommand")  # hidden, or Lightning imports what the checkpoint's arguments name
        self.ckpt_path = self.config[subcommand].pop("ckpt_path") if subcommand else None

    def before_instantiate_classes(self) -> None:
        """Take the module's arguments from the checkpoint."""
        self.trained: dict[str, Any] = {}
        if not self.subcommand:
            return
        options = self.config[self.subcommand]
        options.ckpt_path, fits = self.ckpt_path, self.subcommand == "fit"
        if options.weights_only is False:
            raise ValueError("--weights_only false would run what a checkpoint says: expected true; load it in Python")
        options.weights_only = True  # whatever TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD says
        requeued = requeued_from(options.trainer.default_root_dir)
        if fits and requeued and options.ckpt_path in (None, "last"):
            resume.resume_from(requeued, options)
        if options.ckpt_path == "last":
            resume.resolve(options, fits)
        if options.ckpt_path:
            kind, given = options.model.class_path, options.model.get("init_args", {})
            self.trained = trained.trained_arguments(options.ckpt_path, kind, self.flags, given)
            model = {"class_path": kind, "init_args": self.trained}
            self.config = self.parser.parse_object({self.subcommand: {"model": model}}, self.config)
        elif not fits:
            rank_zero_warn("no --ckpt_path: these are untrained weights")

    def instantiate_classes(self) -> None:
        """Build everything."""
        with data_not_read_for_a_message():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build it, with checkpoints that are whole and loggers that may fail."""
        trainer = super().instantiate_trainer(**kwargs)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one that the user chose
            trainer.strategy.checkpoint_io = WholeCheckpoints()
        survive_logger_errors(trainer)
        foreign = entry_points(group="lightning.pytorch.callbacks_factory")  # Lightning takes them without a word
        if foreign and trainer.is_global_zero:
            names = ", ".join(f"{each.value} of {each.dist.name if each.dist else each.name}" for each in foreign)
            sys.stderr.write(f"note: installed packages add callbacks to this run: {names}\n")
        return trainer

    def after_instantiate_classes(self) -> None:
        """Refuse data of another kind than the checkpoint's, which a fully convolutional network would accept."""
        for name in trained.FROM_DATA:
            then, now = self.trained.get(name), getattr(self.datamodule, name, None)
            if None not in (then, now) and not trained.equal_in_yaml(then, now):
                raise ValueError(f"the checkpoint was trained with {name}={then}, but the data have {now}: set --data")


def starting_points(flags: dict[str, str]) -> list[str]:
    """The recipe of ``--model X``, and the data that the checkpoint was trained on."""
    if flags.keys() & {"-c", "--config"}:
        return []
    configs, paper = [], flags.get("--model", "").removeprefix("zoo.")
    if paper in zoo.__all__:
        folder = Path(inspect.getfile(getattr(zoo, paper))).parent
        configs.append(f"--config={next(folder.rglob(f'recipe_{paper}.yaml'), folder / 'recipe.yaml')}")
    if "--data" not in flags and (data := trained.trained_data(flags.get("--ckpt_path"), flags.get("--model", ""))):
        configs.append(f"--config={json.dumps({'data': data})}")
    return configs


def main(args: list[str] | dict[str, Any] | None = None, run: bool = True) -> ZooCLI:
    """Run arguments (of the process) or a configuration; without `run` there is no subcommand: build everything."""
    usages = {name: {"usage": f"train.py {name} --model NAME [options]"} for name in ZooCLI.subcommands()}
    try:
        return ZooCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            trainer_defaults={"callbacks": [messages.TracebackFile(), CleanStop(), EndTogether(), KeptLogs()]},
            save_config_callback=trained.SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            parser_class=Parser,
            parser_kwargs={"description": "For example: train.py fit --model JEM", **usages},
            args=args,
            run=run,
        )
    except KeyboardInterrupt:  # before a trainer was there to end by itself
        sys.stderr.write("interrupted before anything was trained\n")
        raise SystemExit(130) from None
    except Exception as error:
        if os.environ.get("ZOO_DEBUG"):
            raise
        status, line = messages.explain(error, KNOWN)
        sys.stderr.write(f"error: {line}\n")
        raise SystemExit(status) from error


if __name__ == "__main__":
    main()
