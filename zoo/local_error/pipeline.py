"""Update-unlocked training: the blocks are spread over processes, each of which is a batch ahead of the next.

A block needs nothing from the blocks behind it. So a process takes the next batch as soon as it has sent its features
and labels on, while the process behind it still works on those. Nothing is sent back.
"""

import copy
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, distributed, nn
from torch.utils.flop_counter import FlopCounterMode

from ..shared.private_names import deal_no_training_batches
from .messages import broadcast, receive, send
from .net import LocalNetwork


class PipelineStrategy(DDPStrategy):
    """Spreads the blocks of ``LocalErrorSignals(training="blockwise")`` over processes, one stage on each device.

    ``--trainer.devices=2 --trainer.strategy.class_path=zoo.local_error.PipelineStrategy``, in YAML ``strategy:
    {class_path: zoo.local_error.PipelineStrategy}``, or ``L.Trainer(devices=2, strategy=PipelineStrategy())``.

    Process r has stage r: some neighbouring blocks with their heads, and the last one the output layer too. In its step
    t each of them works on batch t, but starts it when the process before has handed it on: so at any moment a stage is
    a batch behind the one before. What is computed is what one process computes, to the last bit: losses, weights, the
    state of the optimiser. That needs no dropout: with dropout, the later stages draw other masks than one process
    would. Each process sees the whole batch, and batch normalisation with it.

    The batches are those of the first process. The others have a loader too, but only count its batches. Evaluation is
    shared out among the processes as under DDP. The weights of all stages come together at the end of each epoch, and
    before a validation or a checkpoint, of which one process can be resumed as well. On a step that logs, processes
    wait for each other, so log seldom.

    Args:
        blocks: How many blocks each process gets, for example ``[3, 4]``; by default the split whose slowest stage has
            the fewest multiplications in its forward pass.
        **arguments: Those of ``DDPStrategy``: ``timeout``, ``start_method`` and so on; nothing is reduced.

    Raises:
        ValueError: For one process, more processes than blocks, ``blocks`` that do not fit, synchronised batch
            normalisation, or a module that is not trained block by block.
    """

    def __init__(self, blocks: list[int] | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.blocks = blocks
        self._own: list[range] = []  # the numbers of each stage's blocks
        self._unsent: list[tuple[Any, Tensor]] = []  # messages that the next process has not received yet
        self._apart = False  # whether stages were updated since their weights were last exchanged

    # ---------------------------------------------------------------- placement

    def _configure_launcher(self) -> None:
        """Check the number of processes and blocks before any process starts."""
        processes, blocks = self.num_nodes * self.num_processes, self.blocks
        if processes < 2:
            raise ValueError(f"PipelineStrategy with {processes} process: expected at least 2, so set devices")
        if blocks is not None and len(blocks) != processes:
            raise ValueError(f"blocks={blocks} for {processes} processes: expected a number for each of them")
        if blocks is not None and min(blocks) < 1:
            raise ValueError(f"blocks={blocks}: expected at least one block for each process")
        if self._layer_sync is not None:
            raise ValueError("sync_batchnorm with PipelineStrategy: each process sees the whole batch, so leave it out")
        super()._configure_launcher()

    def configure_ddp(self) -> None:
        """Instead of wrapping the module, give each process its blocks, and all of them the weights of the first."""
        self._own = stages(self.lightning_module, self.world_size, self.blocks)
        broadcast([*self._network.parameters(), *self._network.buffers()], 0)

    @property
    def _network(self) -> LocalNetwork:
        assert self.lightning_module is not None
        return cast(LocalNetwork, self.lightning_module.network)

    @property
    def own(self) -> range:
        """The numbers of this process's blocks."""
        return self._own[self.global_rank]

    def _modules(self, stage: int) -> list[nn.Module]:
        """The blocks and heads of a stage, and with the last one the output layer."""
        network, own = self._network, self._own[stage]
        output = [network.output] if stage == self.world_size - 1 else []
        return [*(part for number in own for part in (network.blocks[number], network.heads[number])), *output]

    # ---------------------------------------------------------------- what the trainer would do otherwise

    def setup(self, trainer: Trainer) -> None:
        """Keep the trainer from distributing training batches, and from making the first stage wait for the others."""
        deal_no_training_batches(trainer)
        super().setup(trainer)

    def setup_environment(self) -> None:
        """Keep the random state, so that batches come in the order that they have in a single process."""
        with isolate_rng():
            super().setup_environment()

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """All training batches for each process; in evaluation a share for each."""
        assert self.lightning_module is not None
        training = self.lightning_module.trainer.training
        return {"num_replicas": 1, "rank": 0} if training else super().distributed_sampler_kwargs

    # ---------------------------------------------------------------- from one batch to the next

    def receive(self) -> tuple[Any, Tensor]:
        """The inputs of this process's first block, and the labels; waits for the process before."""
        return receive(self.global_rank - 1, self.root_device)

    def send(self, x: Any, y: Tensor) -> None:
        """Begin to send the inputs of the next process's first block, and the labels; waits for the batch before."""
        self._wait()
        self._unsent = send(x, y, self.global_rank + 1)

    def _wait(self) -> None:
        for work, _ in self._unsent:
            work.wait()
        self._unsent = []

    def gather_metrics(self, own: Sequence[Tensor]) -> list[Tensor]:
        """The losses of all blocks, the loss of the output layer and the accuracy, from those of each process."""
        metrics = torch.zeros(len(self._network.blocks) + 2, dtype=torch.float64, device=self.root_device)
        metrics[self.own.start : self.own.start + len(own)] = torch.stack([*own]).to(metrics)
        distributed.all_reduce(metrics)
        return [*metrics.to(own[0].dtype)]

    def training_step(self, *arguments: Any, **keywords: Any) -> Any:
        """The module's step; at the end of an epoch and of the training, hooks then see the weights of all stages."""
        self._apart = True
        loss = super().training_step(*arguments, **keywords)
        assert self.lightning_module is not None
        trainer = self.lightning_module.trainer
        if trainer.is_last_batch or trainer.global_step == trainer.max_steps:
            self._exchange_weights()
        return loss

    # ---------------------------------------------------------------- the whole network

    @torch.no_grad()
    def _exchange_weights(self) -> None:
        """Give all processes the weights and statistics of every stage."""
        if self._apart:
            self._wait()
            for stage in range(self.world_size):
                modules = self._modules(stage)
                broadcast([t for module in modules for t in (*module.parameters(), *module.buffers())], stage)
        self._apart = False

    def on_validation_start(self) -> None:
        """Give every process the whole network."""
        self._exchange_weights()

    on_train_end = on_validation_start

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole network's; all processes take part in a checkpoint."""
        self._exchange_weights()
        return super().lightning_module_state_dict()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> Any:
        """The optimiser's state, which in the first process is that of all stages."""
        state: Any = super().optimizer_state(optimizer)
        gathered: Any = [None] * self.world_size if self.is_global_zero else None
        distributed.gather_object(move_data_to_device(state["state"], "cpu"), gathered)
        if gathered:
            state["state"] = dict(sorted(entry for stage in gathered for entry in stage.items()))
        return state

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """Load the part of the state that belongs to this process."""
        super().load_optimizer_state_dict(checkpoint)
        own = {id(p) for module in self._modules(self.global_rank) for p in module.parameters()}
        for optimizer in self.optimizers:
            for parameter in [parameter for parameter in optimizer.state if id(parameter) not in own]:
                del optimizer.state[parameter]


# ---------------------------------------------------------------- placement


def stages(module: Any, processes: int, blocks: Sequence[int] | None = None) -> list[range]:
    """The numbers of the blocks of each process; ``blocks`` and the errors are those of `PipelineStrategy`."""
    network = getattr(module, "network", None)
    if not isinstance(network, LocalNetwork):
        raise ValueError(f"PipelineStrategy with {type(module).__name__}: expected LocalErrorSignals")
    if module.hparams["training"] != "blockwise":
        raise ValueError(f"training={module.hparams['training']!r} with PipelineStrategy: expected 'blockwise'")
    if module.hparams["similarity_pairs"] != "local":
        raise ValueError("similarity_pairs='global' with PipelineStrategy: each process sees all pairs, so set 'local'")
    count = len(network.blocks)
    if processes > count:
        raise ValueError(f"{processes} processes for {count} blocks: expected at most one process for each block")
    if blocks is not None and sum(blocks) != count:
        raise ValueError(f"blocks={[*blocks]} are {sum(blocks)} in all: expected the {count} blocks of the network")
    ends = [*accumulate(blocks or split(multiplications(module), processes))]
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def multiplications(module: Any) -> list[int]:
    """Multiplications in the forward pass of each block with its head; the output layer counts with the last block."""
    network, costs = module.network, []
    weight = network.output.weight
    x: Any = torch.zeros(2, *module.image_shape, dtype=weight.dtype, device=weight.device)
    y = torch.zeros(2, dtype=torch.int64, device=weight.device)
    with torch.no_grad():
        for number in range(len(network.blocks)):
            block, head = copy.deepcopy((network.blocks[number], network.heads[number]))
            with FlopCounterMode(display=False) as counter:
                hidden = block.eval()(x)
                x = block.hand_on(hidden, x)
                head.eval()(hidden, y)
            costs.append(counter.get_total_flops())
    return [*costs[:-1], costs[-1] + 2 * 2 * weight.numel()]


def split(costs: Sequence[float], processes: int) -> list[int]:
    """How many blocks each stage of neighbours gets, such that the most expensive stage costs as little as possible."""
    sums = [0, *accumulate(costs)]
    # best[n] is the cost of the most expensive stage, and the split, of the first n blocks over the processes so far.
    best = {end: (sums[end], [end]) for end in range(1, len(sums))}
    for _ in range(processes - 1):
        best = {
            end: min((max(best[at][0], sums[end] - sums[at]), [*best[at][1], end - at]) for at in best if at < end)
            for end in best
            if end > min(best)
        }
    return best[len(costs)][1]
