"""The networks of DANN: the paper's sizes, batch normalisation of one or two domains, the largest norm."""

from typing import Any

import lightning as L
import pytest
import torch
from dann_toys import QUIET, SMALL, fit, images
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zoo import DANN
from zoo.dann.normalisation import SOURCE, TARGET, DomainBatchNorm, choose_domain

# networks


@pytest.mark.parametrize(
    ("network", "shape", "features", "penultimate"),
    [
        ("MNIST", (3, 28, 28), 768, 100),
        ("SVHN", (3, 32, 32), 6272, 2048),
        ("GTSRB", (3, 40, 40), 1024, 512),
        ("Shallow", (2,), 15, 15),
        ("AlexNet", (3, 64, 64), 256, 256),
    ],
)
def test_the_papers_networks_have_its_widths(network, shape, features, penultimate):
    module = DANN(num_classes=7, image_shape=shape, network=network).eval()
    x = images(2, 0, shape)
    assert module.domain_features(x).shape == (2, features)
    assert module.features(x).shape == (2, penultimate)
    assert module(x).shape == (2, 7)
    assert module.domain_logits(x).shape == (2,)
    assert torch.equal(module(x), module.network.label_output(module.features(x)))


def test_the_mnist_column_has_the_papers_parameters():
    sizes = [tuple(value.shape) for name, value in DANN().network.named_parameters() if name.endswith("weight")]
    assert sizes == [(32, 3, 5, 5), (48, 32, 5, 5), (100, 768), (100, 100), (10, 100), (100, 768), (1, 100)]


def test_pooling_before_the_non_linearity_changes_no_number():
    module = DANN(image_shape=(3, 28, 28))
    x = images(3, 0, (3, 28, 28))
    first, _, _, second, _, _ = module.network.extractor
    after = nn.functional.max_pool2d(first(x).relu(), 2)
    after = nn.functional.max_pool2d(second(after).relu(), 2).flatten(1)
    torch.testing.assert_close(module.domain_features(x), after, rtol=0, atol=1e-6)


def test_the_shallow_network_starts_as_in_its_code():
    torch.manual_seed(0)
    network = DANN(num_classes=2, image_shape=(2,), network="Shallow").network
    assert network.extractor[1].weight.abs().max() <= (6 / 17) ** 0.5
    assert network.extractor[1].weight.abs().max() > 0.8 * (6 / 17) ** 0.5
    assert network.label_output.weight.abs().max() <= (6 / 17) ** 0.5
    zero = [network.extractor[1].bias, network.label_output.bias, *network.domain_head.parameters()]
    assert all(bool((parameter == 0).all()) for parameter in zero)


def test_the_alexnet_takes_torchvisions_weights_but_for_its_last_layer(tmp_path):
    import torchvision

    torch.manual_seed(1)
    whole = torchvision.models.alexnet(weights=None).eval()
    torch.save(whole.state_dict(), tmp_path / "alexnet.pth")
    module = DANN(3, (3, 64, 64), "AlexNet", pretrained=str(tmp_path / "alexnet.pth"))
    module.setup("fit")
    extractor: Any = module.network.extractor.eval()
    x = images(2, 0, (3, 64, 64))
    wide = extractor.classifier(extractor.avgpool(extractor.features(x)).flatten(1))
    torch.testing.assert_close(whole.classifier[6](wide), whole(x))


class Own(DANN):
    def build_features(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU())


def test_a_feature_network_of_ones_own_goes_in_by_one_override():
    module = Own(**SMALL, normalisation="joint")
    fit(module)
    assert module.domain_features(images(2, 0)).shape == (2, 4 * 3 * 3)
    assert module(images(2, 0)).shape == (2, 3)


# batch normalisation


def test_batch_normalisation_must_be_chosen():
    with pytest.raises(ValueError, match=r"choose normalisation='joint' .* or 'per_domain'"):
        Own(**SMALL)


def shifted() -> dict[str, DataLoader]:
    """A target that is far from the source."""
    source = TensorDataset(images(12, 0) * 0.1 - 0.8, torch.arange(12) % 3)
    return {"source": DataLoader(source, 4), "target": DataLoader(images(12, 1) * 0.1 + 0.8, 4)}


def inputs_of_the_first_norm(module: Any) -> dict[int, Tensor]:
    convolution = module.network.extractor[0]
    return {
        domain: convolution(x).mean((0, 2, 3))
        for domain, x in ((SOURCE, images(12, 0) * 0.1 - 0.8), (TARGET, images(12, 1) * 0.1 + 0.8))
    }


def test_per_domain_statistics_are_those_of_each_domain_and_joint_ones_those_of_both():
    torch.manual_seed(0)
    for normalisation in ("per_domain", "joint"):
        module: Any = Own(**SMALL, normalisation=normalisation, lr=1e-9)
        for _ in range(40):
            L.Trainer(**QUIET, max_epochs=1).fit(module, shifted())
        means, norm = inputs_of_the_first_norm(module), module.network.extractor[1]
        if normalisation == "joint":
            assert torch.allclose(norm.running_mean, (means[SOURCE] + means[TARGET]) / 2, atol=0.02)
            continue
        assert isinstance(norm, DomainBatchNorm)
        for domain in (SOURCE, TARGET):
            assert torch.allclose(norm.norms[domain].running_mean, means[domain], atol=0.02)
            assert not torch.allclose(norm.norms[domain].running_mean, means[1 - domain], atol=0.02)


def test_an_image_is_taken_for_the_targets_except_in_the_first_evaluation_loader():
    torch.manual_seed(0)
    module: Any = Own(**SMALL, normalisation="per_domain")
    L.Trainer(**QUIET, max_epochs=5).fit(module, shifted())
    x = images(4, 0)
    choose_domain(module.network, SOURCE)
    of_source = module.eval()(x)
    choose_domain(module.network, TARGET)
    of_target = module(x)
    assert not torch.allclose(of_source, of_target)

    seen: dict[int, Tensor] = {}

    class Read(L.Callback):
        def on_test_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any, dataloader_idx: int = 0) -> None:
            seen[_[2] if len(_) > 2 else dataloader_idx] = outputs["logits"]
            with torch.no_grad():
                assert torch.equal(module(x), outputs["logits"]), "a callback sees the same statistics"

    loader = DataLoader(TensorDataset(x, torch.zeros(4, dtype=torch.long)), 4)
    L.Trainer(**QUIET, callbacks=[Read()]).test(module, [loader, loader, loader], verbose=False)
    assert torch.equal(seen[0], of_source)
    assert torch.equal(seen[1], of_target)
    assert torch.equal(seen[2], of_source), "other sets are compared with the source"
    assert torch.equal(module(x), of_target), "afterwards the module is for the target again"


# the largest norm


def test_the_largest_norm_holds_for_each_unit_after_a_step():
    torch.manual_seed(0)
    free, bound = DANN(**SMALL), DANN(**SMALL, max_norm=0.3)
    for module in (free, bound):
        fit(module)
    norms = {
        module: torch.cat([w.weight.flatten(1).norm(dim=1) for w in module.network.modules() if hasattr(w, "weight")])
        for module in (free, bound)
    }
    assert norms[free].max() > 0.5
    assert norms[bound].max() <= 0.3 + 1e-5
    assert norms[bound].max() > 0.29
