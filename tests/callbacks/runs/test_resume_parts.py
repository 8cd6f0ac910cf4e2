"""What a resumed run is made of: loaders, renormed weights, CSV rows, the way to the last checkpoint."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import BARE, CLASSIFIER, QUICK, refused
from contract_runs import CONFS, build, fit
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import CombinedLoader

import train
from callbacks import MidEpochCheckpoint, ResumableCSVLogger
from datamodules.images.image_set import ImageSet, UnlabelledSet
from datamodules.shared.collate import as_is
from datamodules.shared.resumable import ResumableLoader
from datamodules.shared.samplers import RestartingSampler
from zoo.command_line import resume as last


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def numbered(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)


def two_loaders(workers: int) -> CombinedLoader:
    """A shuffled one of ten batches, and one of three that begins anew with another order each time."""
    longer, shorter = UnlabelledSet(numbered(40)), ImageSet(numbered(12), torch.arange(12))
    some: dict[str, Any] = {"collate_fn": as_is, "num_workers": workers, "persistent_workers": workers > 0}
    sampler = RestartingSampler(shorter, num_replicas=1, rank=0)
    loaders = {
        "unlabelled": ResumableLoader(longer, 4, shuffle=True, **some),
        "labelled": ResumableLoader(shorter, 4, sampler=sampler, **some),
    }
    return CombinedLoader(loaders, "max_size_cycle")


def seen(batches: list[Any]) -> list[Any]:
    return [(batch["unlabelled"].flatten().tolist(), batch["labelled"][1].tolist()) for batch, _, _ in batches]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [1, 3, 8])  # of ten; three are a pass of the shorter loader
def test_loaders_go_on_with_the_batches_that_were_to_come(workers, done):
    torch.manual_seed(0)
    loaders = two_loaders(workers)
    iterator = iter(loaders)
    for _ in range(done):
        next(iterator)
    states, random = loaders._state_dicts(), torch.get_rng_state()
    rest = seen([next(iterator) for _ in range(10 - done)])  # a list of it would begin anew
    loaders.reset()

    torch.manual_seed(1)
    loaders = two_loaders(workers)
    loaders._load_state_dicts(states)
    iterator = iter(loaders)
    torch.set_rng_state(random)
    assert seen([next(iterator) for _ in rest]) == rest
    loaders.reset()


class Untouched(UnlabelledSet):
    def __getitems__(self, indices: list[int]) -> torch.Tensor:
        assert 0 not in indices, "the first batch was fetched again"
        return super().__getitems__(indices)


def test_going_on_draws_nothing_and_fetches_nothing_of_what_was_done():
    states = ResumableLoader(UnlabelledSet(numbered(6)), 2, collate_fn=as_is)
    next(iter(states))
    loader = ResumableLoader(Untouched(numbered(6)), 2, collate_fn=as_is)
    loader.load_state_dict(states.state_dict())
    iterator = iter(loader)
    before = torch.get_rng_state()
    assert next(iterator).flatten().tolist() == [2, 3]
    assert torch.equal(before, torch.get_rng_state())
    assert [batch.flatten().tolist() for batch in iterator] == [[4, 5]]


def test_a_loader_refuses_the_place_in_another_number_of_batches():
    loader = ResumableLoader(UnlabelledSet(numbered(6)), 2, collate_fn=as_is)
    next(iter(loader))
    other = ResumableLoader(UnlabelledSet(numbered(6)), 3, collate_fn=as_is)
    with pytest.raises(ValueError, match=r"an epoch of 3 batches, but the loader has 2: .* batch_size"):
        other.load_state_dict(loader.state_dict())


def test_other_processes_than_those_of_the_checkpoint_go_on_with_a_warning():
    loader = ResumableLoader(UnlabelledSet(numbered(6)), 2, collate_fn=as_is)
    next(iter(loader))
    states = {"places": loader.state_dict()["places"] * 2}
    with pytest.warns(UserWarning, match="of 2 processes from the middle of an epoch goes on with 1"):
        loader.load_state_dict(states)
    assert len(list(loader)) == 2
    assert len(list(loader)) == 3  # the pass after it is whole


class Norms(Callback):
    """The largest norm of a unit's weights when a checkpoint of a step would be written."""

    largest = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        weights = [value for name, value in pl_module.named_parameters() if name.endswith("weight") and value.dim() > 1]
        self.largest = max(self.largest, *(float(weight.flatten(1).norm(dim=1).max()) for weight in weights))


def test_dann_renorms_before_a_checkpoint_of_the_step_is_written():
    conf = {key: CONFS["dann"][key] for key in ("model", "data")}
    arguments = conf["model"]["init_args"] | {"max_norm": 0.25}
    model, data = build({**conf, "model": conf["model"] | {"init_args": arguments}})
    norms = Norms()
    fit(model, data, [norms], limit_train_batches=2)
    assert 0.2 < norms.largest <= 0.25 + 1e-6


def test_a_csv_logger_goes_on_after_the_rows_that_it_is_told_to_keep():
    for numbers in ([1, 2, 3], [4]):
        logger = ResumableCSVLogger("logs", "it", 0)
        if numbers == [4]:
            logger.truncate(2)
        for number in numbers:
            logger.log_metrics({"loss": number} | ({"late": 1} if number == 3 else {}), step=number)
        logger.save()
    lines = Path("logs/it/version_0/metrics.csv").read_text().split()
    assert lines == ["loss,step", "1,1", "2,2", "4,4"]


def trainer_of(**logger: Any) -> Any:
    arguments = Namespace({"save_dir": "runs", "name": "jem", "version": None} | logger)
    return Namespace(logger=Namespace(class_path="lightning.pytorch.loggers.CSVLogger", init_args=arguments))


def test_last_is_the_newest_checkpoint_of_the_newest_version_that_has_one():
    assert last.find_last(*last.run_folder(trainer_of())) is None
    for version in (2, 9, 10):
        Path(f"runs/jem/version_{version}/checkpoints").mkdir(parents=True)
    for number, name in enumerate(["version_2/checkpoints/a.ckpt", "version_9/checkpoints/b.ckpt"]):
        Path("runs/jem", name).write_text(str(number))
    Path("runs/jem/version_9/checkpoints/older.ckpt").write_text("")
    os.utime("runs/jem/version_9/checkpoints/older.ckpt", (1, 1))
    assert last.find_last(*last.run_folder(trainer_of())) == Path("runs/jem/version_9/checkpoints/b.ckpt")
    assert last.find_last(*last.run_folder(trainer_of(version=2))) == Path("runs/jem/version_2/checkpoints/a.ckpt")
    config = Namespace(trainer=trainer_of(), ckpt_path="last")
    last.resolve(config, fits=True)
    assert config.ckpt_path == "runs/jem/version_9/checkpoints/b.ckpt"
    assert config.trainer.logger.init_args.version == 9
    assert config.trainer.logger.class_path == "callbacks.ResumableCSVLogger"


def test_last_without_a_checkpoint_starts_a_fit_and_refuses_a_test():
    config = Namespace(trainer=trainer_of(), ckpt_path="last")
    with pytest.warns(UserWarning, match="no checkpoint of an earlier run in runs/jem, so this one starts anew"):
        last.resolve(config, fits=True)
    assert config.ckpt_path is None
    config.ckpt_path = "last"
    with pytest.raises(FileNotFoundError, match="--ckpt_path last: no checkpoint of an earlier run in runs/jem"):
        last.resolve(config, fits=False)


def test_last_takes_the_same_arguments_and_no_others(capsys):
    command = ["fit", *CLASSIFIER, *QUICK, *BARE, "--trainer.default_root_dir=it", "--model.network_args={width: 4}"]
    train.main([*command, "--model.lr=0.01", "--ckpt_path=last"])
    train.main([*command, "--model.lr=1e-2", "--ckpt_path=last"])
    status, line = refused(capsys, *command, "--model.lr=0.02", "--ckpt_path=last")
    assert status == 1
    assert "--model.lr would be ignored" in line


@pytest.mark.parametrize("arguments", [{}, {"every_n_batches": 0}, {"every_n_minutes": -1.0}])
def test_checkpoints_in_the_middle_of_an_epoch_need_to_know_when(arguments):
    with pytest.raises(ValueError, match=r"every_n_batches or every_n_minutes|every_n_\w+ is -?[\d.]+; expected"):
        MidEpochCheckpoint(**arguments)
