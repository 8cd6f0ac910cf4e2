"""The command line: recipes, what is changed in them, and what a run saves."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from command_lines import BARE, CLASSIFIER, QUICK, files, fitted, printed
from teachers import save_teacher_of_recipe

import train
import zoo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("zoo/**/paper_*.yaml")), ids=lambda path: str(path.relative_to(ROOT / "zoo"))
)
def test_the_settings_of_a_published_experiment_build_its_module_its_data_and_its_trainer(path):
    built = train.main([f"--config={path}"], run=False)
    kinds = [name for name in ("num_classes", "num_features", "factor_sizes") if hasattr(built.datamodule, name)]
    assert len(kinds) == 1
    known = kinds[0] if kinds != ["factor_sizes"] else "image_shape"
    assert built.model.hparams[known] == getattr(built.datamodule, known)
    assert len(built.datamodule.test_sets) > (kinds == ["num_classes"])  # with classes, others than its own
    assert max(built.trainer.max_epochs, built.trainer.max_steps) > 1


EACH_KIND = ("Classifier", "DANN", "HistogramRegression", "JEM")  # of data; the golden curves run every recipe


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in EACH_KIND else pytest.mark.long) for name in zoo.__all__]
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


def test_a_recipe_of_one_module_is_found_in_the_papers_folder_and_in_its_configurations():
    recipes = {"KnowledgeDistillation": "distillation/recipe.yaml", "BetaVAE": "disentanglement/recipe.yaml"}
    recipes["HistogramDistillation"] = "distillation/recipe_HistogramDistillation.yaml"
    recipes["FactorVAE"] = "disentanglement/configurations/recipe_FactorVAE.yaml"
    for name, path in recipes.items():
        assert train.starting_points({"--model": name}) == [f"--config={ROOT / 'zoo' / path}"]


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
