"""Hostile and broken checkpoints: nothing in them runs, each is refused in one line; weights as safetensors."""

import copy
import json
import os
import runpy
import struct
import sys
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import datamodules
import train
import zoo
from zoo import weights
from zoo.dann.pretrained import load_features
from zoo.shared import checkpoints
from zoo.shared.teacher import load_teacher

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.callbacks=null"]
QUICK = [*QUIET, "--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"]
QUICK += ["--trainer.check_val_every_n_epoch=1", "--trainer.num_sanity_val_steps=0", "--trainer.logger=false"]
CLASSIFIER = ["--model", "Classifier", "--data.ood=null"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the command line."""
    folder = tmp_path_factory.mktemp("good")
    train.main(["fit", *CLASSIFIER, *QUICK, f"--trainer.default_root_dir={folder}"])
    (path,) = folder.glob("checkpoints/*.ckpt")
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def changed(good: Path, path: Path, *keys: str, value: Any) -> Path:
    """A copy of a checkpoint with one entry of its dictionaries changed."""
    whole = inside = copy.deepcopy(content(good))
    for key in keys[:-1]:
        inside = inside[key]
    inside[keys[-1]] = value
    torch.save(whole, path)
    return path


def refused(capsys: pytest.CaptureFixture[str], *args: str, status: int = 1) -> str:
    """The one line of an error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        train.main(list(args))
    lines = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith(("error: ", "Traceback", "  File"))
    ]
    assert len(lines) == 1, lines
    assert end.value.code == status
    return lines[0]


# ---------------------------------------------------------------- nothing in a checkpoint runs


class Planted:
    """What pickle calls when it is read: it leaves a file behind."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.witness),)


def planted(good: Path, path: Path, witness: Path) -> Path:
    torch.save(content(good) | {"planted": Planted(witness)}, path)
    return path


def test_the_planted_call_would_run_if_a_checkpoint_were_unpickled(good, folder):
    torch.load(planted(good, folder / "x.ckpt", folder / "witness"), weights_only=False)
    assert (folder / "witness").exists()


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_a_planted_call_is_refused_by_every_subcommand_and_does_not_run(subcommand, good, folder, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = planted(good, folder / "x.ckpt", folder / "witness")
    line = refused(capsys, subcommand, *CLASSIFIER, *QUICK, "--ckpt_path", str(path))
    assert str(path) in line
    assert "tensors and plain values only" in line
    assert not (folder / "witness").exists()


@pytest.mark.parametrize("name", ["last", "hpc"])
def test_a_planted_call_in_a_file_that_lightning_finds_does_not_run(name, good, folder, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # Lightning names no `weights_only` of its own
    path = folder / {"last": "checkpoints/last.ckpt", "hpc": "hpc_ckpt_1.ckpt"}[name]
    path.parent.mkdir(exist_ok=True)
    planted(good, path, folder / "witness")
    root = f"--trainer.default_root_dir={folder}"
    line = refused(capsys, "fit", *CLASSIFIER, *QUICK, root, "--ckpt_path", name)
    assert "plain values" in line
    assert not (folder / "witness").exists()


def test_a_planted_call_in_a_teacher_or_in_pretrained_features_does_not_run(good, folder, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = planted(good, folder / "x.ckpt", folder / "witness")
    with pytest.raises(ValueError, match=r"teacher=.*x\.ckpt: damaged, or .* plain values only"):
        load_teacher(str(path), None, "Classifier")
    with pytest.raises(ValueError, match=r"pretrained=.*x\.ckpt.* plain values only"):
        load_features(nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match=r"x\.ckpt: damaged, or .* plain values only"):
        weights.export(str(path), "x.safetensors")
    assert not (folder / "witness").exists()


def test_weights_only_cannot_be_switched_off_and_addresses_are_refused(good, capsys):
    line = refused(capsys, "test", *CLASSIFIER, "--ckpt_path", str(good), "--weights_only", "false")
    assert "--weights_only false" in line
    for address in ("https://example.com/x.ckpt", "s3://bucket/x.ckpt", "memory://x.ckpt"):
        line = refused(capsys, "test", *CLASSIFIER, "--ckpt_path", address)
        assert f"--ckpt_path {address}: expected a file of this machine" in line


FILE_HANDLER = {"class_path": "logging.FileHandler", "init_args": {"filename": "witness"}}
UNSEEN = {"class_path": "unseen.Evil", "init_args": {}}
HOSTILE_ARGUMENTS = {
    "a class": {"width": FILE_HANDLER},
    "a class in a list": {"width": [FILE_HANDLER]},
    "a text in JSON": {"width": json.dumps(FILE_HANDLER)},
    "a text in YAML": {"width": "{? class_path\n: logging.FileHandler, init_args: {filename: witness}}"},
    "an escaped text": {"width": json.dumps(FILE_HANDLER).replace("class_path", "class\\u005fpath")},
    "tabs": {"width": json.dumps(FILE_HANDLER, indent="\t")},
    "a module that nobody imported": {"width": UNSEEN},
}


@pytest.fixture
def unseen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that could be imported, and says so."""
    (folder / "unseen.py").write_text(
        "import os, datamodules, zoo\nos.mkdir('witness')\n"
        "class Evil(datamodules.DigitsDataModule): pass\nclass EvilModel(zoo.Classifier): pass\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.parametrize("kind", HOSTILE_ARGUMENTS)
def test_arguments_in_a_checkpoint_build_and_import_nothing(kind, good, unseen, capsys):
    """jsonargparse builds any class that a dictionary or a text names where an argument takes anything."""
    path = changed(good, unseen / "x.ckpt", "hyper_parameters", "network_args", value=HOSTILE_ARGUMENTS[kind])
    for subcommand in ("test", "fit"):
        assert str(path) in refused(capsys, subcommand, *CLASSIFIER, *QUICK, "--ckpt_path", str(path))
    with pytest.raises(ValueError, match=r"teacher=.*x\.ckpt"):
        load_teacher(str(path), None, "Classifier")
    assert not (unseen / "witness").exists()
    assert "unseen" not in sys.modules


def inside(data: Any) -> dict[str, Any]:
    return {"class_path": "datamodules.SemiSupervisedDataModule", "init_args": {"data": data}}


HOSTILE_DATA = {
    "a class": (UNSEEN, "'unseen.Evil', which nothing here has imported"),
    "inside": (inside(UNSEEN), "'unseen.Evil', which nothing here has imported"),
    "a text": (inside("unseen.Evil"), "saves a class with its arguments here"),
    "a file": (inside("evil.yaml"), "saves a class with its arguments here"),
    "only a text": ("unseen.Evil", "no class with plain arguments"),
    "no data": (FILE_HANDLER, "is no module, data module"),
    "no class": ({"init_args": {}}, "None, which nothing here has imported"),
    "no arguments": (inside(None) | {"init_args": [1]}, "expected a dictionary"),
    "a tensor": (inside(torch.zeros(1)), "no class with plain arguments"),
    "free arguments": (inside(None) | {"dict_kwargs": {"x": UNSEEN}}, "'unseen.Evil', which nothing here has imported"),
}


@pytest.mark.parametrize("kind", HOSTILE_DATA)
def test_data_in_a_checkpoint_import_nothing(kind, good, unseen, capsys):
    (unseen / "evil.yaml").write_text("class_path: unseen.Evil")
    data, says = HOSTILE_DATA[kind]
    path = changed(good, unseen / "x.ckpt", "command_line_config", "data", value=data)
    line = refused(capsys, "test", "--model", "Classifier", *QUICK, "--ckpt_path", str(path))
    assert str(path) in line
    assert says in line
    assert not (unseen / "witness").exists()
    assert "unseen" not in sys.modules


def test_the_class_of_a_teacher_in_a_checkpoint_is_imported_only_if_the_command_line_names_it(unseen):
    arguments = {"teacher": "teacher.ckpt", "teacher_class": "unseen.EvilModel"}
    trainer = Trainer(max_steps=0, logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.strategy.connect(zoo.KnowledgeDistillation(**arguments))
    trainer.save_checkpoint("student.ckpt")
    ask = ("student.ckpt", "zoo.KnowledgeDistillation", {})
    with pytest.raises(ValueError, match=r"student\.ckpt names teacher_class='unseen\.EvilModel', which nothing has"):
        train.cli.trained_arguments(*ask, {})
    assert train.cli.trained_arguments(*ask, arguments)["teacher_class"] == "unseen.EvilModel"
    assert "unseen" not in sys.modules


def test_data_of_a_users_own_file_are_taken_where_the_model_of_the_command_line_is_from_it_too(folder, monkeypatch):
    (folder / "mine.py").write_text(
        "import datamodules, zoo\nclass Mine(zoo.Classifier): pass\nclass Data(datamodules.DigitsDataModule): pass\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    path = folder / "x.ckpt"
    config = {"data": {"class_path": "mine.Data", "init_args": {"data_dir": "http: no", "ood": ["far/uniform"]}}}
    torch.save({"state_dict": {}, checkpoints.VERSION_KEY: "2.6.0", "command_line_config": config}, path)
    with pytest.raises(ValueError, match="data_dir of Data is 'http: no'; expected no dictionary"):
        train.cli.trained_data(str(path), "mine.Mine")
    config["data"]["init_args"]["data_dir"] = "C:\\data"
    torch.save({"state_dict": {}, checkpoints.VERSION_KEY: "2.6.0", "command_line_config": config}, path)
    assert train.cli.trained_data(str(path), "mine.Mine") == config["data"]
    del sys.modules["mine"]


class Annotated(LightningDataModule):
    """A user's data module."""

    def __init__(self, path: Path, inner: "datamodules.DigitsDataModule | None", late: "Unknown" = 1) -> None: ...  # noqa: F821  a name that cannot be resolved


class Own(LightningDataModule):
    def __init__(self, path: Path, number: int, transform: nn.Module, either: str | nn.Module, free=None) -> None: ...


def test_texts_are_taken_where_a_text_or_a_number_is_expected_and_not_where_a_class_is():
    layer = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1}}
    checkpoints.check_arguments("x", Own, {"path": "a", "number": "1", "transform": layer, "either": "a", "free": "a"})
    checkpoints.check_arguments("x", Annotated, {"path": "a", "inner": "a", "late": 2})
    with pytest.raises(ValueError, match="transform of Own is 'evil'"):
        checkpoints.check_arguments("x", Own, {"transform": "evil"})


# ---------------------------------------------------------------- broken checkpoints


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (["zoo_format"], 2, "was written by a newer version of the zoo"),
        (["zoo_format"], "1", "its `zoo_format` is '1'; expected a whole number"),
        (["zoo_format"], True, "its `zoo_format` is True; expected a whole number"),
        (["pytorch-lightning_version"], 3, "its `pytorch-lightning_version` is a int"),
        (["pytorch-lightning_version"], "new", "its `pytorch-lightning_version` is 'new'"),
        (["hyper_parameters"], [1], "its `hyper_parameters` is a list"),
        (["hyper_parameters"], {3: 1}, "3 in its `hyper_parameters` is no name"),
        (["state_dict"], [1], "its `state_dict` is a list"),
        (["state_dict"], {}, "does not fit the module"),
        (["state_dict", "network.strange"], torch.zeros(1), "does not fit the module"),
        (["loops"], 1, "its `loops` is a int"),
        (["optimizer_states"], {}, "its `optimizer_states` is a dict"),
        (["command_line_config"], [1], "its `command_line_config` is a list"),
    ],
)
def test_a_checkpoint_of_another_structure_is_refused_in_one_line(keys, value, says, good, folder, capsys):
    path = changed(good, folder / "x.ckpt", *keys, value=value)
    assert says in refused(capsys, "test", *CLASSIFIER, *QUICK, "--ckpt_path", str(path))


def test_a_state_of_another_shape_and_of_another_optimiser_are_refused_in_one_line(good, folder, capsys):
    state = content(good)["state_dict"]
    name = next(iter(state))
    path = changed(good, folder / "x.ckpt", "hyper_parameters", "strange", value=1)
    line = refused(capsys, "test", *CLASSIFIER, *QUICK, "--ckpt_path", str(path), status=2)
    assert "zoo.Classifier takes no such argument" in line
    path = changed(good, folder / "x.ckpt", "state_dict", name, value=state[name][:1])
    line = refused(capsys, "test", *CLASSIFIER, *QUICK, "--ckpt_path", str(path))
    assert "size mismatch for " + name in line
    changed(good, path, "optimizer_states", value=[{"state": {}, "param_groups": []}])
    line = refused(capsys, "fit", *CLASSIFIER, *QUICK, "--trainer.max_steps=3", "--ckpt_path", str(path))
    assert "the optimiser's state in the checkpoint does not fit the module" in line


def test_a_checkpoint_without_lightnings_version_or_with_the_state_alone_is_refused(good, folder):
    whole = content(good)
    del whole["pytorch-lightning_version"]
    torch.save(whole, folder / "x.ckpt")
    with pytest.raises(ValueError, match="holds no `pytorch-lightning_version`; expected a checkpoint"):
        checkpoints.read_checkpoint("x", folder / "x.ckpt")
    with pytest.raises(ValueError, match=r"teacher=x\.ckpt: holds no `pytorch-lightning_version`"):
        load_teacher("x.ckpt", None, "Classifier")
    torch.save(whole["state_dict"], folder / "x.ckpt")
    with pytest.raises(ValueError, match="holds no `state_dict`; expected a checkpoint"):
        checkpoints.read_checkpoint("x", folder / "x.ckpt")


def test_every_checkpoint_of_the_command_line_says_its_format(good):
    assert content(good)["zoo_format"] == checkpoints.FORMAT


def test_a_folder_is_refused_with_the_way_out(folder, capsys):
    line = refused(capsys, "test", *CLASSIFIER, "--ckpt_path", str(folder))
    assert "is a folder, expected a file" in line
    assert "consolidate_checkpoint" in line


def damaged(whole: bytes, random: torch.Generator) -> bytes:
    """Bytes changed at random: in the directory of the archive, in the pickle, anywhere; or cut off."""
    place = int(torch.randint(len(whole), (), generator=random))
    kind = int(torch.randint(4, (), generator=random))
    if kind == 0:
        return whole[:place]
    if kind == 1:
        place = len(whole) - 1 - place % 400  # the directory with the sizes
    elif kind == 2:
        place = place % 2000  # the first record, the pickle
    length = 1 + int(torch.randint(8, (), generator=random))
    noise = bytes(torch.randint(256, (length,), generator=random).tolist())
    return whole[:place] + noise + whole[place + length :]


def test_damage_anywhere_is_a_checkpoint_or_one_clear_error(good, folder):
    whole, random, refusals = good.read_bytes(), torch.Generator().manual_seed(0), 0
    path = folder / "x.ckpt"
    for _ in range(120):
        path.write_bytes(damaged(whole, random))
        try:
            checkpoints.read_checkpoint("x.ckpt", path)
        except ValueError as error:
            assert str(error).startswith("x.ckpt: ")  # noqa: PT017  whether it is refused depends on the bytes
            refusals += 1
    assert refusals > 80


def record(path: Path, name: str, change: Any) -> None:
    """Rewrite a record of a checkpoint."""
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for part, data in parts.items():
            archive.writestr(part, change(data) if part.endswith(name) else data)


def test_sizes_that_lie_allocate_nothing(good, folder):
    """A tensor of a terabyte in a file of kilobytes."""
    path, count = folder / "x.ckpt", 2**20 + 12_345
    torch.save({"state_dict": {"a": torch.zeros(count)}, checkpoints.VERSION_KEY: "2.6.0"}, path)
    short = struct.pack("<i", count)
    record(path, "data.pkl", lambda data: data.replace(b"J" + short, b"\x8a\x06" + struct.pack("<q", 2**40)[:6]))
    assert b"\x8a\x06" in zipfile.ZipFile(path).read(f"{path.stem}/data.pkl")
    with pytest.raises(ValueError, match=r"x: damaged"):
        checkpoints.read_checkpoint("x", path)
    path.write_bytes(good.read_bytes()[:4] + b"\xff" * 26 + good.read_bytes()[30:])
    with pytest.raises(ValueError, match=r"x: damaged"):
        checkpoints.read_checkpoint("x", path)


def test_a_flipped_byte_in_the_weights_is_noticed(good, folder, capsys):
    path = folder / "x.ckpt"
    whole = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as archive:
        info = max(archive.infolist(), key=lambda info: info.file_size)
    whole[info.header_offset + len(info.filename) + 1000] ^= 255
    path.write_bytes(whole)
    assert "damaged" in refused(capsys, "test", *CLASSIFIER, *QUICK, "--ckpt_path", str(path))


# ---------------------------------------------------------------- weights as safetensors


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
    before = train.main(["test", *CLASSIFIER, *QUICK, "--ckpt_path", str(good)])
    weights.main(["export", str(good), "x.safetensors"])
    weights.main(["import", "x.safetensors", "x.ckpt"])
    after = train.main(["test", *CLASSIFIER, *QUICK, "--ckpt_path", "x.ckpt"])
    assert before.trainer.callback_metrics["test/loss"] == after.trainer.callback_metrics["test/loss"]
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(weights.load_weights("x.safetensors").eval()(x), before.model.eval()(x))
    assert sorted(path.name for path in folder.iterdir()) == ["x.ckpt", "x.safetensors"]


def test_a_checkpoint_from_python_needs_the_name_of_its_class(good, folder):
    whole = content(good)
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
