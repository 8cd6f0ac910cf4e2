"""The private names of Lightning and jsonargparse that `zoo` relies on, all of them in zoo/shared/private_names.py."""

import ast
import inspect
from pathlib import Path
from typing import get_args

import pytest
import torch
from command_lines import checkpoint_of_two_steps
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

import train
from zoo.command_line.parser import Parser
from zoo.shared import private_names

ROOT = Path(__file__).resolve().parents[2]


def test_the_parser_lists_its_arguments_in_actions_and_jsonargparse_keeps_their_types_in_typehint():
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_argument("--either", type=float | int | None)
    (action,) = (each for each in parser._actions if each.dest == "either")
    assert get_args(action._typehint) == (float, int, type(None))
    private_names.prefer_whole_numbers(parser)
    assert get_args(action._typehint) == (int, float, type(None))
    assert type(parser.parse_args(["--either=1"]).either) is int


def test_lightning_builds_the_loaders_of_data_to_describe_them_in_a_message_and_not_while_classes_are_built():
    read = []

    class Data(LightningDataModule):
        def train_dataloader(self):
            read.append(self)
            return DataLoader(range(2))

    str(Data())
    assert len(read) == 1
    with private_names.data_not_read_for_a_message():
        assert "Data" in str(Data())
    assert len(read) == 1


def test_lightnings_command_line_names_the_class_and_the_instantiator_in_a_modules_arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = torch.load(checkpoint_of_two_steps(tmp_path), weights_only=True)["hyper_parameters"]
    assert arguments[private_names.CLASS_PATH] == "zoo.Classifier"
    assert private_names.INSTANTIATOR in arguments


def test_the_parser_of_a_subcommand_comes_with_the_error_about_its_option(monkeypatch):
    seen = []
    monkeypatch.setattr(Parser, "error", lambda self, message, ex=None: seen.append(ex) or exit(2))
    with pytest.raises(SystemExit):
        train.main(["fit", "--model=Classifier", "--config={trainer: {max_epoch: 1}}", "--data=Digits"])
    assert private_names.subcommand_parser(seen[0], None).get_defaults().get("trainer.max_epochs", 0) != 0


def test_the_trainer_asks_its_data_connector_for_distributed_samplers_and_its_epoch_loop_for_signals():
    trainer = Trainer(fast_dev_run=True, logger=False, accelerator="cpu", enable_model_summary=False)
    asked = []
    private_names.deal_no_training_batches(trainer)
    samplers = trainer._data_connector._requires_distributed_sampler
    trainer._data_connector._requires_distributed_sampler = lambda loader: asked.append("samplers") or samplers(loader)
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: asked.append("signals")
    trainer.fit(BoringModel(), BoringDataModule())
    assert "samplers" in asked
    source = inspect.getsource(type(trainer.fit_loop.epoch_loop).advance)
    assert "_broadcast_sigterm_tensor()" in source


def test_the_strategy_of_several_processes_configures_its_launcher_and_keeps_its_batch_normalisation_apart():
    """What `PipelineStrategy` overrides and reads: only a subclass can, so these two stand in its file."""
    assert inspect.isfunction(DDPStrategy._configure_launcher)
    assert DDPStrategy()._layer_sync is None


# torch's base class, a public method of named tuples, the zoo's own, and what a subclass overrides (the test above)
OTHERS = ("_BatchNorm", "_asdict", "_add", "_configure_launcher")


def test_no_other_file_of_the_zoo_uses_a_private_name_of_an_object_of_lightning_or_jsonargparse():
    """Private are attributes with one underscore, of anything but `self` and `cls`."""
    found = []
    for path in [ROOT / "train.py", *sorted((ROOT / "zoo").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            private = isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
            if (
                private
                and node.attr not in OTHERS
                and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
            ):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    assert [each for each in found if "private_names.py" not in each] == []
