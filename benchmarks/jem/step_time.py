"""Time of JEM's training step against a plain loop of the official algorithm: ``python -m benchmarks.jem.step_time``.

The module's step is the real one, inside ``Trainer.fit``, on a wide ResNet and random images of 3x32x32. The plain loop
makes a step between two batches. Each half of a batch of the module is one minibatch of the algorithm.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zoo import JEM
from zoo.jem.loss import generative_loss

from ..shared.runs import silence_lightning
from ..shared.timing import Step, print_machine, print_ratios, step_time_parser, take_turns


def plain_loop(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> Step:
    """JEM's official algorithm, written down plainly: float32, contiguous, three passes, the graph retained."""
    network = copy.deepcopy(network).to(x.device).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    memory = torch.rand(10_000, *x.shape[1:], device=x.device) * 2 - 1

    def step() -> None:
        x_p = x + 0.03 * torch.randn_like(x)
        x_l = x + 0.03 * torch.randn_like(x)
        network.eval()
        slots = torch.randint(len(memory), (len(x),), device=x.device)
        renew = (torch.rand(len(x), device=x.device) < 0.05).float()[:, None, None, None]
        x_q = (renew * (torch.rand_like(x) * 2 - 1) + (1 - renew) * memory[slots]).requires_grad_()
        for _ in range(steps):
            (gradient,) = torch.autograd.grad(network(x_q).logsumexp(1).sum(), [x_q], retain_graph=True)
            x_q.data += gradient + 0.01 * torch.randn_like(x_q)
        network.train()
        x_q = x_q.detach()
        memory[slots] = x_q
        loss = network(x_q).logsumexp(1).mean() - network(x_p).logsumexp(1).mean()
        loss = loss + nn.functional.cross_entropy(network(x_l), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


class OnePass(JEM):
    """JEM with one pass over real images and samples together, where the module makes three."""

    def _losses(self, x_p: Tensor, x_l: Tensor, y_l: Tensor) -> Any:
        drawn = self.chains.draw(self.network, len(x_p), None, self.hparams["sgld_steps"])
        f_p, f_q, f_l = self(torch.cat([x_p, drawn[0], x_l])).split(len(x_p))
        px = generative_loss(f_p, f_q)
        return px + nn.functional.cross_entropy(f_l, y_l), -px.detach()[None], {}, [drawn]


def main() -> None:
    """Compare each way of making the step with the plain loop."""
    parser = step_time_parser(__doc__, batch_size=32)
    parser.add_argument("--depth", type=int, default=16, help="of the wide ResNet")
    parser.add_argument("--width", type=int, default=4, help="of the wide ResNet")
    parser.add_argument("--steps", type=int, default=20, help="SGLD steps in a training step")
    parser.add_argument("--all", action="store_true", help="each way of saving time alone, too")
    arguments = parser.parse_args()
    silence_lightning()
    print_machine()
    size, rounds = arguments.batch_size, arguments.rounds
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = torch.rand(size, 3, 32, 32) * 2 - 1, torch.arange(size) % 10
    batches = DataLoader(TensorDataset(x.repeat(2 * (rounds + 1), 1, 1, 1), y.repeat(2 * (rounds + 1))), 2 * size)
    network_args = {"depth": arguments.depth, "width": arguments.width}
    variants: dict[str, tuple[type[JEM], Any, torch.memory_format, Any]] = {
        "channels-last": (JEM, "float32", torch.channels_last, "32-true"),
        "channels-last, bfloat16 chain": (JEM, "bfloat16", torch.channels_last, "32-true"),
        "channels-last, bfloat16 chain, bf16-mixed": (JEM, "bfloat16", torch.channels_last, "bf16-mixed"),
    }
    if arguments.all:
        variants |= {
            "contiguous": (JEM, "float32", torch.contiguous_format, "32-true"),
            "contiguous, one pass": (OnePass, "float32", torch.contiguous_format, "32-true"),
            "channels-last, one pass": (OnePass, "float32", torch.channels_last, "32-true"),
            "contiguous, bfloat16 chain": (JEM, "bfloat16", torch.contiguous_format, "32-true"),
        }
    for name, (module_class, chain_precision, layout, precision) in variants.items():
        module = module_class(network_args=network_args, sgld_steps=arguments.steps, chain_precision=chain_precision)
        module.network.to(memory_format=layout)
        others = {"plain loop": plain_loop(module.network, x.to(device), y.to(device), arguments.steps)}
        print_ratios(take_turns(name, module, batches, others, precision))


if __name__ == "__main__":
    main()
