"""The report of real runs: fitted, tested, resumed, on several processes."""

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from report_records import Page, undrawn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import CalibrationEvaluation, OODEvaluation, Randomness, Report, SampleGrid
from callbacks.report import load_record
from callbacks.report.record import plain
from callbacks.report.summary import summary


class Blobs(LightningDataModule):
    """Two classes of 1 x 4 x 4 pictures, and one OOD set."""

    num_classes, image_shape, test_sets = 2, (1, 4, 4), ("blobs", "far/noise")

    def __init__(self, number=32):
        super().__init__()
        self.save_hyperparameters()

    def loader(self, seed, shuffle=False):
        generator = torch.Generator().manual_seed(seed)
        y = torch.arange(self.hparams.number) % 2
        x = torch.randn(len(y), 1, 4, 4, generator=generator) + y.view(-1, 1, 1, 1)
        return DataLoader(TensorDataset(x, y), batch_size=8, shuffle=shuffle)

    def train_dataloader(self):
        return self.loader(0, shuffle=True)

    def val_dataloader(self):
        return self.loader(1)

    def test_dataloader(self):
        x = 3 * torch.randn(32, 1, 4, 4, generator=torch.Generator().manual_seed(3))
        noise = TensorDataset(x, torch.full((32,), -1))
        return [self.loader(2), DataLoader(noise, batch_size=8)]


class Tiny(LightningModule):
    def __init__(self, lr: float = 0.05):
        super().__init__()
        self.save_hyperparameters()
        self.head = torch.nn.Linear(16, 2)

    def forward(self, x):
        return self.head(x.flatten(1))

    def sample(self, n):
        return torch.rand(n, 1, 4, 4)

    def report_notes(self):
        return {"recoveries": 3}

    def training_step(self, batch, batch_idx):
        loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        logits = self(batch[0])
        if dataloader_idx == 0:
            self.log("test/acc", (logits.argmax(1) == batch[1]).float().mean(), add_dataloader_idx=False)
        return {"logits": logits}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.hparams.lr)


def trainer_for(folder, *callbacks, epochs=3, **kwargs):
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=CSVLogger(folder, name="", version="run"),
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **kwargs,
    )


def test_report_of_a_real_run(tmp_path):
    seed_everything(5, verbose=False)
    parts = [
        Report(title="Tiny run"),
        SampleGrid(number=4),
        CalibrationEvaluation(),
        OODEvaluation(["msp", "energy"], resamples=20),
    ]
    trainer = trainer_for(tmp_path, *parts)
    model, data = Tiny(), Blobs()
    trainer.fit(model, data)
    folder = tmp_path / "run"
    fitted = load_record(folder)
    assert [row["epoch"] for row in fitted["history"]] == [0, 1, 2]
    assert all(0 < row["train/loss"] < 5 and 0 <= row["val/acc"] <= 1 for row in fitted["history"])
    assert fitted["calibration"] is None

    trainer.test(model, data, verbose=False)
    record = load_record(folder)
    assert record["history"] == fitted["history"]
    assert record["title"] == "Tiny run"
    assert record["arguments"] == {"model": {"lr": 0.05}, "data": {"number": 32}}
    assert record["notes"] == {"recoveries": 3}
    assert record["seed"] == "5"
    assert record["metrics"]["test/acc"] == pytest.approx(record["calibration"]["before"]["accuracy"])
    assert set(record["seconds"]) == {"fit", "test"}
    assert record["calibration"] == plain(parts[2].results)
    assert record["ood"] == plain(parts[3].results)
    text = " ".join(Page((folder / "report.html").read_text(encoding="utf-8")).text)
    assert f"{record['calibration']['after']['ece']:.4f}" in text
    assert f"{record['ood']['sets']['far/noise']['energy']['auroc']:.3f}" in text
    assert summary(record)["far"].value == pytest.approx(
        max(row["auroc"] for row in record["ood"]["far_mean"].values())
    )
    assert (folder / "images/samples.png").is_file()
    assert (folder / "images/calibration/reliability.png").is_file()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The folder of a run of three epochs, with its last checkpoint and that of the first epoch."""

    class Early(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(folder / "early.ckpt")

    folder = tmp_path_factory.mktemp("fitted")
    with undrawn():
        trainer = trainer_for(folder, Report(), Randomness(), Early())
        trainer.fit(Tiny(), Blobs())
        trainer.save_checkpoint(folder / "last.ckpt")
        record = load_record(folder / "run")
        trainer.test(Tiny(), Blobs(), ckpt_path=folder / "early.ckpt", verbose=False)
    return folder, record


@undrawn()
def test_a_test_in_a_fresh_process_finds_the_learning_curves_in_the_checkpoint(fitted, tmp_path):
    folder, record = fitted
    other = trainer_for(tmp_path, Report(), Randomness())
    other.test(Tiny(), Blobs(), ckpt_path=folder / "last.ckpt", verbose=False)
    tested = load_record(tmp_path / "run")
    assert tested["history"] == record["history"]
    assert tested["seconds"]["fit"] >= record["seconds"]["fit"]


def test_testing_an_earlier_checkpoint_keeps_the_whole_learning_curve(fitted):
    folder, _ = fitted
    assert len(load_record(folder / "run")["history"]) == 3


def test_checkpoint_with_learning_curves_loads_with_weights_only(fitted):
    folder, _ = fitted
    state = torch.load(folder / "last.ckpt", weights_only=True)["callbacks"]["Report"]
    assert len(state["history"]) == 3


@undrawn()
def test_a_resumed_fit_goes_on_with_its_learning_curves(tmp_path):
    trainer = trainer_for(tmp_path, Report(), epochs=2)
    trainer.fit(Tiny(), Blobs())
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    trainer_for(tmp_path, Report(), epochs=4).fit(Tiny(), Blobs(), ckpt_path=tmp_path / "two.ckpt")
    assert [row["epoch"] for row in load_record(tmp_path / "run")["history"]] == [0, 1, 2, 3]


@undrawn()
def test_old_validation_metrics_are_not_repeated(tmp_path):
    trainer = trainer_for(tmp_path, Report(), epochs=4, check_val_every_n_epoch=2)
    trainer.fit(Tiny(), Blobs())
    rows = load_record(tmp_path / "run")["history"]
    assert [row["epoch"] for row in rows if "val/acc" in row] == [1, 3]
    assert all("train/loss" in row for row in rows)


@undrawn()
def test_validations_within_an_epoch_have_rows_of_their_own(tmp_path):
    trainer = trainer_for(tmp_path, Report(), epochs=2, val_check_interval=0.5)
    trainer.fit(Tiny(), Blobs())
    rows = load_record(tmp_path / "run")["history"]
    assert [row["step"] for row in rows if "val/acc" in row] == [2, 4, 6, 8]
    assert [row["step"] for row in rows if "train/loss" in row] == [4, 8]


@undrawn()
def test_two_processes_write_one_report(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    parts = [
        Report(),
        SampleGrid(number=4),
        CalibrationEvaluation(),
        OODEvaluation(["energy"], resamples=0),
        Randomness(),
    ]
    trainer = trainer_for(tmp_path, *parts, epochs=1, strategy="ddp_fork", devices=2)
    trainer.fit(Tiny(), Blobs())
    trainer.test(Tiny(), Blobs(), verbose=False)
    record = load_record(tmp_path / "run")
    assert record["processes"] == 2
    assert record["calibration"]["samples"] == 32
    assert record["samples"]


@undrawn()
def test_folder_and_no_logger(tmp_path):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_model_summary=False,
        callbacks=[Report(folder=str(tmp_path / "chosen"))],
        **options,
    )
    trainer.fit(Tiny(), Blobs())
    assert {path.name for path in (tmp_path / "chosen").iterdir()} == {"report.html", "report.json"}


def test_a_folder_that_cannot_be_written_is_an_error_before_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"the report cannot be written to .*file/below"):
        trainer_for(tmp_path, Report(folder=str(tmp_path / "file" / "below"))).fit(Tiny(), Blobs())


def test_fast_dev_run_writes_nothing(tmp_path):
    Trainer(fast_dev_run=True, accelerator="cpu", default_root_dir=tmp_path, callbacks=[Report()]).fit(Tiny(), Blobs())
    assert list(tmp_path.iterdir()) == []
