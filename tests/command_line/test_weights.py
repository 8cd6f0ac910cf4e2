"""Weights as safetensors files: written, read, converted from and to checkpoints, and refused if they are broken."""

import json
import runpy
import struct
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import CLASSIFIER_QUICK, checkpoint_of_two_steps, importable
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import train
import zoo
from zoo import weights


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_of_two_steps(tmp_path_factory.mktemp("good"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def unseen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return importable(folder, monkeypatch)


SMALL = {"network": "SmallConvNet", "network_args": {"width": 4}}


@pytest.mark.parametrize("name", zoo.__all__)
def test_the_weights_of_every_module_are_written_and_read_to_the_last_bit(name, folder):
    module = getattr(zoo, name)(**{"JEM": SMALL}.get(name, {}))
    with torch.no_grad():
        for value in module.parameters():
            value.normal_()
    drawn = torch.get_rng_state()
    weights.save_weights(module, "x.safetensors")
    loaded = weights.load_weights("x.safetensors")
    assert torch.equal(torch.get_rng_state(), drawn)
    assert type(loaded) is type(module)
    assert json.dumps(loaded.hparams) == json.dumps(module.hparams)
    state = module.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    for key, value in loaded.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0, equal_nan=True)  # and of one dtype
    with safe_open("x.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["class"]) == f"zoo.{name}"
    assert json.loads(metadata["card"]) == sys.modules[".".join(type(module).__module__.split(".")[:2])].__doc__
    assert "https://" in metadata["card"]


class Tied(zoo.Classifier):
    """A user's subclass whose layers share a weight and lie in memory as channels last."""

    def build_network(self) -> nn.Module:
        first, second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        second.weight = first.weight
        parts = [nn.Conv2d(1, 4, 1), first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)]
        return nn.Sequential(*parts).to(memory_format=torch.channels_last)


def test_shared_and_channels_last_tensors_and_a_users_subclass_travel_too(folder):
    module = Tied()
    assert not module.network[1].weight.is_contiguous()
    weights.save_weights(module, folder / "x.safetensors")
    loaded = weights.load_weights(folder / "x.safetensors")
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(x), module(x))
    assert loaded.network[1].weight is loaded.network[2].weight
    assert "Implemented" in weights.card(Tied)  # the paper's, of its base


def test_one_command_exports_a_checkpoint_and_another_makes_one_that_is_tested_like_it(good, folder):
    before = train.main(["test", *CLASSIFIER_QUICK, "--ckpt_path", str(good)])
    weights.main(["export", str(good), "x.safetensors"])
    weights.main(["import", "x.safetensors", "x.ckpt"])
    after = train.main(["test", *CLASSIFIER_QUICK, "--ckpt_path", "x.ckpt"])
    assert before.trainer.callback_metrics["test/loss"] == after.trainer.callback_metrics["test/loss"]
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(weights.load_weights("x.safetensors").eval()(x), before.model.eval()(x))
    assert sorted(path.name for path in folder.iterdir()) == ["x.ckpt", "x.safetensors"]


def test_a_checkpoint_from_python_needs_the_name_of_its_class(good, folder):
    whole = torch.load(good, weights_only=True)
    del whole["hyper_parameters"]["_class_path"]
    torch.save(whole, "x.ckpt")
    with pytest.raises(SystemExit, match=r"error: x\.ckpt is of the class None: name one of the zoo, such as --model"):
        weights.main(["export", "x.ckpt", "x.safetensors"])
    weights.main(["export", "x.ckpt", "x.safetensors", "--model", "zoo.Classifier"])
    assert isinstance(weights.load_weights("x.safetensors"), zoo.Classifier)


def test_a_file_is_not_replaced_by_itself_or_by_half_of_another(good, folder, monkeypatch, capsys):
    path = folder / "x.ckpt"
    path.write_bytes(good.read_bytes())
    with pytest.raises(SystemExit):
        weights.main(["export", "x.ckpt", "../" + folder.name + "/x.ckpt"])
    assert "expected two files" in capsys.readouterr().err
    assert path.read_bytes() == good.read_bytes()
    weights.export("x.ckpt", "x.safetensors")
    whole = Path("x.safetensors").read_bytes()

    def dies(tensors: Any, place: str, metadata: Any) -> None:
        Path(place).write_bytes(whole[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "save_file", dies)
    with pytest.raises(KeyboardInterrupt):
        weights.export("x.ckpt", "x.safetensors")
    assert Path("x.safetensors").read_bytes() == whole
    assert sorted(path.name for path in folder.iterdir()) == ["x.ckpt", "x.safetensors"]


def test_what_is_no_tensor_and_arguments_that_are_no_plain_values_are_named(folder):
    module = zoo.Classifier()
    module.state_dict = lambda: {"fine": torch.zeros(1), "extra": 3}  # type: ignore[method-assign]  # as an extra state
    with pytest.raises(ValueError, match="extra: no tensors"):
        weights.save_weights(module, "x.safetensors")
    module = zoo.Classifier()
    module.hparams["lr"] = object()
    with pytest.raises(ValueError, match="arguments of Classifier are no plain values"):
        weights.save_weights(module, "x.safetensors")
    assert list(folder.iterdir()) == []


def written(metadata: dict[str, str] | None, **tensors: torch.Tensor) -> str:
    save_file(tensors or {"a": torch.zeros(1)}, "x.safetensors", metadata)
    return "x.safetensors"


OURS = {"zoo_format": "1", "class": '"zoo.Classifier"', "hyper_parameters": "{}", "card": '""'}


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        (None, "says of no class and its arguments"),
        ({"format": "pt"}, "says of no class and its arguments"),
        (OURS | {"zoo_format": "2"}, "newer version of the zoo"),
        (OURS | {"class": "zoo.Classifier"}, "metadata are no JSON"),
        (OURS | {"class": '"unseen.Evil"'}, r"is of 'unseen\.Evil', no module that has been imported"),
        (OURS | {"class": '"logging.FileHandler"'}, "no module that has been imported"),
        (OURS | {"class": "[1]"}, "no module that has been imported"),
        (OURS | {"hyper_parameters": "[1]"}, "expected a dictionary"),
        (OURS | {"hyper_parameters": '{"strange": 1}'}, "does not fit zoo.Classifier"),
        (OURS | {"hyper_parameters": '{"num_classes": -1}'}, "does not fit zoo.Classifier"),
        (OURS, "does not fit zoo.Classifier.*Missing key"),
    ],
)
def test_a_safetensors_file_of_something_else_is_refused_in_one_line(metadata, says, unseen):
    with pytest.raises(ValueError, match=says) as error:
        weights.load_weights(written(metadata))
    assert "\n" not in str(error.value)
    assert "unseen" not in sys.modules


def test_a_damaged_safetensors_file_is_refused_without_allocating_what_its_header_claims(folder):
    path = folder / "x.safetensors"
    weights.save_weights(zoo.Classifier(), path)
    whole = path.read_bytes()
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    lies = {
        "empty": b"",
        "truncated": whole[:-10],
        "a header of 2**62 bytes": struct.pack("<Q", 2**62) + whole[8:],
        "a header of 200 MB": struct.pack("<Q", 200 * 10**6) + whole[8:],
        "garbage": b"\x10" * 100,
        "a terabyte": struct.pack("<Q", len(header)) + header + b"\0" * 16,
        "a checkpoint": b"PK\x03\x04" * 99,
    }
    for what, data in lies.items():
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"x\.safetensors: damaged, or not a safetensors file"):
            weights.load_weights(path)
        assert path.read_bytes() == data, what
    with pytest.raises(FileNotFoundError, match="no such file"):
        weights.load_weights("nowhere.safetensors")


def test_the_command_runs_as_it_is_documented(good, folder, monkeypatch, capsys):
    module = sys.modules.pop("zoo.weights")  # or Python would warn that it runs what has been imported
    for place, status in ((str(good), None), ("nowhere", "error: nowhere: no such file; expected a checkpoint of")):
        monkeypatch.setattr(sys, "argv", ["weights.py", "export", place, "x.safetensors"])
        with nullcontext() if status is None else pytest.raises(SystemExit, match=status):
            runpy.run_module("zoo.weights", run_name="__main__", alter_sys=True)
    sys.modules["zoo.weights"] = module
    assert isinstance(weights.load_weights("x.safetensors"), zoo.Classifier)
    assert capsys.readouterr() == ("", "")
