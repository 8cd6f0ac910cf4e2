"""Train, validate, test and predict with any paper of the zoo, from the command line.

    python train.py fit --model JEM                        the paper's recipe, on embedded data
    python train.py fit --model JEM --model.lr 3e-4        ... with one value changed
    python train.py fit --model JEM --data MNIST           ... on other data
    python train.py fit --config zoo/classifier/paper_cifar10.yaml --data.data_dir DIR
    python train.py test --model JEM --ckpt_path FILE      judge a checkpoint
    python train.py fit --model JEM --ckpt_path last       start, or go on where the newest run was interrupted

``--model X`` without ``--config`` starts from X's ``recipe_X.yaml``, or else its folder's ``recipe.yaml``. ``--data Y``
(``YDataModule``) replaces the recipe's data module and keeps the arguments that both have. ``--print_config``,
``--model.help X`` and ``--data.help Y`` show what there is. A checkpoint brings its module's arguments, which win over
everything else, and the data that it was trained on, unless ``--data`` or ``--config`` says otherwise.

Bad input ends with one line, and with status 2 for the command line or 1 for what goes wrong later. The environment
variable ``ZOO_DEBUG=1`` asks for the traceback.
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch import loggers as lightning_loggers
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

try:
    import zoo
    from callbacks import CleanStop, EndTogether, KeptLogs
    from callbacks import __all__ as callback_names
    from callbacks.runs.clean_stop import requeued_from
    from callbacks.runs.whole_checkpoints import WholeCheckpoints
    from callbacks.shared.logger_errors import survive_logger_errors
    from datamodules import __all__ as data_names
    from zoo.command_line import messages as errors
    from zoo.command_line import parser as cli
    from zoo.command_line import resume as last
    from zoo.command_line import trained
    from zoo.command_line.saved_config import SaveConfig
except ImportError as error:
    hiding = sys.modules.get(error.name or "")
    if hiding is None or error.name not in ("zoo", "callbacks", "datamodules"):
        raise
    raise SystemExit(f"error: {hiding} hides the zoo's own package: rename or move it") from error

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
        cli.whole_numbers_first(parser)
        for name in trained.FROM_DATA:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Spell short names out, and put in front what the rest changes; a dictionary stands for itself."""
        self.flags: dict[str, str] = {}
        args = sys.argv[1:] if args is None else args
        if isinstance(args, list):
            args, self.flags = cli.spell_out([str(arg) for arg in args], NAMES)
            at = 1 if args and args[0] in self.subcommands() else 0
            self.config = parser.parse_args([*args[:at], *starting_points(self.flags), *args[at:]])
        else:
            super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        """Take the module's arguments from the checkpoint; Lightning's own builds its class whatever `--model` says."""
        subcommand, self.trained = self.config.get("subcommand"), {}
        cli.check_run(self.config[subcommand] if subcommand else self.config)
        if subcommand:
            trained.insist_on_weights_only(self.config[subcommand])
        if subcommand == "fit" and self.config.fit.get("ckpt_path") in (None, "last"):
            last.go_on(self.config.fit, requeued_from(self.config.fit.trainer.default_root_dir))
        if subcommand and self.config[subcommand].get("ckpt_path") == "last":
            last.resolve(self.config[subcommand], subcommand == "fit")
        if subcommand and (path := self.config[subcommand].get("ckpt_path")):
            model = self.config[subcommand].model.class_path
            given = self.config[subcommand].model.get("init_args", {})
            self.trained = trained.trained_arguments(path, model, self.flags, given)
            found = {"model": {"class_path": model, "init_args": self.trained}}
            self.config = self.parser.parse_object({subcommand: found}, self.config)
        elif subcommand and subcommand != "fit":
            rank_zero_warn("no --ckpt_path: these are untrained weights")

    def instantiate_classes(self) -> None:
        """Build everything; jsonargparse writes the data into a message, for which Lightning would read them."""
        described = LightningDataModule.__str__
        LightningDataModule.__str__ = LightningDataModule.__repr__  # type: ignore[method-assign]  # for a moment
        try:
            super().instantiate_classes()
        except Exception as error:
            if refusal := errors.not_built(error):
                raise refusal from error
            raise
        finally:
            LightningDataModule.__str__ = described  # type: ignore[method-assign]  # as it was

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build it, with checkpoints that are whole and loggers that may fail."""
        trainer = super().instantiate_trainer(**kwargs)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one that the user chose
            trainer.strategy.checkpoint_io = WholeCheckpoints()
        survive_logger_errors(trainer)
        return trainer

    def after_instantiate_classes(self) -> None:
        """Refuse data of another kind than the checkpoint's."""
        trained.check_data(self.trained, self.datamodule)


def starting_points(flags: dict[str, str]) -> list[str]:
    """The recipe of ``--model X``, and the data that the checkpoint was trained on."""
    if flags.keys() & {"-c", "--config"}:
        return []
    found, paper = [], flags.get("--model", "").removeprefix("zoo.")
    if paper in zoo.__all__:
        recipe = Path(inspect.getfile(getattr(zoo, paper))).with_name("recipe.yaml")
        own = recipe.with_name(f"recipe_{paper}.yaml")  # of a module that learns from other data than its folder's
        found.append(f"--config={own if own.exists() else recipe}")
    if "--data" not in flags and (data := trained.trained_data(flags.get("--ckpt_path"), flags.get("--model", ""))):
        found.append(f"--config={json.dumps({'data': data})}")
    return found


def main(args: ArgsType = None, run: bool = True) -> ZooCLI:
    """Run the arguments, by default those of the process; without `run` they have no subcommand: build everything."""
    usages = {name: {"usage": f"train.py {name} --model NAME [options]"} for name in ZooCLI.subcommands()}
    try:
        return ZooCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            trainer_defaults={"callbacks": [CleanStop(), EndTogether(), KeptLogs()]},
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            parser_class=cli.Parser,
            parser_kwargs={"description": "For example: train.py fit --model JEM", **usages},
            args=args,
            run=run,
        )
    except KeyboardInterrupt:  # before a trainer was there to end by itself
        sys.stderr.write("interrupted before anything was trained\n")
        raise SystemExit(130) from None
    except Exception as error:
        if (found := errors.explain(error, KNOWN)) is None:
            raise
        sys.stderr.write(f"error: {found[1]}\n")
        raise SystemExit(found[0]) from error


if __name__ == "__main__":
    main()
