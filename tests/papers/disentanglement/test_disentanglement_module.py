"""The six methods as modules: networks, capabilities, objectives, FactorVAE's two losses."""

import math
from typing import Any

import pytest
import torch
from disentanglement_toys import few, images, loader, objective, quiet, small
from torch import nn

from zoo import DIPVAE, AnnealedVAE, BetaTCVAE, BetaVAE, FactorVAE
from zoo.disentanglement.loss import discriminator_loss, kl_divergence
from zoo.disentanglement.vae import Codes
from zoo.shared.losses import at_least_float32

# ---------------------------------------------------------------- networks


@pytest.mark.parametrize(("channels", "encoder", "decoder"), [(1, 309_204, 381_313), (3, 310_228, 382_339)])
def test_the_networks_have_the_studys_parameters_and_shapes(channels, encoder, decoder):
    module = FactorVAE(image_shape=(channels, 64, 64))
    counts = [
        sum(p.numel() for p in part.parameters()) for part in (module.encoder, module.decoder, module.discriminator)
    ]
    assert counts == [encoder, decoder, 5_018_002]
    kernels = [m.kernel_size for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [(4, 4), (4, 4), (2, 2), (2, 2)]
    sides: list[int] = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(lambda *args: sides.append(args[2].shape[2]))
    x = images(2, channels)
    assert module(x).shape == x.shape
    assert sides == [32, 16, 8, 4, 8, 16, 32, 64]
    assert [layer.negative_slope for layer in module.discriminator if isinstance(layer, nn.LeakyReLU)] == [0.2] * 6


def test_weights_start_glorot_uniform_and_biases_at_zero():
    module = BetaVAE()
    assert all((value == 0).all() for name, value in module.named_parameters() if name.endswith("bias"))
    first, head = module.encoder.body[0].weight, module.encoder.head.weight
    assert first.abs().max().item() == pytest.approx(math.sqrt(6 / (16 + 32 * 16)), rel=0.02)
    assert head.abs().max().item() == pytest.approx(math.sqrt(6 / (256 + 10)), rel=0.005)  # a head has ten units


@pytest.mark.parametrize(("channels", "expected"), [(1, 2839.1), (3, 8517.4)])
def test_training_starts_at_log_2_in_each_pixel_without_any_divergence(channels, expected):
    found = objective(BetaVAE(image_shape=(channels, 64, 64)), images(channels=channels))
    assert found["reconstruction"].item() == pytest.approx(expected, rel=2e-3)
    assert 0 <= found["kl"].item() < 0.1


def test_weights_and_feature_maps_are_channels_last():
    module = BetaVAE(image_shape=(3, 64, 64))
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert module.encoder.body[:2](images(2, 3)).is_contiguous(memory_format=torch.channels_last)


def test_an_encoder_or_a_decoder_of_ones_own_is_one_method():
    class Mine(BetaVAE):
        def build_encoder(self) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(4096, 20))

    assert Mine().encode(images(2)).shape == (2, 10)
    module = small(BetaVAE)
    assert module(few(2)).shape == (2, 1, 6, 6)


# ---------------------------------------------------------------- what a module offers


def test_the_capabilities_agree_with_one_another():
    module = BetaVAE(num_latents=4).eval()
    x = images(3)
    posterior = module.posterior(x)
    assert posterior.batch_shape == (3,)
    assert posterior.event_shape == (4,)
    assert torch.equal(posterior.mean, module.encode(x))
    assert torch.equal(module(x), module.decode(module.encode(x)))
    drawn = module.sample(5)
    assert drawn.shape == (5, 1, 64, 64)
    assert not drawn.requires_grad
    assert 0 <= drawn.min() <= drawn.max() <= 1


def test_the_encoder_and_the_likelihood_see_pixels_from_0_to_1():
    module, seen = small(BetaVAE), []
    module.encoder.register_forward_hook(lambda *args: seen.append(args[1][0]))
    x = few()
    with torch.no_grad():
        for parameter in module.decoder.parameters():
            parameter.zero_()
        module.decoder[0].bias.copy_(torch.full((36,), 2.0))
    found = objective(module, x)
    torch.testing.assert_close(seen[0], (x + 1) / 2)
    expected = nn.functional.binary_cross_entropy_with_logits(torch.full_like(x, 2.0), (x + 1) / 2, reduction="none")
    torch.testing.assert_close(found["reconstruction"], expected.sum((1, 2, 3)).mean())


def test_the_draws_of_a_batch_follow_its_posterior():
    module = small(BetaVAE)
    x = few(1).expand(20_000, 1, 6, 6)
    codes = module.draw_codes((x + 1) / 2, torch.Generator().manual_seed(0))
    posterior = module.posterior(x[:1])
    torch.testing.assert_close(codes.z.mean(0), posterior.mean[0], atol=0.05, rtol=0)
    torch.testing.assert_close(codes.z.std(0), posterior.stddev[0], rtol=0.03, atol=0)


# ---------------------------------------------------------------- objectives


def plain(**arguments: Any) -> list[Any]:
    """What is the plain VAE in each family."""
    return [
        small(BetaVAE, beta=1.0, **arguments),
        small(FactorVAE, gamma=0.0, **arguments),
        small(DIPVAE, lambda_od=0.0, **arguments),
        *(small(BetaTCVAE, beta=1.0, estimator=e, dataset_size=99, **arguments) for e in ("mixture", "stratified")),
    ]


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_at_weight_zero_or_one_all_methods_are_the_same_vae(likelihood):
    x, found = few(), []
    for module in plain(likelihood=likelihood):
        result = objective(module, x)
        parameters = [*module.encoder.parameters(), *module.decoder.parameters()]
        found.append([result["loss"], *torch.autograd.grad(result["loss"], parameters)])
    for other in found[1:]:
        for first, second in zip(found[0], other, strict=True):
            torch.testing.assert_close(first, second)


def test_a_discriminator_with_equal_logits_leaves_the_vae_loss():
    module = small(FactorVAE)
    with torch.no_grad():
        module.discriminator[-1].weight.zero_()
    found = objective(module, few())
    torch.testing.assert_close(found["loss"], found["reconstruction"] + found["kl"])
    assert found["discriminator_loss"].item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        (BetaVAE, {"beta": 6.0}, lambda f: 6 * f["kl"]),
        (AnnealedVAE, {"gamma": 7.0}, lambda f: 7 * (f["kl"] - f["capacity"]).abs()),
        (FactorVAE, {"gamma": 20.0}, lambda f: f["kl"] + 20 * f["total_correlation"]),
        (DIPVAE, {"variant": "II"}, lambda f: f["kl"] + f["penalty"]),
        (BetaTCVAE, {"beta": 8.0}, lambda f: f["kl"] + 7 * f["total_correlation"]),
    ],
)
def test_the_loss_is_the_reconstruction_plus_the_methods_own_regulariser(kind, arguments, expected):
    found = objective(small(kind, **arguments), few())
    torch.testing.assert_close(found["regulariser"], expected(found))
    torch.testing.assert_close(found["loss"], found["reconstruction"] + found["regulariser"])


@pytest.mark.parametrize(
    ("variant", "lambda_d", "weights"),
    [("I", None, (2, 20)), ("II", None, (2, 2)), ("I", 0.0, (2, 0)), ("II", 3.0, (2, 3))],
)
def test_dip_vae_weighs_the_diagonal_as_the_study_does_unless_told(variant, lambda_d, weights):
    module = small(DIPVAE, variant=variant, lambda_od=2.0, lambda_d=lambda_d)
    mean = torch.tensor([[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0], [2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]])
    variances = torch.tensor([0.5, 1.0, 1.0])
    codes = Codes(mean, mean, variances.log().expand(4, 3))
    kl = kl_divergence(codes.mean, codes.logvar)
    diagonal = torch.tensor([2.5, 0.5, 0.0]) + (variances if variant == "II" else 0)
    expected = weights[0] * 2 * 0.25 + weights[1] * (diagonal - 1).square().sum()
    torch.testing.assert_close(module.regulariser(codes, kl, None)["penalty"], expected)


def test_the_estimators_differ_by_their_constants_and_the_stratified_one_truly():
    found = {}
    for name in ("unnormalised", "mixture", "weighted", "stratified"):
        module = small(BetaTCVAE, estimator=name, dataset_size=1000)
        with torch.no_grad():
            module.encoder[1].weight.mul_(5)  # posteriors that differ
        found[name] = objective(module, few())["total_correlation"].item()
    assert found["mixture"] - found["unnormalised"] == pytest.approx(2 * math.log(16), abs=1e-4)
    assert found["weighted"] - found["unnormalised"] == pytest.approx(2 * math.log(16_000), abs=1e-4)
    assert abs(found["stratified"] - found["mixture"]) > 0.01


# ---------------------------------------------------------------- FactorVAE


@pytest.mark.parametrize("second_batch", [False, True])
def test_neither_loss_of_factor_vae_leaves_a_gradient_in_what_the_other_trains(second_batch):
    module = small(FactorVAE, second_batch=second_batch)
    found = objective(module, few())
    own, others = list(module.discriminator.parameters()), [*module.encoder.parameters(), *module.decoder.parameters()]
    of_others = torch.autograd.grad(found["loss"], others + own, retain_graph=True, allow_unused=True)
    of_own = torch.autograd.grad(found["discriminator_loss"], others + own, retain_graph=True, allow_unused=True)
    assert all(g is not None for g in of_others[: len(others)])
    assert all(g is None for g in of_others[len(others) :])
    assert all(g is None for g in of_own[: len(others)])
    assert all(g is not None for g in of_own[len(others) :])
    module.minimised(found).backward()
    for parameter, expected in zip(others + own, [*of_others[: len(others)], *of_own[len(others) :]], strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_the_total_correlation_reaches_the_encoder_through_the_discriminator():
    module = small(FactorVAE)
    found = objective(module, few())
    gradients = torch.autograd.grad(found["total_correlation"], list(module.encoder.parameters()))
    assert all(g.abs().sum() > 0 for g in gradients)


def test_one_adam_with_two_groups_steps_like_two_adams_at_once():
    x, modules = few(64), [small(FactorVAE), small(FactorVAE)]
    torch.manual_seed(1)
    trainer = quiet(max_steps=4)
    trainer.fit(modules[0], loader(x, 16))
    assert trainer.global_step == 4, "max_steps counts batches"

    vae, discriminator = modules[1], modules[1].discriminator
    own = torch.optim.Adam([*vae.encoder.parameters(), *vae.decoder.parameters()], 1e-4, fused=True)
    other = torch.optim.Adam(discriminator.parameters(), 1e-4, betas=(0.5, 0.9), fused=True)
    torch.manual_seed(1)
    list(loader(x, 16).__iter__().__next__())  # draws what the trainer's loader drew
    for batch in x.split(16):
        found = vae.objective(batch)
        own.zero_grad()
        other.zero_grad()
        found["loss"].backward()
        found["discriminator_loss"].backward()
        own.step()
        other.step()
    for first, second in zip(modules[0].parameters(), vae.parameters(), strict=True):
        assert torch.equal(first, second)


def test_permuted_codes_are_those_of_the_batch_or_of_its_second_half():
    for second_batch, halves in ((False, 1), (True, 2)):
        module, seen, encoded = small(FactorVAE, second_batch=second_batch), [], []
        module.discriminator.register_forward_hook(lambda *args, seen=seen: seen.append(args[1][0]))
        module.encoder.register_forward_hook(lambda *args, encoded=encoded: encoded.append(args[2].detach()))
        x = few()
        found = objective(module, x)
        z, permuted = seen[1].chunk(2)
        assert len(z) == 16 // halves
        assert len(encoded) == halves
        assert torch.equal(seen[0], z), "the total correlation and the discriminator's loss see the same codes"
        source = z if not second_batch else at_least_float32(encoded[1]).chunk(2, 1)[0]
        if not second_batch:
            torch.testing.assert_close(permuted.sort(0).values, source.sort(0).values, rtol=0, atol=0)
            assert not torch.equal(permuted, z)
        else:
            assert not set(permuted.flatten().tolist()) & set(z.flatten().tolist())
        logits = module.discriminator(torch.cat([z, permuted]))
        torch.testing.assert_close(found["discriminator_loss"], discriminator_loss(*logits.split(len(z))))
        assert len(objective(module.eval(), x)) == len(found)
        assert len(seen[-1]) == 32, "evaluation always takes the whole batch for both"


def test_a_batch_of_one_image_cannot_be_halved():
    with pytest.raises(ValueError, match="second_batch halves a batch of 1; expected 2 images at least"):
        objective(small(FactorVAE, second_batch=True), few(1))
