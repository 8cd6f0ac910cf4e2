"""Reverse validation chooses without target labels."""

import json

import pytest
import torch

from benchmarks.dann import reverse_validation
from datamodules import AdaptationDataModule, DigitsDataModule, DigitsMDataModule


@pytest.fixture
def recipe(tmp_path):
    def write(data, steps):
        model = {"class_path": "zoo.DANN", "init_args": {"momentum": 0.9, "lr_annealing": False}}
        config = {"model": model, "data": data, "trainer": {"accelerator": "cpu", "max_steps": steps}}
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(config), encoding="utf-8")
        return [f"--config={path}", "--seed_everything=0"]

    return write


def digits():
    domain = {"init_args": {"batch_size": 64}}
    pair = {name: {"class_path": f"datamodules.{kind}DataModule", **domain} for name, kind in NAMES.items()}
    return {"class_path": "datamodules.AdaptationDataModule", "init_args": {**pair, "channels": 3}}


NAMES = {"source": "Digits", "target": "DigitsM"}


@pytest.mark.long
def test_nonsense_target_labels_change_no_risk(recipe, monkeypatch):
    flags = ["--model.lr=0.1", "--model.max_coefficient=0.1", "--model.network_args.padding=2"]
    arguments = [*recipe(digits(), 60), *flags]
    risks = reverse_validation.reverse_risk(arguments)
    assert risks["reverse_risk"] < 0.6  # chance is 0.9: both trainings learned something, so labels do matter
    load_split = DigitsMDataModule.load_split

    def nonsense(self, train):
        images, labels = load_split(self, train)
        return images, torch.randint(10, labels.shape, generator=torch.Generator().manual_seed(5))

    monkeypatch.setattr(DigitsMDataModule, "load_split", nonsense)
    assert reverse_validation.reverse_risk(arguments) == risks


def test_backward_batches_exchange_the_domains_and_carry_the_given_labels():
    data = AdaptationDataModule(DigitsDataModule(batch_size=64), DigitsMDataModule(batch_size=32), channels=3)
    data.setup("fit")
    forwards = reverse_validation.domain_loaders(data)
    source, target = forwards["source"].dataset.images, forwards["target"].dataset.images
    labels = torch.arange(len(target))  # every image is known by its label
    backwards = reverse_validation.ReversedDataModule(data, labels)
    loaders = backwards.train_dataloader()
    batch = {name: next(iter(loader)) for name, loader in loaders.items()}
    found = backwards.on_after_batch_transfer(batch, 0)
    x, y = found["source"]
    assert x.shape == (32, 3, 8, 8)
    assert torch.equal(x, data.source.transform(target[y]))
    assert found["target"].shape == (64, 3, 8, 8)
    known = {image.numpy().tobytes() for image in data.source.transform(source)}
    assert all(image.numpy().tobytes() in known for image in found["target"])


@pytest.mark.long
def test_a_setting_that_cannot_learn_comes_last_and_all_is_written_down(recipe, tmp_path, capsys):
    moons = {"class_path": "datamodules.MoonsDataModule", "init_args": {"batch_size": 50}}
    output = tmp_path / "results" / "risks.json"
    sweep = ["--sweep", "model.lr=1.0e-9,0.5", f"--output={output}", "--model.network=Shallow"]
    judged = reverse_validation.main([*recipe(moons, 200), *sweep])
    assert [record["setting"] for record in judged] == [{"model.lr": 0.5}, {"model.lr": 1e-9}]
    assert judged[0]["reverse_risk"] < 0.2 < judged[1]["reverse_risk"]
    assert json.loads(output.read_text(encoding="utf-8")) == judged
    assert "reverse risk" in capsys.readouterr().out


def test_sweeps_are_combined_and_their_values_are_yaml():
    assert reverse_validation.combinations(["a.b=1,2", "c=[3, 4],null"]) == [
        {"a.b": 1, "c": [3, 4]},
        {"a.b": 1, "c": None},
        {"a.b": 2, "c": [3, 4]},
        {"a.b": 2, "c": None},
    ]
    for wrong in ("model.lr", "model.lr=", "=1"):
        with pytest.raises(ValueError, match="expected key=value"):
            reverse_validation.combinations([wrong])


def test_data_of_another_kind_are_refused():
    data = DigitsDataModule()
    data.setup("fit")
    with pytest.raises(SystemExit, match=r"two training loaders source and target, got DigitsDataModule"):
        reverse_validation.domain_loaders(data)
