"""Memory of a training step of local error signals: ``python -m benchmarks.local_error.memory``.

Two numbers for each form, on VGG8B with predsim: the most bytes that autograd held at any moment for backward passes,
parameters left out; and what the whole process needed at its peak more than before the network was made. Then the
first of them for networks of 4 to 16 equal blocks, as a table and as a picture.
"""

import argparse
import resource
import subprocess
import sys
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zoo import LocalErrorSignals

from ..shared.runs import quiet_trainer, silence_lightning
from ..shared.timing import print_machine
from .loop import PlainVGG8B

FORMS: dict[str, str] = {
    "blockwise": "local losses, updates in the forward sweep",
    "summed": "local losses, one backward pass",
    "global": "back-propagation",
    "official": "the official algorithm, plainly",
}
MIB = 2**20


class HeldBytes:
    """Counts what autograd holds for backward passes that are still to come; a context manager.

    A storage counts once, however many views of it are held, from when the first is saved until the last is let go.

    Args:
        parameters: What never counts: it is there anyway.
    """

    def __init__(self, parameters: Iterable[nn.Parameter] = ()) -> None:
        self.current = 0
        self.peak = 0
        self._free = {parameter.untyped_storage().data_ptr() for parameter in parameters}
        self._holders: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._save, lambda saved: saved)

    def __enter__(self) -> "HeldBytes":
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._hooks.__exit__(*exception)

    def _save(self, tensor: Tensor) -> Tensor:
        # A new object with the same storage, which only the graph holds: when it goes, the graph has let go.
        saved = tensor.detach()
        address, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
        if address in self._free:
            return saved
        if address not in self._holders:
            self.current += size
            self.peak = max(self.peak, self.current)
        self._holders[address] = self._holders.get(address, 0) + 1
        weakref.finalize(saved, self._let_go, address, size)
        return saved

    def _let_go(self, address: int, size: int) -> None:
        self._holders[address] -= 1
        if not self._holders[address]:
            del self._holders[address]
            self.current -= size


def process_peak() -> int:
    """The most bytes in use so far: the allocator's on a GPU, else those of the process in the main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


def images(size: int) -> tuple[Tensor, Tensor]:
    """A batch of random images ``(size, 3, 32, 32)`` with their labels."""
    torch.manual_seed(0)
    return torch.rand(size, 3, 32, 32) * 2 - 1, torch.arange(size) % 10


def train(module: L.LightningModule, size: int) -> HeldBytes:
    """Two steps of a module inside ``Trainer.fit``; in the second, Adam's moments exist too."""
    x, y = images(size)
    batches = DataLoader(TensorDataset(x.repeat(2, 1, 1, 1), y.repeat(2)), size)
    with HeldBytes(module.parameters()) as held:
        quiet_trainer(max_epochs=1, devices=1).fit(module, batches)
    assert held.current == 0, "a graph outlived its step"
    return held


def local_error_signals(form: Any, network: str, **network_args: Any) -> LocalErrorSignals:
    """The paper's module with predsim, in one of its three forms."""
    return LocalErrorSignals(10, (3, 32, 32), network, network_args, max_dim=2048, dropout=0.2, training=form)


def measure(form: str, size: int) -> None:
    """Print both numbers of one form; it needs a process of its own, because a process knows its highest peak only."""
    start = process_peak()
    if form == "official":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network, (x, y) = PlainVGG8B().to(device), images(size)
        with HeldBytes(network.parameters()) as held:
            for _ in range(2):
                network(x.to(device), y.to(device))
    else:
        module = local_error_signals(form, "VGG8B")
        held = train(module, size)
    autograd, process = held.peak / MIB, (process_peak() - start) / MIB
    print(f"{form:9}  held by autograd {autograd:6.0f} MiB  process {process:6.0f} MiB over its start")


def sweep(depths: Sequence[int], size: int, path: Path) -> None:
    """Print and plot what autograd holds for networks of equal blocks: 64 channels of 32x32 each."""
    curves: dict[str, list[float]] = {"blockwise": [], "global": []}
    for depth in depths:
        for form, held in curves.items():
            module = local_error_signals(form, "VGG", layers=[64] * depth, hidden=[])
            held.append(train(module, size).peak / MIB)
        print(f"{depth:2} blocks  " + "  ".join(f"{form} {held[-1]:6.1f} MiB" for form, held in curves.items()))
    figure = Figure((6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="blocks of 64 channels of 32x32", ylabel="held by autograd at the peak [MiB]")
    for (form, held), marker in zip(curves.items(), "os", strict=True):
        axes.plot(depths, held, marker=marker, label=FORMS[form])
    axes.set(ylim=(0, None), xticks=depths, title=f"One training step, batch {size}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Read the command line; measure each form in a process of its own, then the depths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--form", choices=FORMS, help="this one only, in this process")
    parser.add_argument("--sweep-batch-size", type=int, default=32)
    parser.add_argument("--picture", type=Path, default=Path("benchmarks/local_error/results/memory.png"))
    arguments = parser.parse_args()
    silence_lightning()
    if arguments.form:
        measure(arguments.form, arguments.batch_size)
        return
    print_machine()
    print(f"VGG8B, predsim, batch {arguments.batch_size}, two steps", flush=True)
    for form in FORMS:
        options = ["--form", form, "--batch-size", str(arguments.batch_size)]
        subprocess.run([sys.executable, "-m", __spec__.name, *options], check=True)
    print(f"64 channels of 32x32 in every block, batch {arguments.sweep_batch_size}", flush=True)
    sweep(range(4, 17, 2), arguments.sweep_batch_size, arguments.picture)


if __name__ == "__main__":
    main()
