"""The command line: recipes, checkpoints, loggers, and what it says to bad input."""

import gc
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_lines import BARE, CLASSIFIER, QUICK, refused
from jsonargparse import ArgumentError
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from teachers import save_teacher_of_recipe

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


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        train.main([*args, "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def fitted(folder: Path, *args: str) -> str:
    """A checkpoint of two steps from the command line."""
    train.main(["fit", *CLASSIFIER, *QUICK, *BARE, f"--trainer.default_root_dir={folder}", *args])
    return str(next(folder.glob("checkpoints/*.ckpt")))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("zoo/*/paper_*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_the_settings_of_a_published_experiment_build_its_module_its_data_and_its_trainer(path):
    built = train.main([f"--config={path}"], run=False)
    kinds = [name for name in ("num_classes", "num_features", "factor_sizes") if hasattr(built.datamodule, name)]
    assert len(kinds) == 1
    known = kinds[0] if kinds != ["factor_sizes"] else "image_shape"
    assert built.model.hparams[known] == getattr(built.datamodule, known)
    assert len(built.datamodule.test_sets) > (kinds == ["num_classes"])  # with classes, others than its own
    assert max(built.trainer.max_epochs, built.trainer.max_steps) > 1


LIKE_BETA_VAE = ("AnnealedVAE", "BetaTCVAE", "DIPVAE")  # the same recipe but for the model, and slow metrics


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in LIKE_BETA_VAE else []) for name in zoo.__all__]
)
def test_a_model_alone_trains_from_its_recipe_and_is_tested_from_its_checkpoint_without_another_flag(folder, name):
    data = train.main(["--model", name], run=False).datamodule
    classifies, pairs, factors = (hasattr(data, name) for name in ("num_classes", "val_sets", "factor_sizes"))
    few = ["--trainer.check_val_every_n_epoch=5"] if classifies else []
    few += ["--data.ood=[far/uniform]"] if classifies and not pairs else []
    (recipe,) = train.starting_points({"--model": name})
    save_teacher_of_recipe(Path(recipe.removeprefix("--config=")))
    teachers = set(folder.glob("runs/*/version_0"))
    train.main(["fit", "--model", name, *QUICK, *few])
    (run,) = set(folder.glob("runs/*/version_0")) - teachers
    assert {"config.yaml", "metrics.csv", "report.html", "report.json"} <= set(files(run))
    checkpoint = run / "checkpoints" / "last.ckpt"  # however short the run
    cli = train.main(["test", "--model", name, "--ckpt_path", str(checkpoint)])
    metrics = cli.trainer.callback_metrics
    figures = {"test/acc", "calibration/ece"}
    figures |= {"oracle/test_acc", "adaptation/proxy_a_distance"} if pairs else {"ood/far/uniform/energy/auroc"}
    figures = {"test/elbo", "disentanglement/mean/mig"} if factors else figures
    assert (figures if classifies or factors else {"test/rmse", "calibration/crps"}) <= set(metrics)
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[key].cpu(), value.cpu()) for key, value in cli.model.state_dict().items())


def test_one_value_of_a_recipe_can_be_changed(capsys):
    recipe = printed(capsys, "fit", *CLASSIFIER)
    changed = printed(capsys, "fit", "--model=Classifier", "--model.lr", "3e-4")
    assert changed["model"]["init_args"].pop("lr") == 3e-4
    recipe["model"]["init_args"].pop("lr")
    assert changed == recipe


def test_one_batch_is_not_all_of_them(capsys, folder):
    (folder / "one.yaml").write_text("trainer: {limit_val_batches: 1, limit_test_batches: 0.5}")
    flags = ["--config", "one.yaml", "--trainer.limit_train_batches=1", "--trainer.limit_predict_batches", "1.0"]
    trainer = printed(capsys, "fit", *CLASSIFIER, *flags)["trainer"]
    found = [trainer[f"limit_{stage}_batches"] for stage in ("train", "val", "test", "predict")]
    assert [(value, type(value)) for value in found] == [(1, int), (1, int), (0.5, float), (1.0, float)]


@pytest.mark.parametrize("flags", [["--data", "MNIST"], ["--data=MNIST"], ["--data", "MNISTDataModule"]])
def test_other_data_take_the_place_of_the_recipes_and_keep_what_both_have(capsys, flags):
    before = printed(capsys, "fit", *CLASSIFIER)
    after = printed(capsys, "fit", *CLASSIFIER, *flags, "--data.data_dir", "elsewhere")
    data = after["data"]
    assert data["class_path"] == "datamodules.MNISTDataModule"
    assert data["init_args"]["data_dir"] == "elsewhere"
    for name in ("batch_size", "ood"):
        assert data["init_args"][name] == before["data"]["init_args"][name]
    assert {key: after[key] for key in after if key != "data"} == {key: before[key] for key in before if key != "data"}


def test_other_data_drop_the_recipes_arguments_that_they_do_not_have(capsys, folder):
    (folder / "mine.yaml").write_text(
        "class_path: SemiSupervisedDataModule\ninit_args: {seed: 3, data: {class_path: DigitsDataModule}}"
    )
    whole = printed(capsys, "fit", *CLASSIFIER, "--data", str(folder / "mine.yaml"), "--data", "USPS")
    assert whole["data"]["class_path"] == "datamodules.USPSDataModule"
    assert "seed" not in whole["data"]["init_args"]


def test_a_configuration_stands_for_itself_without_the_recipe(capsys, folder):
    (folder / "own.yaml").write_text("model: {class_path: Classifier}\ndata: {class_path: DigitsDataModule}")
    assert printed(capsys, "fit", "--config", "own.yaml")["trainer"]["callbacks"] is None


def test_the_printed_configuration_is_accepted_again_and_means_the_same(capsys, folder):
    first = printed(capsys, "fit", *CLASSIFIER, "--model.lr=0.02")
    (folder / "printed.yaml").write_text(yaml.safe_dump(first))
    assert printed(capsys, "fit", "--config", "printed.yaml") == first


def test_the_data_decide_the_number_of_classes_and_the_shape():
    cli = train.main([*CLASSIFIER, "--data", "CIFAR100"], run=False)
    assert cli.model.hparams["num_classes"] == 100
    assert tuple(cli.model.hparams["image_shape"]) == (3, 32, 32)
    assert cli.model(torch.zeros(1, 3, 32, 32)).shape == (1, 100)


def test_a_lightning_checkpoint_callback_and_seed_are_as_lightning_users_expect():
    cli = train.main([*CLASSIFIER], run=False)
    assert cli.seed_everything_default == 0
    assert not cli.auto_configure_optimizers
    assert set(cli.subcommands()) == {"fit", "validate", "test", "predict"}


@pytest.mark.parametrize(
    ("flag", "shows"), [("--model.help=JEM", "--model.sgld_steps"), ("--data.help=MNIST", "--data.ood")]
)
def test_the_help_of_a_class_is_its_docstring(capsys, flag, shows):
    with pytest.raises(SystemExit) as end:
        train.main(["fit", flag])
    assert end.value.code == 0
    assert shows in capsys.readouterr().out


@pytest.mark.parametrize("subcommand", ["validate", "predict"])
def test_the_other_subcommands_run(subcommand, folder):
    train.main([subcommand, *CLASSIFIER, *QUICK, *BARE, "--ckpt_path", fitted(folder)])


# ---------------------------------------------------------------- what is saved


def test_every_logger_gets_the_configuration_and_its_own_folder_holds_the_file(folder):
    loggers = [
        {"class_path": "CSVLogger", "init_args": {"save_dir": "csv"}},
        {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "board"}},
        {"class_path": "WandbLogger", "init_args": {"save_dir": str(folder), "project": "zoo", "offline": True}},
    ]
    cli = train.main(
        ["fit", *CLASSIFIER, *QUICK, "--trainer.callbacks=null", f"--trainer.logger={json.dumps(loggers)}"]
    )
    run = cli.trainer.loggers[2].experiment
    assert run.config["config"]["model"]["init_args"]["lr"] == cli.model.hparams["lr"]
    run.finish()
    found = sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("config.yaml"))
    assert [path.split("/")[0] for path in found] == ["board", "csv"]
    for path in found:
        config = yaml.safe_load((folder / path / "config.yaml").read_text())
        assert config["data"]["class_path"] == "datamodules.DigitsDataModule"
    assert [path for path in folder.rglob("csv/**/hparams.yaml") if "max_steps: 2" in path.read_text()]


def test_without_a_loggers_folder_the_configuration_is_in_the_checkpoint_and_no_file_of_the_users_is_replaced(folder):
    (folder / "config.yaml").write_text("mine")
    checkpoint = torch.load(fitted(folder), weights_only=True)
    assert checkpoint["command_line_config"]["model"]["class_path"] == "zoo.Classifier"
    assert (folder / "config.yaml").read_text() == "mine"


def test_a_second_run_into_the_same_folder_does_not_fail_and_keeps_the_first_ones_results(folder):
    logger = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=runs", "--trainer.logger.name=same"]
    train.main(["fit", *CLASSIFIER, *QUICK, "--trainer.callbacks=null", *logger])
    before = files(folder)
    train.main(["fit", *CLASSIFIER, *QUICK, "--trainer.callbacks=null", *logger])
    after = files(folder)
    assert before.items() <= after.items()
    assert len(after) > len(before)
    again = fitted(folder / "root")
    assert fitted(folder / "root")
    assert Path(again).exists()


# ---------------------------------------------------------------- checkpoints


def python_checkpoint(path: Path, model: LightningModule) -> str:
    trainer = Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(model, datamodule=datamodules.DigitsDataModule(batch_size=50))
    trainer.save_checkpoint(path)
    return str(path)


def small_jem() -> zoo.JEM:
    return zoo.JEM(
        image_shape=(1, 8, 8), network="SmallConvNet", network_args={"width": 4}, sgld_steps=1, memory_size=100
    )


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
    assert status == 1
    assert "another class than zoo.Classifier, which takes no" in line
    assert "sgld_steps" in line


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
        assert "checkpoint" in line
    assert files(folder) == before


# ---------------------------------------------------------------- bad input


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
            ["--model", "not", "LightningModule, got data"],
        ),
        (["fit", *CLASSIFIER, "--model.network_args", "3"], ["--model.network_args", "dict", "3"]),
        (["fit", *CLASSIFIER, "--data.batch_size", "[1, 2]"], ["--data.batch_size", "int", "[1, 2]"]),
        (["fit", *CLASSIFIER, "--trainer.max_epoch", "3"], ["--trainer.max_epoch", "trainer.max_epochs"]),
        (["fit", *CLASSIFIER, "--trainer.max_epochs", "x"], ["--trainer.max_epochs", "int", "x"]),
        (["fit", *CLASSIFIER, "--trainer.callbacks+=Reprt"], ["--trainer.callbacks", "Reprt", "did you mean Report"]),
        (["fit", *CLASSIFIER, "--trainer.logger=Nope"], ["--trainer.logger", "Nope", "CSVLogger"]),
        (["fit", "--config", "no.yaml"], ["--config", "no.yaml", "not exist"]),
        (["fit", "--config", "broken.yaml"], ["broken.yaml", "parsing config", "line 1"]),
        (["fit", "--config", "misspelt.yaml"], ["misspelt.yaml", "--model", "Clasifier", "did you mean Classifier"]),
        (["fit", "--config", "wrong.yaml"], ["wrong.yaml", "--trainer.max_epochs", "int", "got x"]),
        (["fit", "--model", "nowhere.Mine"], ["--model", "nowhere.Mine", "No module named"]),
        (["fit", "--model"], ["--model", "expected one argument"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_that_names_it_and_what_was_expected(capsys, folder, args, says):
    (folder / "broken.yaml").write_text("model: [1\n")
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
        (["--trainer.accelerator=abacus"], ["abacus", "cpu"]),
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
    assert explain(theirs.value, {}) is None
    assert explain(ours.value, {}) == (1, str(ours.value))


def test_a_bug_keeps_its_traceback_and_so_does_bad_input_on_request(capsys, monkeypatch):
    def broken(*_: Any) -> None:
        int("not a number")

    with monkeypatch.context() as patch:
        patch.setattr(zoo.Classifier, "training_step", broken)
        with pytest.raises(ValueError, match="invalid literal"):
            train.main(["fit", *CLASSIFIER, *QUICK, *BARE])
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


# ---------------------------------------------------------------- real processes


def python(folder: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        env=os.environ | own | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.slow
def test_a_real_process_ends_with_one_line_and_status_2(folder):
    done = python(folder, str(ROOT / "train.py"), "fit", "--model", "Clasifier")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --model: no such class: Clasifier")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("package", ["zoo", "datamodules", "callbacks"])
def test_a_folder_that_hides_a_package_is_named(folder, package):
    """The own folder of a user who runs a copy of train.py beside it; for ours, Python prefers the script's folder."""
    shutil.copy(ROOT / "train.py", folder)
    hiding = folder / package / "__init__.py"
    hiding.parent.mkdir()
    hiding.write_text("")
    done = python(folder, "train.py", "fit", "--model", "JEM")
    assert done.returncode == 1
    assert str(hiding) in done.stderr
    assert "hides the zoo's own package" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_folder_of_that_name_elsewhere_does_no_harm(folder):
    (folder / "callbacks").mkdir()
    (folder / "callbacks" / "__init__.py").write_text("")
    assert python(folder, str(ROOT / "train.py"), "--help", PYTHONPATH=str(folder)).returncode == 0


@pytest.mark.slow
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


def test_a_users_classes_of_the_same_names_leave_short_names_and_recipes_as_they_were(folder, monkeypatch, capsys):
    (folder / "namesakes.py").write_text(NAMESAKES)
    monkeypatch.syspath_prepend(str(folder))
    namesakes = importlib.import_module("namesakes")
    try:
        for name in zoo.__all__:
            cli = train.main(["--model", name, *BARE], run=False)
            assert type(cli.model) is getattr(zoo, name)
            assert type(cli.datamodule) is getattr(datamodules, type(cli.datamodule).__name__)
        config = printed(capsys, "fit", "--model=Classifier", "--data=Digits")
        assert config["model"]["class_path"] == "zoo.Classifier"
        assert config["data"]["class_path"] == "datamodules.DigitsDataModule"
        assert "callbacks.Report" in [callback["class_path"] for callback in config["trainer"]["callbacks"]]
        theirs = [*QUICK, *BARE, "--data=Digits", "--data.batch_size=50"]
        train.main(["fit", "--model", "namesakes.Classifier", "--model.lr=0.5", *theirs])
        path = str(next(folder.glob("checkpoints/*.ckpt")))
        cli = train.main(["test", "--model", "namesakes.Classifier", *theirs, "--ckpt_path", path])
        assert type(cli.model) is namesakes.Classifier
        status, line = refused(capsys, "test", *CLASSIFIER, "--ckpt_path", path)
        assert status == 1
        assert "is a checkpoint of namesakes.Classifier, but --model asks for zoo.Classifier" in line
    finally:
        del sys.modules["namesakes"], namesakes
        gc.collect()  # or jsonargparse would still find the classes in the tests that follow
