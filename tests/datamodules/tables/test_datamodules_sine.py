"""The sine: its points, its labels, what it refuses."""

import math

import pytest
import torch

from datamodules import SineDataModule


def everything(data: SineDataModule) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The points as they were before they were standardised, and the labels, of all three sets."""
    sets = data.sets()
    return [(rows.features.double() * float(data.std) + float(data.mean), rows.targets) for rows in sets]


def test_labels_are_the_sine_of_the_points_and_test_points_lie_halfway():
    data = SineDataModule(frequency=3, offset=10, points=40)
    step = 2 * math.pi / 40
    for (x, y), place in zip(everything(data), (0, 0.25, 0.5), strict=True):
        assert x.shape == (40, 1)
        assert y.dtype == torch.float32
        torch.testing.assert_close(x[0, 0].item(), -math.pi + place * step, atol=1e-5, rtol=0)
        torch.testing.assert_close(x[:, 0].diff(), torch.full((39,), step, dtype=torch.float64), atol=1e-5, rtol=0)
        torch.testing.assert_close(y.double(), torch.sin(3 * x[:, 0]) + 10, atol=2e-5, rtol=0)


def test_the_training_points_are_standardised_and_come_in_one_batch():
    data = SineDataModule(points=50, batch_size=50)
    ((x, y),) = list(data.train_dataloader())
    assert x.shape == (50, 1)
    torch.testing.assert_close(x.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std(correction=0), torch.tensor(1.0))
    assert torch.equal(y.sort().values, data.training_targets.sort().values)
    assert (data.num_features, data.test_sets) == (1, ("sine",))
    assert len(data.test_dataloader()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": 1}, "points must be at least 2, got 1"),
        ({"frequency": 0.0}, "frequency must not be 0"),
        ({"offset": math.nan}, "offset must be finite, got nan"),
        ({"frequency": math.inf}, "frequency must be finite, got inf"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SineDataModule(**arguments)
