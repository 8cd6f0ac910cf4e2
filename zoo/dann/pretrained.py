"""Features that were trained before."""

from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from ..shared.checkpoints import load_plain


def load_features(extractor: nn.Module, path: Path) -> None:
    """Read a file of ``torch.save(state_dict)`` into a feature network; entries that it lacks are ignored.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no state dict, nothing for this network, or a tensor of another shape.
    """
    if not path.is_file():
        raise FileNotFoundError(f"pretrained={str(path)!r}: no such file; expected a state dict of the feature network")
    state = load_plain(f"pretrained={str(path)!r}", path, "a state dict")
    own = extractor.state_dict()
    found = {name: value for name, value in state.items() if name in own} if isinstance(state, dict) else {}
    if not found:
        raise ValueError(
            f"pretrained={str(path)!r} has nothing for this network; expected names like {next(iter(own))}"
        )
    for name, value in found.items():
        if not isinstance(value, Tensor) or value.shape != own[name].shape:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"pretrained={str(path)!r} has {name} of {shape}, the network {tuple(own[name].shape)}")
    extractor.load_state_dict(found, strict=False)
    new = sorted(own.keys() - found.keys())
    rank_zero_info(f"{len(found)} of {len(own)} tensors of the feature network are from {path}; new: {new}")
