"""Unlocked training: several processes with some of the blocks each compute what one does, each a batch ahead."""

import csv
import itertools
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, TensorDataset

import train
from zoo import LocalErrorSignals
from zoo.local_error import PipelineStrategy, messages
from zoo.local_error.pipeline import split, stages

ROOT = Path(__file__).resolve().parents[3]
VGG: dict[str, Any] = {"network": "VGG", "network_args": {"layers": [4, "M", 6], "hidden": [8]}, "max_dim": 64}
RESNET: dict[str, Any] = {"network": "ResNet", "network_args": {"depths": [1, 1], "width": 4}, "max_dim": 64}
MLP: dict[str, Any] = {"network": "MLP", "network_args": {"hidden": [9, 8, 7]}, "loss": "predsim-bpf"}


def batches(count: int = 44, shuffle: bool = True, seed: int = 0) -> DataLoader:
    """Of twelve images; the last one has eight."""
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return DataLoader(TensorDataset(x, torch.arange(count) % 3), 12, shuffle=shuffle)


def fit(folder: Path, split: list[int] | None, *, module: Any = None, callbacks: Any = (), **options: Any) -> Any:
    """A run of two epochs with a checkpoint after each, on one process or as many as the split has; the weights."""
    network = options.pop("network", VGG)
    torch.manual_seed(0)
    module = module or LocalErrorSignals(3, **network, lr=1e-2, milestones=[1])
    ckpt_path, data, validation = options.pop("ckpt_path", None), options.pop("data", None), options.pop("val", None)
    quiet: dict[str, Any] = {
        "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1,
        "max_epochs": 2, "logger": CSVLogger(folder, "", ""), "devices": len(split) if split else 1,
        "strategy": PipelineStrategy(split, start_method="fork") if split else "auto",
    }  # fmt: skip
    if options.get("precision") == "16-mixed":  # which Lightning does not take on the CPU
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        options |= {"precision": None, "plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}
    keep = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer = L.Trainer(**quiet | options, callbacks=[keep, *callbacks])
    torch.manual_seed(1)  # the order of the batches
    trainer.fit(module, data or batches(), validation, ckpt_path=ckpt_path)
    return module.state_dict()


def saved(folder: Path, name: str = "epoch=1") -> dict[str, Any]:
    found = torch.load(folder / f"{name}.ckpt", weights_only=True)
    return {key: found[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}


def logged(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv") as file:
        return list(csv.DictReader(file))


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    if isinstance(a, Tensor):
        return [] if torch.equal(a, b) else [where]
    if isinstance(a, dict):
        extra = [f"{where}/{key}" for key in a.keys() ^ b.keys()]
        return extra + [found for key in a.keys() & b.keys() for found in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple):
        pairs = enumerate(zip(a, b, strict=True))
        return [found for i, (x, y) in pairs for found in differences(x, y, f"{where}/{i}")]
    return [] if a == b else [where]


# ---------------------------------------------------------------- the same numbers


@pytest.mark.parametrize(
    ("network", "blocks", "options"),
    [
        (VGG, [1, 2], {}),  # a pooled channels-last map is handed on
        (VGG, [2, 1], {"precision": "bf16-mixed"}),
        (VGG, [2, 1], {"precision": "16-mixed"}),
        (RESNET, [2, 3], {}),  # inside a residual block: the shortcut goes along
        (MLP, [2, 1], {}),
        (MLP, [1, 1, 1], {}),
    ],
)
def test_the_losses_of_every_step_the_weights_and_adams_state_are_those_of_one_process(
    network, blocks, options, tmp_path
):
    one = fit(tmp_path / "one", None, network=network, **options)
    several = fit(tmp_path / "several", blocks, network=network, **options)
    start = LocalErrorSignals(3, **network).state_dict()
    assert differences(one, several) == []
    assert any(not torch.equal(one[key], start[key]) for key in start if "network.output" in key)
    assert differences(saved(tmp_path / "one"), saved(tmp_path / "several")) == []
    assert saved(tmp_path / "several")["global_step"] == 8
    rows = logged(tmp_path / "several")
    assert rows == logged(tmp_path / "one")
    assert [row["step"] for row in rows] == [str(step) for step in range(8)]
    assert all(float(value) >= 0 for row in rows for value in row.values())


class Seen(L.Callback):
    """Keeps the batches' checksums and the weights that the hooks of each process see."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights: dict[str, Any] = {}

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.weights.setdefault("epoch end", {key: value.clone() for key, value in module.state_dict().items()})

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.weights["end"] = module.state_dict()
        own = [
            index for index, _ in enumerate(module.parameters()) if index in trainer.optimizers[0].state_dict()["state"]
        ]
        torch.save({**self.weights, "own": own}, self.folder / f"seen{trainer.global_rank}")


class Shares(L.Callback):
    """How many processes share the training batches, and how many images each one validates."""

    images = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.training = trainer.distributed_sampler_kwargs

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.images += len(batch[0])

    def on_train_end(self, trainer: Any, module: Any) -> None:
        (self.folder / f"share{trainer.global_rank}").write_text(f"{self.training} {self.images}")


def test_validation_within_an_epoch_sees_the_whole_network_and_changes_nothing(tmp_path):
    options: dict[str, Any] = {"val": batches(24, shuffle=False, seed=1), "val_check_interval": 2}
    one = fit(tmp_path / "one", None, **options)
    two = fit(tmp_path / "two", [1, 2], callbacks=[Shares(tmp_path)], **options)
    assert differences(one, two) == []
    assert differences(saved(tmp_path / "one"), saved(tmp_path / "two")) == []
    found = [[float(row["val/loss"]) for row in logged(tmp_path / name) if row["val/loss"]] for name in ("one", "two")]
    assert len(found[0]) == 4
    assert found[1] == pytest.approx(found[0], rel=1e-5)  # two means of twelve, not one of 24
    everything = "{'num_replicas': 1, 'rank': 0}"
    for rank in (0, 1):  # four validations of 24 images, and that before the training
        assert (tmp_path / f"share{rank}").read_text() == f"{everything} {(4 * 24 + 24) // 2}"


def test_every_process_has_the_whole_network_when_hooks_look_and_adams_state_of_its_own_blocks_only(tmp_path):
    weights = fit(tmp_path, [1, 2], callbacks=[Seen(tmp_path)], max_epochs=-1, max_steps=6)  # ends within an epoch
    first, second = (torch.load(tmp_path / f"seen{rank}", weights_only=True) for rank in (0, 1))
    assert differences(first["epoch end"], second["epoch end"]) == []
    assert differences(first["end"], second["end"]) == []
    assert differences(first["end"], weights) == []
    count = len([*LocalErrorSignals(3, **VGG).parameters()])
    assert sorted([*first["own"], *second["own"]]) == [*range(count)]


@pytest.mark.parametrize("blocks", [[1, 2], None])
def test_a_pipelines_checkpoint_goes_on_bit_for_bit_in_a_pipeline_and_in_one_process(blocks, tmp_path):
    data = batches(shuffle=False)
    whole = fit(tmp_path / "whole", [1, 2], data=data)
    path = tmp_path / "whole" / "epoch=0.ckpt"
    assert differences(fit(tmp_path / "resumed", blocks, data=data, ckpt_path=path), whole) == []
    assert differences(saved(tmp_path / "resumed"), saved(tmp_path / "whole")) == []


class Between(ModelCheckpoint):
    """Keeps a checkpoint from within an epoch."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "{step}", every_n_train_steps=3, save_top_k=-1)


def test_a_checkpoint_within_an_epoch_holds_the_whole_network_of_that_batch(tmp_path):
    found = []
    for name, blocks in (("one", None), ("two", [1, 2])):
        fit(tmp_path / name, blocks, callbacks=[Between(tmp_path / name)], log_every_n_steps=0, max_epochs=1)
        found.append(saved(tmp_path / name, "step=3"))
    assert differences(*found) == []
    assert found[0]["global_step"] == 3


class Apart(L.Callback):
    """Gives the second process other weights to begin with."""

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        for value in module.parameters():
            value.data += trainer.global_rank


def test_the_weights_of_the_first_process_are_those_that_count(tmp_path):
    one, two = (fit(tmp_path / f"{blocks}", blocks, callbacks=[Apart()], max_epochs=1) for blocks in (None, [1, 2]))
    assert differences(one, two) == []


# ---------------------------------------------------------------- unlocked


class Meeting(nn.Linear):
    """The second process's block, on batch t, waits until the first has begun batch t + 1.

    During batch 0 it waits for batch 2, and looks whether the first process runs away.
    """

    folder: Path
    waits: bool

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.device.type == "cpu":
            number = len([*self.folder.glob(f"{self.waits}*")])
            (self.folder / f"{self.waits}{number}").touch()
            until, ahead = time.monotonic() + 10, self.folder / f"False{number + (1 if number else 2)}"
            while self.waits and number < 3 and not ahead.exists():
                assert time.monotonic() < until, f"{ahead.name} was not begun while batch {number} was worked on"
                time.sleep(0.002)
            if self.waits and not number:
                time.sleep(0.3)
                assert not (self.folder / "False3").exists(), "more than one batch is under way"
        return super().forward(x)


class Met(LocalErrorSignals):
    def build_blocks(self) -> list[nn.Module]:
        first, second = Meeting(64, 6), Meeting(6, 5)
        first.waits, second.waits = False, True
        return [nn.Sequential(nn.Flatten(), first), second]


def test_the_second_process_works_on_a_batch_while_the_first_is_at_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(Meeting, "folder", tmp_path, raising=False)
    fit(tmp_path / "run", [1, 1], module=Met(3), max_epochs=1, log_every_n_steps=0)
    assert sorted(path.name for path in tmp_path.glob("[FT]*")) == [f"{b}{n}" for b in (False, True) for n in range(4)]


def test_features_and_labels_go_forward_and_nothing_comes_back(tmp_path, monkeypatch):
    written = tmp_path / "written"
    real = {name: getattr(distributed, name) for name in ("isend", "send", "all_reduce", "broadcast", "gather_object")}

    def record(name: str) -> Any:
        def call(tensor: Any, *arguments: Any, **keywords: Any) -> Any:
            size = tensor.nbytes if isinstance(tensor, Tensor) else 0
            with written.open("a") as file:
                file.write(f"{os.environ['LOCAL_RANK']} {name} {size}\n")
            return real[name](tensor, *arguments, **keywords)

        return call

    class Epoch(L.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            for name in real:
                monkeypatch.setattr(distributed, name, record(name))

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, number: int) -> None:
            if number == 2:  # the last one brings the weights together
                monkeypatch.undo()

    fit(tmp_path / "run", [1, 2], callbacks=[Epoch()], max_epochs=1, log_every_n_steps=3)
    lines = written.read_text().splitlines()
    features, labels = 12 * 4 * 4 * 4 * 4, 12 * 8  # bytes of twelve pooled maps of four channels, and of labels
    sent = [f"0 isend {size}" for size in (messages.HEADER * 8, features, labels)]
    figures = [f"{rank} all_reduce {5 * 8}" for rank in (0, 1)]  # on the step that logs
    assert sorted(lines) == sorted(3 * sent + figures)


def test_messages_keep_layout_dtype_and_the_number_of_tensors(monkeypatch):
    mail: list[Tensor] = []
    monkeypatch.setattr(distributed, "isend", lambda tensor, to: mail.append(tensor))
    monkeypatch.setattr(distributed, "recv", lambda tensor, source: tensor.copy_(mail.pop(0)))
    x = torch.randn(3, 4, 5, 6)
    for sent in (
        x, x.to(memory_format=torch.channels_last), x.bfloat16(), x[:, :, ::2], x.expand(2, 3, 4, 5, 6)[:, 0],
        (x.to(memory_format=torch.channels_last), x.double()), (x,),
        x[:, :, :1, :1].to(memory_format=torch.channels_last),
    ):  # fmt: skip
        messages.send(sent, torch.arange(3), 1)
        found, labels = messages.receive(0, torch.device("cpu"))
        assert mail == []
        assert labels.tolist() == [0, 1, 2]
        assert type(found) is type(sent)
        pairs = list(zip(sent, found, strict=True)) if isinstance(sent, tuple) else [(sent, found)]
        for one, other in pairs:
            assert torch.equal(one, other)
            assert one.dtype == other.dtype
            if torch.empty_like(one).stride() == one.stride():
                assert one.stride() == other.stride()
    with pytest.raises(ValueError, match="hands on dict: expected a tensor, or a tuple"):
        messages.send({}, torch.arange(3), 1)
    with pytest.raises(ValueError, match="hands on 6 tensors: expected at most five maps"):
        messages.send((x,) * 6, torch.arange(3), 1)


# ---------------------------------------------------------------- placement


def test_the_slowest_stage_is_as_fast_as_can_be():
    module = LocalErrorSignals(10, (3, 32, 32), "VGG8B", max_dim=2048).train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert stages(module, 2) == [range(3), range(3, 7)]
    assert module.network.blocks[0].training
    assert differences(before, module.state_dict()) == []
    assert stages(module, 3, [1, 2, 4]) == [range(1), range(1, 3), range(3, 7)]
    for processes, seed in itertools.product((2, 3, 4, 6), range(5)):
        costs = torch.randint(1, 100, (6,), generator=torch.Generator().manual_seed(seed)).tolist()

        def slowest(sizes: Iterable[int], costs: list[int] = costs) -> int:
            ends = [0, *itertools.accumulate(sizes)]
            return max(sum(costs[start:end]) for start, end in itertools.pairwise(ends))

        every = [sizes for sizes in itertools.product(range(1, 7), repeat=processes) if sum(sizes) == 6]
        found = split(costs, processes)
        assert tuple(found) in every
        assert slowest(found) == min(map(slowest, every))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ({}, {"devices": 1}, "PipelineStrategy with 1 process: expected at least 2"),
        ({"blocks": [1, 1, 1]}, {}, r"blocks=\[1, 1, 1\] for 2 processes: expected a number for each"),
        ({"blocks": [3, 0]}, {}, r"blocks=\[3, 0\]: expected at least one block for each"),
        ({}, {"sync_batchnorm": True}, "sync_batchnorm with PipelineStrategy"),
    ],
)
def test_bad_placements_are_refused_before_a_process_starts(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        L.Trainer(accelerator="cpu", strategy=PipelineStrategy(**arguments), **{"devices": 2} | options)


@pytest.mark.parametrize(
    ("module", "processes", "blocks", "message"),
    [
        ({}, 4, None, "4 processes for 3 blocks: expected at most one process for each block"),
        ({}, 2, [1, 3], r"blocks=\[1, 3\] are 4 in all: expected the 3 blocks"),
        ({"training": "summed"}, 2, None, "training='summed' with PipelineStrategy: expected 'blockwise'"),
        ({"training": "global"}, 2, None, "training='global' with PipelineStrategy"),
        ({"similarity_pairs": "global"}, 2, None, "similarity_pairs='global' with PipelineStrategy"),
        (None, 2, None, "PipelineStrategy with LightningModule: expected LocalErrorSignals"),
    ],
)
def test_modules_that_cannot_be_spread_are_refused(module, processes, blocks, message):
    trainer = L.Trainer(accelerator="cpu", devices=processes, strategy=PipelineStrategy(blocks))
    trainer.strategy.connect(L.LightningModule() if module is None else LocalErrorSignals(3, **MLP | module))
    with pytest.raises(ValueError, match=message):
        trainer.strategy.configure_ddp()


def test_the_command_line_takes_the_strategy_and_its_blocks():
    strategy = "--trainer.strategy.class_path=zoo.local_error.PipelineStrategy"
    arguments = ["--trainer.devices=2", strategy, "--trainer.strategy.init_args.blocks=[1,3]"]
    found = train.main(["--model", "LocalErrorSignals", "--trainer.accelerator=cpu", *arguments], run=False)
    assert isinstance(found.trainer.strategy, PipelineStrategy)
    assert found.trainer.strategy.blocks == [1, 3]


@pytest.mark.long
def test_from_the_command_line_two_processes_find_what_one_finds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    strategy = "{class_path: zoo.local_error.PipelineStrategy, init_args: {start_method: fork}}"
    Path("pipeline.yaml").write_text(f"trainer: {{devices: 2, strategy: {strategy}}}\n")
    for name, more in {"one": [], "two": ["--config=pipeline.yaml"]}.items():
        recipe = ["--config", str(ROOT / "zoo" / "local_error" / "recipe.yaml"), *more]
        options = ["--model.dropout=0", "--trainer.accelerator=cpu", "--trainer.max_epochs=1"]
        train.main(
            ["fit", *recipe, *options, f"--trainer.logger.save_dir={name}", "--trainer.enable_progress_bar=false"]
        )
    one, two = (logged(Path(name, "local_error", "version_0")) for name in ("one", "two"))
    assert one == two
    assert float(one[0]["train/loss"]) > 0
