"""What every module keeps to on several processes."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_runs import ONE_A_METHOD, QUIET, build, fit, fitted
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader, Dataset, Subset


class Compare(Callback):
    """Gathers what two processes computed, and lets rank 0 write it down for the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.losses: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self.losses.append(torch.as_tensor(loss).detach().double())

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        optimizers = [value for each in trainer.optimizers for state in each.state.values() for value in state.values()]
        state = [*pl_module.state_dict().values(), *(value for value in optimizers if isinstance(value, torch.Tensor))]
        gathered = {
            "state": trainer.strategy.all_gather(torch.cat([value.detach().flatten().double() for value in state])),
            "losses": trainer.strategy.all_gather(torch.stack(self.losses)),
        }
        if trainer.is_global_zero:
            torch.save(gathered, self.folder / "gathered.pt")


@pytest.mark.parametrize("conf", ONE_A_METHOD, indirect=True)
@pytest.mark.parametrize("batches", ["different", "same"])
def test_two_processes_agree_on_weights_buffers_and_optimiser_and_draw_noise_of_their_own(conf, batches, tmp_path):
    model, data = build(conf)
    fit(
        model,
        data,
        [Compare(tmp_path)],
        strategy=conf["contract"].get("strategy", "ddp_fork"),
        devices=2,
        use_distributed_sampler=batches == "different",
    )
    gathered = torch.load(tmp_path / "gathered.pt")
    assert torch.equal(*gathered["state"])
    first, second = gathered["losses"]
    if batches == "same" and not conf["contract"]["noise"]:
        assert torch.equal(first, second)  # so that the line below proves something of the others
    else:
        assert (first != second).all()


class Parts(Dataset):
    """Steps of two batches; each process takes its own, a single one both of them joined."""

    def __init__(self, batches: list[Any]) -> None:
        self.steps = list(zip(batches[::2], batches[1::2], strict=True))

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Any:
        if torch.distributed.is_initialized():
            return self.steps[index][torch.distributed.get_rank()]
        return joined(*self.steps[index])


def joined(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        return {key: joined(one[key], other[key]) for key in one}
    if isinstance(one, list | tuple):
        return tuple(joined(*pair) for pair in zip(one, other, strict=True))
    return torch.cat([one, other])


@pytest.mark.parametrize("conf", ONE_A_METHOD, indirect=True)
def test_two_processes_step_like_one_with_both_batches_where_the_docstring_says_so(conf):
    def trained(devices: int) -> torch.Tensor:
        model, data = build(conf)
        loaders = data.train_dataloader()
        batches = [batch for batch, _, _ in islice(CombinedLoader(loaders, "max_size_cycle"), 6)]
        steps = DataLoader(Parts([data.on_after_batch_transfer(batch, 0) for batch in batches]), batch_size=None)
        data.train_dataloader, data.on_after_batch_transfer = lambda: steps, lambda batch, dataloader_idx: batch
        # Adam would make as large a step of a gradient that is nothing but rounding.
        model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), 1e-5)
        strategy = conf["contract"].get("strategy", "ddp_fork") if devices > 1 else "auto"
        arguments = {"devices": devices, "strategy": strategy, "use_distributed_sampler": False}
        seed_everything(0, verbose=False)
        model.double()
        before = torch.cat([value.detach().flatten() for value in model.parameters()])
        fit(model, data, [], precision="64-true", limit_train_batches=3, **arguments)
        return torch.cat([value.detach().flatten() for value in model.parameters()]) - before

    assert "2 n" in (type(build(conf)[0]).__doc__ or "")
    together, apart = trained(1), trained(2)
    distance = (together - apart).abs().max() / together.abs().max()
    assert (distance < 1e-9) == (conf["contract"]["joint_batch"] == "equal"), distance


@pytest.mark.parametrize("conf", ONE_A_METHOD, indirect=True)
@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_each_validation_sample_counts_once_on_any_number_of_processes(conf, processes):
    model, data = fitted(conf)
    loaders = data.val_dataloader()
    first = loaders[0] if isinstance(loaders, list) else loaders
    # 17 in batches of 8: the last batch of the second of two processes is one repetition
    shorter = DataLoader(Subset(first.dataset, range(17)), 8, collate_fn=first.collate_fn)
    data.val_dataloader = lambda: shorter

    def metrics(devices: int) -> dict[str, float]:
        strategy = conf["contract"].get("strategy", "ddp_fork") if devices > 1 else "auto"
        trainer = Trainer(**QUIET, devices=devices, strategy=strategy)
        return trainer.validate(model, datamodule=data, verbose=False)[0]

    alone, shared = metrics(1), metrics(processes)
    assert alone.keys() == shared.keys()
    of_batches = {f"val/{name}" for name in conf["contract"].get("of_batches", [])}
    assert of_batches < alone.keys()
    for name in alone.keys() - of_batches:
        assert shared[name] == pytest.approx(alone[name], rel=1e-5), name
    if "val/acc" in alone:
        assert shared["val/acc"] == alone["val/acc"]
