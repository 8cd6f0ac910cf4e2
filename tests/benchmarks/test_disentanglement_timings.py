"""The timings of the disentangling autoencoders and of their metrics: what is stepped, and what is printed."""

from argparse import Namespace

import pytest
import torch

from benchmarks.disentanglement import loop, metrics_time, step_time
from zoo import BetaVAE, FactorVAE


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("second_batch", "images"), [(False, 2), (True, 4)])
def test_the_bare_networks_make_the_passes_of_the_method_and_learn_nothing(layout, second_batch, images):
    module = FactorVAE(second_batch=second_batch)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    seen = {"Encoder": 0, "Decoder": 0, "Discriminator": 0}

    def count(network, arguments):
        seen[type(network).__name__] += len(arguments[0])

    for network in (module.encoder, module.decoder, module.discriminator):
        network.register_forward_pre_hook(count)  # a copy keeps it
    step = loop.bare(module, torch.rand(images, 1, 64, 64), layout)
    step()
    used = images // (2 if second_batch else 1)
    assert seen == {"Encoder": images, "Decoder": used, "Discriminator": 3 * used}
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_plain_adam_is_not_fused():
    module = BetaVAE()
    loop.plain_adam(module)
    assert [group["fused"] for group in module.configure_optimizers().param_groups] == [False]


@pytest.mark.long
def test_every_method_is_timed_beside_its_bare_networks(capsys):
    step_time.compare(Namespace(batch_size=2, rounds=1, all=False, peer=False))
    lines = capsys.readouterr().out.splitlines()
    named = [line.partition(",")[0] for line in lines if ", channels-last" in line and not line.startswith("bare")]
    assert set(named) == {"BetaVAE", "BetaTCVAE", "FactorVAE", "AnnealedVAE", "DIPVAE"}
    assert sum(line.startswith("bare, channels-last ") for line in lines) == len(named) == 12


def test_the_metrics_are_timed_on_codes_that_know_the_factors(capsys):
    metrics = ["beta_vae", "factor_vae", "mig", "irs"]
    seconds = metrics_time.score_all(metrics, 400, 100, 100, 50)
    assert list(seconds) == metrics
    assert "factor_vae 1.000" in capsys.readouterr().out
