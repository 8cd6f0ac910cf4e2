"""A checkpoint on the command line brings its arguments and its data, and refuses what does not fit."""

from pathlib import Path

import pytest
import torch
from command_lines import BARE, CLASSIFIER, QUICK, files, fitted, printed, python_checkpoint, refused, small_jem
from lightning.pytorch import LightningDataModule

import datamodules
import train
import zoo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_checkpoint_brings_its_arguments_from_the_command_line_and_from_python(folder):
    ours = fitted(folder, "--model.network_args={width: 6}")
    theirs = python_checkpoint(folder / "python.ckpt", zoo.Classifier(network_args={"width": 6}))
    for path in (ours, theirs):
        cli = train.main(["test", *CLASSIFIER, *QUICK, *BARE, "--ckpt_path", path])
        assert cli.model.hparams["network_args"] == {"width": 6}


def test_a_checkpoint_brings_its_data_unless_others_are_asked_for(capsys, folder):
    path = fitted(folder, "--data.held_out_classes=[8, 9]", "--data.eval_batch_size=32")
    cli = train.main(["test", *CLASSIFIER, *QUICK, *BARE, "--ckpt_path", path])
    assert cli.datamodule.num_classes == 8
    assert cli.datamodule.eval_batch_size == 32
    there = ["--data.data_dir=elsewhere", "--data.init_args.eval_batch_size=64"]
    cli = train.main(["test", *CLASSIFIER, *QUICK, *BARE, "--ckpt_path", path, *there])
    assert cli.datamodule.num_classes == 8
    assert cli.datamodule.data_dir == "elsewhere"
    assert cli.datamodule.eval_batch_size == 64
    status, line = refused(capsys, "test", *CLASSIFIER, *QUICK, *BARE, "--ckpt_path", path, "--data", "Digits")
    assert status == 1
    assert "num_classes=8" in line


def test_a_resumed_fit_goes_on_from_the_step_of_its_checkpoint(folder):
    path = fitted(folder)
    more = ["--trainer.max_steps=3", f"--trainer.default_root_dir={folder / 'more'}"]
    cli = train.main(["fit", *CLASSIFIER, *QUICK, *BARE, *more, "--ckpt_path", path])
    assert cli.trainer.global_step == 3


@pytest.mark.parametrize("name", ["PointRegression", "GaussianRegression", "MixtureDensityNetwork"])
def test_a_class_that_shares_a_recipe_keeps_the_arguments_that_it_has(capsys, name):
    recipe = printed(capsys, "fit", "--model", "HistogramRegression")
    baseline = printed(capsys, "fit", "--model", name)
    own, theirs = baseline["model"]["init_args"], recipe["model"]["init_args"]
    assert "bins" not in own
    assert own["hidden"] == theirs["hidden"] != [192] * 4
    assert {key: baseline[key] for key in baseline if key != "model"} == {k: recipe[k] for k in recipe if k != "model"}


def test_building_a_run_reads_no_data_though_they_lack_what_other_modules_take_from_them(monkeypatch):
    read: list[str] = []
    for kind in (datamodules.UCIRegressionDataModule, datamodules.DigitsDataModule):
        for method in ("load_table", "load_split"):
            monkeypatch.setattr(kind, method, lambda *_, method=method: read.append(method), raising=False)
    for name in ("HistogramRegression", "JEM", "Classifier"):
        train.main(["--model", name], run=False)
    assert read == []
    assert "dataloader" in str(LightningDataModule()), "Lightning's own description is back"


def test_a_checkpoint_of_another_class_is_refused(capsys, folder):
    ours = fitted(folder)
    status, line = refused(capsys, "test", "--model", "JEM", "--ckpt_path", ours)
    assert status == 1
    assert ours in line
    assert "zoo.Classifier" in line
    assert "zoo.JEM" in line
    theirs = python_checkpoint(folder / "python.ckpt", small_jem())
    status, line = refused(capsys, "test", *CLASSIFIER, "--ckpt_path", theirs)
    assert status == 2
    assert "zoo.Classifier takes no such argument" in line


def test_a_checkpoint_is_refused_with_data_of_another_shape_and_with_arguments_that_it_would_beat(capsys, folder):
    path = fitted(folder)
    status, line = refused(capsys, "test", *CLASSIFIER, "--data", "MNIST", "--ckpt_path", path)
    assert status == 1
    assert "image_shape" in line
    assert "28" in line
    status, line = refused(capsys, "test", *CLASSIFIER, "--model.lr=0.5", "--ckpt_path", path)
    assert status == 1
    assert "--model.lr" in line


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "garbage", "state only"])
def test_a_missing_or_damaged_checkpoint_is_named_and_nothing_is_written(capsys, folder, damage):
    whole = Path(fitted(folder / "good"))
    path = folder / "x.ckpt"
    if damage == "state only":
        torch.save(torch.load(whole, weights_only=True)["state_dict"], path)
    elif damage != "missing":
        content = {"empty": b"", "garbage": b"not a checkpoint" * 99, "truncated": whole.read_bytes()[:-2000]}
        path.write_bytes(content[damage])
    before = files(folder)
    for subcommand in ("test", "fit"):
        status, line = refused(capsys, subcommand, *CLASSIFIER, "--ckpt_path", str(path))
        assert status == 1
        assert str(path) in line
        assert ("no such file" if damage == "missing" else "checkpoint") in line
    assert files(folder) == before
