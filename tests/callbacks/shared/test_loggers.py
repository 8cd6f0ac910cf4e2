import csv
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from callbacks.generation.samples import SampleGrid
from callbacks.report.curves import learning_curves_figure
from callbacks.shared.loggers import define_summaries, log_figure, log_images, log_table, run_folder, tile, to_uint8

QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


class Painter(LightningModule):
    """Two parameters, and samples whose pixels are known."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch[0]).square().mean()
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/acc", [0.9, 0.7][self.trainer.current_epoch])

    def sample(self, n):
        torch.rand(3)
        return torch.linspace(0, 1, n).view(n, 1, 1, 1).expand(n, 1, 8, 8)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(8, 2)), batch_size=4)

    val_dataloader = train_dataloader


def trainer_for(folder, logger, **kwargs):
    return Trainer(logger=logger, default_root_dir=folder, max_epochs=2, **QUIET, **kwargs)


def log_everything(trainer):
    log_images(trainer, "group/pictures", torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.5)]))
    log_figure(trainer, "curve", learning_curves_figure([{"epoch": e, "step": e, "loss": 1.0} for e in (0, 1)]))
    log_table(trainer, "group/table", ["set", "auroc"], [["near|x", np.float64(0.25)], ["far", None]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_floats_become_the_integers_that_they_stand_for(dtype):
    pictures = to_uint8(torch.tensor([0.0, 0.5, 1.0, float("nan")], dtype=dtype).view(1, 1, 2, 2))
    assert pictures.dtype == np.uint8
    assert pictures.shape == (1, 2, 2, 1)
    assert pictures.ravel().tolist() in ([0, 128, 255, 0], [0, 127, 255, 0])


def test_integers_pass_unchanged():
    pictures = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    assert np.array_equal(to_uint8(pictures), pictures.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 4, 4), r"shape \(N, 1 or 3, H, W\), got \(3, 4, 4\)"),
        (torch.zeros(1, 2, 4, 4), r"got \(1, 2, 4, 4\)"),
        (torch.full((1, 1, 2, 2), -1.0), r"\[0, 1\], got values in \[-1, -1\]"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.int64), "uint8 pictures, got torch.int64"),
    ],
)
def test_other_pictures_are_refused_by_name(images, message):
    with pytest.raises(ValueError, match=message):
        to_uint8(images)


def test_tiles_are_laid_out_in_rows():
    grid = tile(np.stack([np.full((2, 3, 1), value, np.uint8) for value in (10, 20, 30)]), gap=1)
    assert grid.shape == (5, 7, 1)
    assert grid[0, 0, 0] == 10
    assert grid[0, 4, 0] == 20
    assert grid[3, 0, 0] == 30
    assert grid[2].min() == 255


def test_without_a_logger_nothing_happens(tmp_path):
    log_everything(trainer_for(tmp_path, False))
    assert list(tmp_path.iterdir()) == []


def test_csv_logger_gets_files(tmp_path):
    trainer = trainer_for(tmp_path, CSVLogger(tmp_path, "run"))
    log_everything(trainer)
    folder = run_folder(trainer)
    pictures = np.asarray(Image.open(folder / "images/group/pictures.png"))
    assert pictures.shape == (4, 9, 3)
    assert pictures[0, 0].tolist() == [0, 0, 0]
    assert pictures[0, 8].tolist() == [128, 128, 128]
    assert np.asarray(Image.open(folder / "images/curve.png")).std() > 10
    with (folder / "tables/group/table.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [["set", "auroc"], ["near|x", "0.25"], ["far", ""]]


def test_names_cannot_leave_the_folder(tmp_path):
    trainer = trainer_for(tmp_path, CSVLogger(tmp_path, "run"))
    with pytest.raises(ValueError, match=r"'\.\./up'"):
        log_table(trainer, "../up", ["a"], [[1]])


def test_a_row_of_another_length_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'t': expected 2 cells a row, got 1"):
        log_table(trainer_for(tmp_path, False), "t", ["a", "b"], [[1]])


def test_tensorboard_gets_pictures_and_text(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="the TensorBoard extra is not installed",
    )
    logger = TensorBoardLogger(tmp_path)
    log_everything(trainer_for(tmp_path, logger))
    logger.experiment.flush()
    events = accumulator.EventAccumulator(logger.log_dir)
    events.Reload()
    tags = events.Tags()
    assert set(tags["images"]) == {"group/pictures", "curve"}
    picture = np.asarray(Image.open(BytesIO(events.Images("group/pictures")[0].encoded_image_string)))
    assert sorted(set(picture.ravel().tolist())) == [0, 128]
    text = events.Tensors("group/table/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| near\\|x | 0.25 |" in text
    assert "| far |  |" in text


def test_other_loggers_get_files_where_they_save(tmp_path):
    class Other(Logger):
        name, version, save_dir = "other", 0, str(tmp_path / "elsewhere")

        def log_metrics(self, metrics, step=None): ...

        def log_hyperparams(self, params): ...

    log_table(trainer_for(tmp_path, Other()), "t", ["a"], [[1]])
    assert (tmp_path / "elsewhere/tables/t.csv").read_text().split() == ["a", "1"]


@pytest.fixture
def wandb_offline(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for kind in ("DIR", "CACHE_DIR", "DATA_DIR", "CONFIG_DIR"):
        monkeypatch.setenv(f"WANDB_{kind}", str(tmp_path / "wandb" / kind))
    wandb.finish()
    yield
    wandb.finish()


def records_of(folder):
    """Read W&B's own file of a run."""
    pytest.importorskip("wandb", minversion="0.31", reason="older ones have no `wandb leet inspect`")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json"]
    lines = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=True, timeout=60).stdout
    summary = subprocess.run(
        [*command, "--summary", str(folder)], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    return [json.loads(line) for line in lines.splitlines()], json.loads(summary)


def test_offline_wandb_run_holds_pixels_tables_and_best_values(tmp_path, wandb_offline):
    import wandb

    class Show(ModelCheckpoint):
        def setup(self, trainer, pl_module, stage):
            super().setup(trainer, pl_module, stage)
            define_summaries(trainer)

        def on_fit_end(self, trainer, pl_module):
            log_everything(trainer)

    logger = WandbLogger(save_dir=tmp_path, project="zoo")
    options = QUIET | {"enable_checkpointing": True}
    callbacks = [SampleGrid(number=4), Show(tmp_path, monitor="val/acc", mode="max")]
    trainer = Trainer(logger=logger, default_root_dir=tmp_path, max_epochs=2, callbacks=callbacks, **options)
    trainer.fit(Painter())
    wandb.finish()

    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    media = folder / "files/media"
    grids = sorted((media / "images").glob("samples_*.png"))
    assert len(grids) == 2
    for grid in grids:
        # four grey levels of 8 x 8 pixels, enlarged six times, and white gaps: not black
        assert set(np.asarray(Image.open(grid)).ravel().tolist()) == {0, 85, 170, 255}
    pictures = sorted((media / "images/group").glob("pictures_*.png"))
    assert {int(np.asarray(Image.open(picture)).max()) for picture in pictures} == {0, 128}
    (table,) = (media / "table/group").glob("table_*.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["set", "auroc"]
    assert content["data"] == [["near|x", 0.25], ["far", None]]

    records, summary = records_of(folder)
    text = json.dumps(records)
    for key in ("samples", "group/pictures", "group/table", "curve", "val/acc"):
        assert key in text
    assert summary["summary"]["val/acc"] == pytest.approx({"max": 0.9, "last": 0.7})
