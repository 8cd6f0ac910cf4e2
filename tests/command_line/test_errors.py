"""What the command line says of bad input: one line, with the way to the traceback of what nobody expected."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import BARE, CLASSIFIER, QUICK, files, line_of, refused, small_jem
from jsonargparse import ArgumentError
from lightning.pytorch import Trainer

import callbacks
import datamodules
import train
import zoo
from zoo.command_line.messages import explain

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], ["subcommand", "fit", "predict"]),
        (["fitt"], ["'fitt'", "validate"]),
        (["fit"], ["--model", "--data"]),
        (
            ["fit", "--model", "Clasifier"],
            ["--model", "Clasifier", "expected one of AnnealedVAE, BetaTCVAE, BetaVAE, Class", "did you mean Class"],
        ),
        (["fit", *CLASSIFIER, "--data", "MNST"], ["--data", "MNST", "DigitsDataModule", "USPSDataModule"]),
        (["fit", *CLASSIFIER, "--model", "DigitsDataModule"], ["--model", "DigitsDataModule", "Classifier"]),
        (["fit", *CLASSIFIER, "--model.lrr", "1"], ["--model.lrr", "zoo.Classifier", "did you mean lr?"]),
        (["fit", *CLASSIFIER, "--model.lr", "fast"], ["--model.lr", "float", "fast"]),
        (["fit", "--model", "JEM", "--model.optimizer", "x"], ["--model.optimizer", "Literal['adam', 'sgd'], got x"]),
        (
            ["fit", *CLASSIFIER, "--model", "datamodules.DigitsDataModule"],
            ["--model", "LightningModule", "got data"],
        ),
        (["fit", *CLASSIFIER, "--model.network_args", "3"], ["--model.network_args", "dict", "3"]),
        (["fit", *CLASSIFIER, "--data.batch_size", "[1, 2]"], ["--data.batch_size", "int", "[1, 2]"]),
        (["fit", *CLASSIFIER, "--trainer.max_epoch", "3"], ["--trainer.max_epoch", "trainer.max_epochs"]),
        (["fit", *CLASSIFIER, "--trainer.max_epochs", "x"], ["--trainer.max_epochs", "int", "x"]),
        (["fit", *CLASSIFIER, "--trainer.callbacks+=Reprt"], ["--trainer.callbacks", "Reprt", "did you mean Report"]),
        (["fit", *CLASSIFIER, "--trainer.logger=Nope"], ["--trainer.logger", "Nope", "CSVLogger"]),
        (["fit", "--config", "no.yaml"], ["--config", "no.yaml"]),
        (["fit", "--config", "broken.yaml"], ["broken.yaml", "line 1"]),
        (["fit", "--config", "misspelt.yaml"], ["misspelt.yaml", "--model", "Clasifier", "did you mean Classifier"]),
        (["fit", "--config", "wrong.yaml"], ["wrong.yaml", "--trainer.max_epochs", "int", "got x"]),
        (["fit", "--config", "twice.yaml"], ["twice.yaml", "'max_epochs' is there twice, in line 3"]),
        (["fit", "--model", "nowhere.Mine"], ["--model", "nowhere.Mine"]),
        (["fit", "--model"], ["--model"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_that_names_it_and_what_was_expected(capsys, folder, args, says):
    (folder / "broken.yaml").write_text("model: [1\n")
    (folder / "twice.yaml").write_text("trainer:\n  max_epochs: 1\n  max_epochs: 2\n")
    (folder / "wrong.yaml").write_text("trainer: {max_epochs: x}\n")
    (folder / "misspelt.yaml").write_text("model: {class_path: Clasifier}\ndata: {class_path: DigitsDataModule}")
    status, line = refused(capsys, *args)
    assert status == 2
    assert [word for word in says if word not in line] == [], line
    assert "class '" not in line, line


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model.network=Nope"], ["'Nope'", "SmallConvNet"]),
        (["--trainer.accelerator=abacus"], ["Trainer cannot be built", "abacus"]),
        (["--data.batch_size=5000"], ["batch_size=5000", "1197 training images"]),
        (["--data.ood=[far/nowhere]"], ["far/nowhere", "far/uniform"]),
        (["--data=MNIST", "--data.data_dir=nowhere"], ["nowhere", "train-images-idx3-ubyte"]),
    ],
)
def test_a_value_that_a_constructor_or_the_data_refuse_is_one_line(capsys, args, says):
    status, line = refused(capsys, "fit", *CLASSIFIER, *QUICK, *BARE, *args)
    assert status == 1
    assert [word for word in says if word not in line] == [], line


def test_an_unwritable_folder_is_one_line_and_nothing_before_it_is_lost(capsys, folder):
    (folder / "runs").write_text("precious")  # a file where the folder should be: for root, too, not writable
    for args in ([], ["--trainer.logger=false", "--trainer.callbacks=null"]):
        status, line = refused(capsys, "fit", *CLASSIFIER, *QUICK, *args)
        assert status == 1
        assert "runs" in line
    assert files(folder) == {"runs": b"precious"}


def test_only_a_package_of_the_zoo_speaks_to_the_user():
    class Own(datamodules.DigitsDataModule):
        def train_dataloader(self) -> Any:
            raise ValueError("a bug of a subclass")

    with pytest.raises(ValueError, match="a bug") as theirs:
        Own().train_dataloader()
    with pytest.raises(ValueError, match="num_classes") as ours:
        zoo.Classifier(num_classes=1)
    assert explain(theirs.value, {}) == (1, "ValueError: a bug of a subclass (ZOO_DEBUG=1 shows where)")
    assert explain(ours.value, {}) == (1, str(ours.value))


class Bug(Exception):
    """Nothing that anybody would expect."""


def broken(*_: Any) -> None:
    raise Bug("first line\nsecond line")


def test_an_unexpected_error_in_a_training_is_one_line_that_names_the_file_with_its_traceback(
    capsys, folder, monkeypatch
):
    monkeypatch.setattr(zoo.Classifier, "training_step", broken)
    line = line_of(capsys, "fit", *CLASSIFIER, *QUICK, "--trainer.callbacks=null")
    path = folder / "runs" / "classifier" / "version_0" / "traceback-0.txt"
    said = f"error: Bug: first line second line (traceback in {path.relative_to(folder)})"
    assert line == said
    assert "in broken" in path.read_text()
    assert path.read_text().startswith("Traceback (most recent call last):\n")
    assert path.read_text().endswith("Bug: first line\nsecond line\n")
    line = line_of(capsys, "fit", *CLASSIFIER, *QUICK, *BARE, "--trainer.default_root_dir=there")
    assert line.endswith("(traceback in there/traceback-0.txt)")
    assert "in broken" in (folder / "there" / "traceback-0.txt").read_text()


def test_a_traceback_that_cannot_be_written_is_on_the_terminal(capsys, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zoo.Classifier, "training_step", broken)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SystemExit):
        train.main(["fit", *CLASSIFIER, *QUICK, *BARE])
    said = capsys.readouterr().err
    assert "in broken" in said
    assert said.endswith("error: Bug: first line second line (ZOO_DEBUG=1 shows where)\n")


def test_bad_input_in_a_training_leaves_no_traceback(capsys, folder):
    assert "batch_size=5000" in line_of(capsys, "fit", *CLASSIFIER, *QUICK, *BARE, "--data.batch_size=5000")
    assert not list(folder.rglob("traceback*"))


def test_every_error_shows_its_traceback_on_request(monkeypatch):
    monkeypatch.setenv("ZOO_DEBUG", "1")
    with pytest.raises(ValueError, match="Nope"):
        train.main(["fit", *CLASSIFIER, *QUICK, *BARE, "--model.network=Nope"])
    with pytest.raises(ArgumentError, match="Clasifier"):
        train.main(["fit", "--model", "Clasifier"])


class Few(datamodules.DigitsDataModule):
    """The digits, cut to a few images."""

    def __init__(self, number: int = 1, one_class: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.number, self.one_class = number, one_class

    def load_split(self, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = super().load_split(train)
        return images[: self.number], labels[: self.number] * (not self.one_class)


def quiet_trainer(folder: Path, *extra: Any) -> Trainer:
    return Trainer(
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*extra],
    )


@pytest.mark.parametrize("module", [zoo.Classifier, small_jem])
def test_a_set_smaller_than_its_batch_is_refused_and_a_batch_of_one_image_trains(folder, module):
    with pytest.raises(ValueError, match="batch_size=2 is more than the 1 training images"):
        quiet_trainer(folder).fit(module(), datamodule=Few(1, batch_size=2, val_split=0))
    with pytest.raises(ValueError, match="val_split=300 leaves none of the 1 images"):
        quiet_trainer(folder).fit(module(), datamodule=Few(1, batch_size=1))
    model = module()
    quiet_trainer(folder).fit(model, datamodule=Few(1, batch_size=1, val_split=0))
    assert all(value.isfinite().all() for value in model.parameters())


def test_one_class_is_refused_where_it_cannot_be_judged():
    with pytest.raises(ValueError, match="num_classes is 1; expected a number of at least 2"):
        zoo.Classifier(num_classes=1)
    with pytest.raises(ValueError, match="a classifier needs two classes"):
        datamodules.DigitsDataModule(held_out_classes=list(range(9)))


@pytest.mark.parametrize("few", [{"number": 1}, {"number": 40, "one_class": True}])
def test_one_test_image_or_one_class_of_them_are_judged_without_nonsense(folder, few):
    data = Few(**few, val_split=0, ood=["far/uniform"])
    calibration, ood = callbacks.CalibrationEvaluation(), callbacks.OODEvaluation(scores=["energy"], resamples=10)
    quiet_trainer(folder, calibration, ood).test(zoo.Classifier(), datamodule=data, verbose=False)
    json.dumps([calibration.results, ood.results], allow_nan=False)
