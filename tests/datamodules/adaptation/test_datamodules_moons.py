"""The moons: the points by hand, the order of training, several processes, resuming, bad input."""

import json
from itertools import chain

import numpy as np
import pytest
import torch
from data_sets import IN_A_FORK, Recorder, trainer

import train
from callbacks import Randomness
from datamodules import MoonsDataModule


class Both(Recorder):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen["val"].append((dataloader_idx, batch))


def run(data, epochs=1, **arguments):
    module = Both()
    runner = trainer(num_sanity_val_steps=0, **arguments)
    runner.fit_loop.max_epochs = epochs
    runner.fit(module, data)
    return module.seen["train"]


# --- the points ---


def moons(points, noise, seed):
    """Two half circles, shuffled, with noise: without scikit-learn's function. Labels of the text: upper moon 1."""
    random = np.random.RandomState(seed)
    upper, lower = np.linspace(0, np.pi, points // 2), np.linspace(0, np.pi, points - points // 2)
    x = np.concatenate([np.cos(upper), 1 - np.cos(lower)])
    y = np.concatenate([np.sin(upper), 0.5 - np.sin(lower)])
    order = np.arange(points)
    random.shuffle(order)
    placed = np.stack([x, y], 1)[order]
    return placed + random.normal(scale=noise, size=placed.shape), (order < points // 2).astype(int)


def turned(points, degrees):
    """Multiplication by a unit complex number: counter-clockwise."""
    found = (points[:, 0] + 1j * points[:, 1]) * np.exp(1j * np.deg2rad(degrees))
    return np.stack([found.real, found.imag], 1)


@pytest.mark.parametrize(("points", "noise", "rotation"), [(300, 0.05, 35.0), (150, 0.05, 35.0), (31, 0.2, -70.0)])
def test_every_set_is_the_one_that_is_computed_by_hand(points, noise, rotation):
    data = MoonsDataModule(points, noise, rotation)
    drawn = {seed: moons(points, noise, seed) for seed in (1, 2, 3, 4)}
    centre = drawn[1][0].mean(0)  # that of the source, for all
    expected = {seed: (x - centre) * 2 for seed, (x, _) in drawn.items()}
    found = {1: data.source_points(), 2: data.target_points()}
    found |= {seed: next(iter(loader)) for seed, loader in zip((3, 4), data.val_dataloader(), strict=True)}
    for seed, (x, y) in found.items():
        hand = turned(expected[seed], rotation) if seed in (2, 4) else expected[seed]
        np.testing.assert_allclose(x.numpy(), hand, atol=2e-6)
        assert y.tolist() == drawn[seed][1].tolist()
        assert (x.dtype, y.dtype, x.shape) == (torch.float32, torch.int64, (points, 2))
    assert data.source_points()[0].mean(0).abs().max() < 1e-6


def test_the_lower_moon_is_0_and_the_upper_1():
    x, y = MoonsDataModule().source_points()
    assert torch.bincount(y).tolist() == [150, 150]
    assert x[y == 0, 1].mean() < -0.7
    assert x[y == 1, 1].mean() > 0.7


def test_the_tips_of_the_moons_lie_where_the_geometry_says():
    """Of the upper moon they are at (-1, 0) and (1, 0), of the lower at (0, .5) and (2, .5), before the shift."""
    data = MoonsDataModule(noise=0.0)
    source, target = (x.numpy() for x, _ in (data.source_points(), data.target_points()))
    tips = 2 * (np.array([[-1, 0], [0, 0.5], [1, 0], [2, 0.5]]) - (0.5, source_mean_of_y()))
    for points, expected in ((source, tips), (target, turned(tips, 35))):
        for tip in expected:
            assert np.linalg.norm(points - tip, axis=1).min() < 1e-5


def source_mean_of_y():
    t = np.linspace(0, np.pi, 150)
    return np.concatenate([np.sin(t), 0.5 - np.sin(t)]).mean()


def test_points_near_the_four_marks_of_the_published_figure_exist_in_the_source_or_the_target():
    marks = torch.tensor([[-2.4, -1.6], [-1.2, 0.4], [0.8, -0.5], [2.5, 1.5]])
    both = torch.cat([MoonsDataModule().source_points()[0], MoonsDataModule().target_points()[0]])
    assert torch.cdist(marks, both).min(1).values.max() < 0.25


def test_without_rotation_and_noise_both_domains_are_the_same_points():
    data = MoonsDataModule(noise=0.0, rotation=0.0)
    source, target = (sorted(x.tolist()) for x, _ in (data.source_points(), data.target_points()))
    assert source == target


# --- batches ---


def test_what_it_offers_is_known_before_any_point_is_drawn(monkeypatch):
    monkeypatch.setattr("datamodules.adaptation.moons.make_moons", None)
    data = MoonsDataModule()
    assert (data.num_classes, data.image_shape) == (2, (2,))
    assert (data.source_name, data.target_name) == ("moons", "rotated_moons")
    assert data.val_sets == data.test_sets == ("moons", "target/rotated_moons")
    assert json.loads(json.dumps(dict(data.hparams))) == {
        "points": 300, "noise": 0.05, "rotation": 35.0, "batch_size": 1, "shuffle": False, "eval_batch_size": 1024
    }  # fmt: skip


def test_source_points_come_one_by_one_in_a_fixed_order_each_with_a_random_target_point():
    torch.manual_seed(0)
    data = MoonsDataModule(points=40)
    steps = run(data, epochs=25, limit_val_batches=0)
    assert len(steps) == 25 * 40
    x, y = data.source_points()
    source = [torch.cat([step["source"][index] for step in steps]) for index in (0, 1)]
    assert torch.equal(source[0], x.repeat(25, 1))
    assert torch.equal(source[1], y.repeat(25))
    assert {step["target"].shape for step in steps} == {(1, 2)}
    target = data.target_points()[0]
    drawn = torch.cat([(step["target"] == target).all(1).nonzero().view(-1) for step in steps]).view(25, 40)
    assert all(len(epoch.unique()) < 40 for epoch in drawn)  # with replacement
    assert len({tuple(epoch.tolist()) for epoch in drawn}) == 25
    counts = torch.bincount(drawn.view(-1), minlength=40)
    assert (counts - 25).abs().max() < 5 * 25**0.5


def test_batches_of_both_domains_are_of_one_size_and_the_last_may_be_smaller():
    steps = run(MoonsDataModule(points=50, batch_size=16))
    assert [len(step["source"][0]) for step in steps] == [16, 16, 16, 2]
    assert [len(step["target"]) for step in steps] == [16, 16, 16, 2]


def test_the_source_is_shuffled_on_request():
    data = MoonsDataModule(points=50, batch_size=50, shuffle=True)
    epochs = [step["source"] for step in run(data, epochs=2)]
    assert not torch.equal(epochs[0][0], epochs[1][0])
    expected = sorted(zip(*(part.tolist() for part in data.source_points()), strict=True))
    for x, y in epochs:
        assert sorted(zip(x.tolist(), y.tolist(), strict=True)) == expected


def test_the_loader_of_the_target_holds_no_labels():
    dataset = MoonsDataModule().train_dataloader()["target"].dataset
    assert len(dataset.columns) == 1
    assert vars(dataset).keys() == {"columns", "images"}


def test_tests_are_on_the_points_trained_on_and_validation_on_others():
    data, module = MoonsDataModule(eval_batch_size=200), Both()
    trainer().validate(module, data, verbose=False)
    trainer().test(module, data, verbose=False)
    trained = data.source_points(), data.target_points()
    for index, (x, y) in enumerate(trained):
        test, val = ([batch for number, batch in module.seen[stage] if number == index] for stage in ("test", "val"))
        assert len(test) == len(val) == 2
        assert torch.equal(torch.cat([part for part, _ in test]), x)
        assert torch.equal(torch.cat([part for _, part in test]), y)
        fresh = torch.cat([part for part, _ in val])
        assert torch.cdist(fresh, x).min() > 0
        assert (fresh.mean(0) - x.mean(0)).abs().max() < 0.1
    assert torch.equal(torch.cat([x for x, _ in data.predict_dataloader()]), trained[1][0])


# --- several processes, resuming ---


class Orders(Both):
    """Each rank writes the points it got, a list for each step."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_end(self):
        seen = {
            "source": [step["source"][0].tolist() for step in self.seen["train"]],
            "target": [step["target"].tolist() for step in self.seen["train"]],
        }
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(seen))
        self.trainer.save_checkpoint(self.folder / f"{self.trainer.max_epochs}.ckpt")


def orders(folder, devices, epochs=2, checkpoint=None, shuffle=False, **arguments):
    several = {"devices": devices, "strategy": "ddp_fork"} if devices > 1 else {}
    runner = trainer(num_sanity_val_steps=0, limit_val_batches=0, **several, **arguments)
    runner.fit_loop.max_epochs = epochs
    data = MoonsDataModule(points=40, batch_size=4, shuffle=shuffle)
    runner.fit(Orders(folder), data, ckpt_path=checkpoint, weights_only=True)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(devices)]


@IN_A_FORK
@pytest.mark.parametrize("shuffle", [False, True])
def test_two_processes_share_out_the_points_of_both_domains(shuffle, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    ranks = orders(tmp_path, 2, shuffle=shuffle)
    data = MoonsDataModule(points=40)
    points = {"source": data.source_points()[0].tolist(), "target": data.target_points()[0].tolist()}
    pairs = []
    for epoch in (slice(0, 5), slice(5, 10)):
        for domain, expected in points.items():
            parts = [list(chain(*rank[domain][epoch])) for rank in ranks]
            assert sorted(chain(*parts)) == sorted(expected)
        indices = [[points[domain].index(x) for x in chain(*ranks[0][domain][epoch])] for domain in points]
        assert (indices[0] == list(range(0, 40, 2))) != shuffle
        assert indices[0] != indices[1]  # independent orders
        pairs.append(indices)
    assert pairs[0][1] != pairs[1][1]


@IN_A_FORK
@pytest.mark.parametrize("devices", [1, 2])
def test_a_resumed_run_goes_on_with_the_points_it_would_have_had(devices, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")

    def fit(epochs, checkpoint=None):
        torch.rand(3 if checkpoint else 1)  # whatever else a process draws
        return orders(tmp_path, devices, epochs, checkpoint, callbacks=[Randomness()])

    torch.manual_seed(0)
    whole, steps = fit(3), 10 // devices
    torch.manual_seed(0)
    assert fit(2) == [{domain: rank[domain][: 2 * steps] for domain in rank} for rank in whole]
    assert fit(3, tmp_path / "2.ckpt") == [{domain: rank[domain][2 * steps :] for domain in rank} for rank in whole]


# --- bad input, the command line ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": 1}, "points must be at least 2, got 1"),
        ({"eval_batch_size": 0}, "eval_batch_size must be at least 1, got 0"),
        ({"batch_size": 0}, r"batch_size must lie in 1\.\.300, the number of points, got 0"),
        ({"batch_size": 41, "points": 40}, r"batch_size must lie in 1\.\.40, the number of points, got 41"),
        ({"noise": -0.1}, r"noise must be finite and not negative, got -0\.1"),
        ({"noise": float("nan")}, "noise must be .*, got nan"),
        ({"rotation": float("inf")}, "rotation must be finite, got inf"),
    ],
)
def test_bad_arguments_are_refused_by_name_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        MoonsDataModule(**arguments)


def test_the_command_line_gives_the_module_the_shape_of_the_points():
    model = {"class_path": "zoo.DANN", "init_args": {"network": "Shallow"}}
    config = {"class_path": "datamodules.MoonsDataModule", "init_args": {"points": 20}}
    found = train.main([f"--config={json.dumps({'model': model, 'data': config})}"], run=False)
    assert found.datamodule.points == 20
    assert (found.model.hparams["num_classes"], tuple(found.model.hparams["image_shape"])) == (2, (2,))
