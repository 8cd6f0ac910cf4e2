"""Messages between the processes of a pipeline: features with labels, and weights."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed

DTYPES = (
    torch.float32, torch.float64, torch.bfloat16, torch.float16,
    torch.int64, torch.int32, torch.uint8, torch.bool,
)  # fmt: skip
HEADER = 64  # numbers in a header; those of the labels and of five maps are 56


def broadcast(tensors: Iterable[Tensor], source: int) -> None:
    """Copy the tensors of one process to all others, in one message for each dtype."""
    alike: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault(tensor.dtype, []).append(tensor.detach())
    for group in alike.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        distributed.broadcast(flat, source)
        for tensor, piece in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(piece.view(tensor.shape))


def send(x: Any, y: Tensor, to: int) -> list[tuple[Any, Tensor]]:
    """Begin to send what a block hands on, and the labels.

    A header with dtypes, shapes and strides goes first, so that a map arrives in its own layout.

    Returns:
        Each pending message with its tensor, which must live until it has arrived.

    Raises:
        ValueError: x is neither a tensor nor a tuple of tensors, or too many.
    """
    parts = x if isinstance(x, tuple) else (x,)
    if not all(isinstance(part, Tensor) for part in parts):
        raise ValueError(f"a block hands on {type(x).__name__}: expected a tensor, or a tuple of tensors")
    dense = [as_stored(part) for part in (*parts, y)]
    numbers = [len(dense), isinstance(x, tuple)]
    for part in dense:
        numbers += [DTYPES.index(part.dtype), part.dim(), *part.shape, *part.stride()]
    if len(numbers) > HEADER:
        raise ValueError(f"a block hands on {len(parts)} tensors: expected at most five maps (n, C, H, W)")
    header = torch.tensor(numbers + [0] * (HEADER - len(numbers)), device=y.device)
    return [(distributed.isend(part, to), part) for part in (header, *map(in_memory, dense))]


def receive(source: int, device: torch.device) -> tuple[Any, Tensor]:
    """Wait for what another process sends with `send`: inputs and labels."""
    header = torch.empty(HEADER, dtype=torch.int64, device=device)
    distributed.recv(header, source)
    count, several, *numbers = header.tolist()
    tensors = []
    for _ in range(count):
        dtype, dims, *numbers = numbers
        shape, strides, numbers = numbers[:dims], numbers[dims : 2 * dims], numbers[2 * dims :]
        tensors.append(torch.empty_strided(shape, strides, dtype=DTYPES[dtype], device=device))
        distributed.recv(in_memory(tensors[-1]), source)
    *parts, y = tensors
    return tuple(parts) if several else parts[0], y


def as_stored(tensor: Tensor) -> Tensor:
    """The tensor without gradient, copied if it has gaps or overlaps in memory."""
    tensor = tensor.detach()
    dense = torch.empty_like(tensor, device="meta").stride() == tensor.stride()
    return tensor if dense else tensor.contiguous()


def in_memory(tensor: Tensor) -> Tensor:
    """A view of a tensor without gaps as a vector, in the order of its memory."""
    return tensor.as_strided((tensor.numel(),), (1,))
