"""Real processes of the command line, a user's own project, and classes of a user's on the command line."""

import importlib
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import pytest
import yaml
from child_runs import Child
from command_lines import BARE, CLASSIFIER, QUICK, files, python
from lightning.pytorch import LightningDataModule

import datamodules
import train
import zoo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_real_process_ends_with_one_line_and_status_2(folder):
    done = python(folder, str(ROOT / "train.py"), "fit", "--model", "Clasifier")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --model: no such class: Clasifier")
    assert done.stderr.count("\n") == 1


FACTORY = """
from lightning.pytorch import Callback

class Foreign(Callback):
    pass

def make():
    return [Foreign()]
"""


def test_an_installed_package_that_adds_callbacks_to_every_trainer_is_named_in_one_line(folder, monkeypatch, capsys):
    (folder / "stranger.py").write_text(FACTORY)
    distribution = folder / "stranger-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (distribution / "entry_points.txt").write_text("[lightning.pytorch.callbacks_factory]\nmine = stranger:make\n")
    command = ["fit", *CLASSIFIER, *QUICK, *BARE, "--trainer.max_steps=1"]
    train.main(command)
    assert "callbacks to this run" not in capsys.readouterr().err
    monkeypatch.syspath_prepend(str(folder))
    train.main(command)
    notes = [line for line in capsys.readouterr().err.splitlines() if "callbacks to this run" in line]
    assert notes == ["note: installed packages add callbacks to this run: stranger:make of stranger"]


@pytest.mark.long
def test_a_folder_of_that_name_elsewhere_does_no_harm(folder):
    (folder / "callbacks").mkdir()
    (folder / "callbacks" / "__init__.py").write_text("")
    assert python(folder, str(ROOT / "train.py"), "--help", PYTHONPATH=str(folder)).returncode == 0


@pytest.mark.long
def test_two_processes_are_launched_from_the_command_line(folder):
    two = ["--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.accelerator=cpu", *QUICK]
    done = python(folder, str(ROOT / "train.py"), "fit", *CLASSIFIER, *two)
    assert done.returncode == 0, done.stderr
    run = folder / "runs" / "classifier" / "version_0"
    assert {"checkpoints/last.ckpt", "config.yaml", "metrics.csv", "report.html"} <= set(files(run))
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]


USERS_PROJECT = """
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from callbacks import CalibrationEvaluation, OODEvaluation, Randomness, SampleGrid
from zoo import JEM


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 16), torch.nn.SiLU())
        self.head = torch.nn.Linear(16, 3)

    def features(self, x):
        return self.body(x)

    def forward(self, x):
        return self.head(self.features(x))


class MyJEM(JEM):
    def build_network(self):
        return Net()


class MyData(LightningDataModule):
    num_classes, image_shape, test_sets = 3, (1, 6, 6), ("mine", "far/noise")

    def loader(self, seed, label=None):
        g = torch.Generator().manual_seed(seed)
        y = torch.arange(60) % 3
        x = torch.randn(60, 1, 6, 6, generator=g).mul(0.2).add((y - 1).view(-1, 1, 1, 1) * 0.5).clamp(-1, 1)
        return DataLoader(TensorDataset(x, y if label is None else torch.full_like(y, label)), 20)

    def train_dataloader(self):
        return self.loader(0)

    def val_dataloader(self):
        return self.loader(1)

    def test_dataloader(self):
        return [self.loader(2), self.loader(3, label=-1)]


model = MyJEM(num_classes=3, image_shape=(1, 6, 6), sgld_steps=2, memory_size=30, warmup_steps=0)
before = {name: value.clone() for name, value in model.named_parameters()}
evaluations = [CalibrationEvaluation(), OODEvaluation(resamples=10, knn_k=5), SampleGrid(number=4)]
trainer = Trainer(max_steps=2, accelerator="cpu", logger=False, callbacks=[Randomness(), *evaluations])
trainer.fit(model, datamodule=MyData())
assert trainer.global_step == 2
assert all(not torch.equal(before[name], value) for name, value in model.named_parameters())
trainer.test(model, datamodule=MyData())
assert "far/noise" in evaluations[1].results["sets"]
loaded = MyJEM.load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
assert type(loaded.network) is Net
"""


@pytest.mark.slow
def test_a_project_of_a_user_trains_a_subclass_on_its_own_data_with_our_callbacks(folder):
    (folder / "project.py").write_text(USERS_PROJECT)
    done = python(folder, "project.py")
    assert done.returncode == 0, done.stderr


def test_a_module_of_a_user_can_be_named_on_the_command_line(folder, monkeypatch):
    (folder / "mymodule.py").write_text(
        "import zoo\n\n\nclass Mine(zoo.Classifier):\n    '''Mine.\n\n    Args:\n        lr: Rate.\n    '''\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    cli = train.main(["--model", "mymodule.Mine", "--data", "Digits", "--model.lr", "0.5"], run=False)
    assert type(cli.model).__name__ == "Mine"
    assert isinstance(cli.datamodule, LightningDataModule)
    assert cli.model.hparams["lr"] == 0.5


NAMESAKES = """
import zoo, datamodules, callbacks

class JEM(zoo.JEM): pass
class Classifier(zoo.Classifier):
    def __init__(self, **arguments):
        super().__init__(**arguments)
class DigitsDataModule(datamodules.DigitsDataModule): pass
class Report(callbacks.Report): pass
"""


def meet_namesakes():
    namesakes = importlib.import_module("namesakes")
    for name in zoo.__all__:
        cli = train.main(["--model", name, *BARE], run=False)
        assert type(cli.model) is getattr(zoo, name)
        assert type(cli.datamodule) is getattr(datamodules, type(cli.datamodule).__name__)
    with redirect_stdout(StringIO()) as out, suppress(SystemExit):
        train.main(["fit", "--model=Classifier", "--data=Digits", "--print_config"])
    config = yaml.safe_load(out.getvalue())
    assert config["model"]["class_path"] == "zoo.Classifier"
    assert config["data"]["class_path"] == "datamodules.DigitsDataModule"
    assert "callbacks.Report" in [callback["class_path"] for callback in config["trainer"]["callbacks"]]
    theirs = [*QUICK, *BARE, "--data=Digits", "--data.batch_size=50"]
    train.main(["fit", "--model", "namesakes.Classifier", "--model.lr=0.5", *theirs])
    path = str(next(Path().glob("checkpoints/*.ckpt")))
    cli = train.main(["test", "--model", "namesakes.Classifier", *theirs, "--ckpt_path", path])
    assert type(cli.model) is namesakes.Classifier
    train.main(["test", *CLASSIFIER, "--ckpt_path", path])


def test_a_users_classes_of_the_same_names_leave_short_names_and_recipes_as_they_were(folder, monkeypatch):
    (folder / "namesakes.py").write_text(NAMESAKES)
    monkeypatch.syspath_prepend(str(folder))
    status, printed = Child(meet_namesakes).end()  # a process of its own: jsonargparse finds classes for ever
    assert status == 1, printed
    assert "is a checkpoint of namesakes.Classifier, but --model asks for zoo.Classifier" in printed
