"""The network of all regressors here: dropout on the input, ReLU layers, one linear layer on top."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from ..shared.arguments import check_at_least
from ..shared.nets.dropout import Dropout

Initialisation = Literal["lecun_uniform", "torch"]


class RegressionNetwork(nn.Module):
    """The authors' multilayer perceptron; its arguments are those of the regressors, which document them.

    ``lecun_uniform`` has zero biases, with which all ReLUs of a network with one feature bend at its mean; ``torch`` is
    torch's own initialisation.

    Raises:
        ValueError: For a size below 1 or a probability out of range.
    """

    def __init__(
        self,
        num_features: int,
        hidden: Sequence[int],
        outputs: int,
        input_dropout: float = 0.0,
        initialisation: Initialisation = "lecun_uniform",
    ) -> None:
        super().__init__()
        sizes = [num_features, *hidden]
        check_at_least(1, num_features=num_features, **{f"hidden[{i}]": width for i, width in enumerate(hidden)})
        layers: list[nn.Module] = []
        for inputs, width in pairwise(sizes):
            layers += [nn.Linear(inputs, width), nn.ReLU()]
        self.body = nn.Sequential(Dropout(input_dropout, "input_dropout"), *layers)
        self.head = nn.Linear(sizes[-1], outputs)
        for module in self.modules():
            if isinstance(module, nn.Linear) and initialisation == "lecun_uniform":
                bound = math.sqrt(3 / module.in_features)
                nn.init.uniform_(module.weight, -bound, bound)
                nn.init.zeros_(module.bias)

    def features(self, x: Tensor) -> Tensor:
        """Last hidden layer ``(B, hidden[-1])`` of features ``(B, D)``."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``(B, outputs)`` of features ``(B, D)``."""
        return self.head(self.body(x))
