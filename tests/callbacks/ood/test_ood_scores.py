import numpy as np
import pytest
import torch
from torch import nn

from callbacks.ood import feature_scores as ood_features
from callbacks.ood import scores as ood_scores
from callbacks.ood.feature_scores import Head

Z = torch.tensor([[2.0, 1.0, 0.0]])
H = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
IDENTITY = Head(torch.eye(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))


def random_logits(samples=50, classes=7):
    return 4 * torch.randn(samples, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def random_head(width=12, classes=5, bias=True):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    return Head(weight, torch.randn(classes, generator=generator, dtype=torch.float64) * bias)


def random_features(samples=200, width=12, seed=2):
    return torch.randn(samples, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).relu()


def energy_of(features):
    return -features.double().logsumexp(1)


def test_logit_scores_of_the_sheet():
    assert ood_scores.energy(Z).item() == pytest.approx(-2.4076059)
    assert -torch.sigmoid(-ood_scores.msp(Z)).item() == pytest.approx(-0.6652410)
    assert ood_scores.entropy(Z).item() == pytest.approx(0.8323956)
    assert ood_scores.max_logit(Z).item() == -2.0
    assert ood_scores.gen(torch.tensor([[0.7, 0.2, 0.1]]).log()).item() == pytest.approx(2.474060, abs=1e-6)


def test_logit_scores_equal_their_definitions():
    z = random_logits()
    p = z.softmax(1)
    torch.testing.assert_close(-torch.sigmoid(-ood_scores.msp(z)), -p.amax(1))
    torch.testing.assert_close(ood_scores.entropy(z), -(p * p.log()).sum(1))
    powers = (p * (1 - p)) ** 0.1
    torch.testing.assert_close(ood_scores.gen(z), powers.sum(1))
    torch.testing.assert_close(ood_scores.gen(z, top=3), (powers * (p >= p.sort(1).values[:, -3:-2])).sum(1))


@pytest.mark.parametrize("score", list(ood_scores.LOGIT_SCORES))
def test_scores_of_saturated_float32_logits_do_not_tie(score):
    gaps = torch.arange(20, 120, dtype=torch.float32)
    logits = torch.stack([gaps, torch.zeros(100), torch.zeros(100) - 3], dim=1)
    assert (logits.softmax(1).amax(1) == 1).all()
    found = ood_scores.LOGIT_SCORES[score](logits)
    assert found.dtype == torch.float64
    assert (found.diff() < 0).all()  # surer means less OOD


@pytest.mark.parametrize("score", list(ood_scores.LOGIT_SCORES))
def test_two_classes_are_enough(score):
    assert ood_scores.LOGIT_SCORES[score](torch.zeros(3, 2)).shape == (3,)


def test_odin_equals_the_formula_with_autograd():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    logits = net(x) / 1000
    loss = nn.functional.cross_entropy(logits, logits.argmax(1), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    expected = (net(x - 0.1 * gradient.sign()) / 1000).softmax(1).amax(1)
    torch.testing.assert_close(torch.sigmoid(-ood_scores.odin(net, x.detach(), 0.1)), expected)


def test_odin_works_in_inference_mode_and_leaves_no_gradient():
    torch.manual_seed(0)
    net = nn.Linear(6, 3)
    x = torch.randn(4, 6)
    expected = ood_scores.odin(net, x)
    with torch.inference_mode():
        torch.testing.assert_close(ood_scores.odin(net, x.clone()), expected)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_knn_of_the_sheet():
    bank = torch.tensor([(1.0, 0.0), (0.0, 1.0), (0.6, 0.8)], dtype=torch.float64)
    query = torch.tensor([(3.0, 4.0)])
    found = [ood_features.fit_knn(bank, k)(query).item() for k in (1, 2, 3, 50)]
    assert found == pytest.approx([0.0, 0.632456, 0.894427, 0.894427], abs=1e-6)
    assert found[0] < 1e-15


def test_knn_of_features_that_are_all_zero_is_their_distance_too():
    bank = torch.tensor([(1.0, 0.0), (0.0, 0.0), (-1.0, 0.0)])
    queries = torch.tensor([(0.0, 0.0), (2.0, 0.0)])
    found = [ood_features.fit_knn(bank, k)(queries).tolist() for k in (1, 2, 3)]
    assert found == [[0.0, 0.0], [1.0, 1.0], [1.0, 2.0]]


def gaussian_classes():
    first = torch.tensor([(0.0, 0.0), (2.0, 0.0), (0.0, 2.0)])
    return torch.cat([first, first + 10]), torch.tensor([0, 0, 0, 1, 1, 1])


def test_mahalanobis_of_the_sheet():
    score = ood_features.fit_mahalanobis(*gaussian_classes())
    found = score(torch.tensor([(1.0, 1.0), (5.0, 5.0)]))
    assert found.tolist() == pytest.approx([0.5, 84.5], rel=1e-5)


def test_mahalanobis_distances_to_every_class_of_the_sheet():
    features, labels = gaussian_classes()
    distances = ood_features._class_distances(features.double(), labels, ridge=0.0)
    found = distances(torch.tensor([(1.0, 1.0), (5.0, 5.0)], dtype=torch.float64))
    assert found.tolist() == [pytest.approx([0.5, 420.5]), pytest.approx([84.5, 144.5])]


def test_mahalanobis_equals_numpy():
    features, labels = random_features(), torch.arange(200) % 5
    h, y = features.numpy(), labels.numpy()
    means = np.stack([h[y == k].mean(0) for k in range(5)])
    within, background = h - means[y], h - h.mean(0)
    inverse = np.linalg.inv(within.T @ within / 200 + 1e-6 * np.eye(12))
    inverse_0 = np.linalg.inv(background.T @ background / 200 + 1e-6 * np.eye(12))
    query = random_features(30, seed=9).numpy()
    difference = query[:, None] - means
    distances = np.einsum("bcd,de,bce->bc", difference, inverse, difference)
    distance_0 = np.einsum("bd,de,be->b", query - h.mean(0), inverse_0, query - h.mean(0))
    score = ood_features.fit_mahalanobis(features, labels)(torch.tensor(query))
    relative = ood_features.fit_relative_mahalanobis(features, labels)(torch.tensor(query))
    np.testing.assert_allclose(score, distances.min(1), rtol=1e-9)
    np.testing.assert_allclose(relative, (distances - distance_0[:, None]).min(1), rtol=1e-9, atol=1e-9)


def test_mahalanobis_knows_only_classes_that_occur():
    features, labels = gaussian_classes()
    assert ood_features.fit_mahalanobis(features, labels * 7)(features[:2]).isfinite().all()


def test_ash_scale_and_react_of_the_sheet():
    kept, ratio = ood_features._keep_largest(H.double(), 0.65)
    assert kept.tolist() == [[4.0, 0.0, 0.0, 0.0]]
    assert (kept * ratio.exp()[:, None])[0, 0].item() == pytest.approx(48.729977)
    ash = ood_features.ash_s(H, IDENTITY)
    torch.testing.assert_close(ash, energy_of(torch.tensor([[48.729977, 0, 0, 0]])), atol=1e-5, rtol=0)
    scaled = ood_features.scale(H, IDENTITY, prune=0.65)
    torch.testing.assert_close(scaled, energy_of(H.double() * np.exp(2.5)))
    react = ood_features.fit_react(torch.tensor([[1.0, 2.0, 2.5, 9.0]]), IDENTITY, percentile=75)
    torch.testing.assert_close(react(H), energy_of(torch.tensor([[2.5, 2.5, 2.0, 1.0]])))


def test_react_clips_at_the_percentile_of_all_activations():
    features = torch.arange(1000.0).reshape(100, 10)
    head = Head(torch.eye(10, dtype=torch.float64), torch.zeros(10, dtype=torch.float64))
    clipped = ood_features.fit_react(features, head)(torch.full((1, 10), 5000.0))
    torch.testing.assert_close(clipped, energy_of(torch.full((1, 10), 899.0)))


def test_a_sample_without_activation_is_shaped_to_itself():
    zeros = torch.zeros(2, 4)
    for shape in (ood_features.ash_s, ood_features.scale):
        torch.testing.assert_close(shape(zeros, IDENTITY), energy_of(zeros))


def test_gradnorm_equals_autograd():
    head, features = random_head(), random_features(6)
    for h, found in zip(features, ood_features.gradnorm(features, head), strict=True):
        weight = head.weight.clone().requires_grad_()
        loss = -(weight @ h + head.bias).log_softmax(0).sum()
        (gradient,) = torch.autograd.grad(loss, weight)
        assert found.item() == pytest.approx(-gradient.abs().sum().item(), rel=1e-12)


def test_vim_equals_numpy():
    head, features = random_head(), random_features()
    h, w, b = features.numpy(), head.weight.numpy(), head.bias.numpy()
    origin = -np.linalg.pinv(w) @ b
    _, vectors = np.linalg.eigh((h - origin).T @ (h - origin))
    residual = vectors[:, :6]
    alpha = (h @ w.T + b).max(1).mean() / np.linalg.norm((h - origin) @ residual, axis=1).mean()
    query = random_features(20, seed=5).numpy()
    logits = query @ w.T + b
    expected = alpha * np.linalg.norm((query - origin) @ residual, axis=1) - np.log(np.exp(logits).sum(1))
    np.testing.assert_allclose(ood_features.fit_vim(features, head)(torch.tensor(query)), expected, rtol=1e-9)


def test_vim_refuses_features_without_a_residual():
    features = random_features()
    features[:, 3:] = 0  # rank 3, principal space of 6
    with pytest.raises(ValueError, match="no residual for ViM"):
        ood_features.fit_vim(features, random_head(bias=False))


def test_head_is_found_by_what_it_computes():
    torch.manual_seed(0)
    net = nn.ModuleDict({"decoy": nn.Linear(12, 5), "head": nn.Linear(12, 5, bias=False), "other": nn.Linear(5, 12)})
    features = random_features(20).float()
    head = ood_features.find_head(net, features, net["head"](features), 1e-3)
    assert head is not None
    torch.testing.assert_close(head.weight.float(), net["head"].weight.detach())
    assert ood_features.find_head(net, features, net["head"](features) + 1, 1e-3) is None
