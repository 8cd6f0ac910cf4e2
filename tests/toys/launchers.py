"""The launchers of several processes, as command lines."""

import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def commands(launcher: str, *args: str) -> list[list[str]]:
    """The commands that together are one run of two processes."""
    script = [str(ROOT / "train.py"), *args]
    if launcher == "lightning":
        return [[sys.executable, *script, "--trainer.devices=2", "--trainer.strategy=ddp"]]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--monitor-interval=1"]
    if launcher == "torchrun":
        one_node = ["--standalone", "--nproc-per-node=2"]
        return [[*torchrun, *one_node, *script, "--trainer.devices=2", "--trainer.strategy=ddp"]]
    node = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-id=zoo", "--rdzv-backend=c10d", "--local-addr=127.0.0.1"]
    node += [f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    two = ["--trainer.devices=1", "--trainer.num_nodes=2", "--trainer.strategy=ddp"]
    return [[*torchrun, *node, *script, *two]] * 2
