"""Hostile and broken checkpoints: nothing in them runs, and each is refused in one line."""

import json
import os
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import CLASSIFIER, CLASSIFIER_QUICK, changed, checkpoint_of_two_steps, content, importable, line_of
from lightning.pytorch import LightningDataModule, Trainer
from torch import nn

import datamodules
import zoo
from zoo import weights
from zoo.command_line import trained
from zoo.dann.pretrained import load_features
from zoo.shared import checkpoints
from zoo.shared.teacher import load_teacher


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_of_two_steps(tmp_path_factory.mktemp("good"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
    line = line_of(capsys, subcommand, *CLASSIFIER_QUICK, "--ckpt_path", str(path))
    assert str(path) in line
    assert "with tensors and plain values only" in line
    assert not (folder / "witness").exists()


@pytest.mark.parametrize("name", ["last", "hpc"])
def test_a_planted_call_in_a_file_that_lightning_finds_does_not_run(name, good, folder, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # Lightning names no `weights_only` of its own
    path = folder / {"last": "checkpoints/last.ckpt", "hpc": "hpc_ckpt_1.ckpt"}[name]
    path.parent.mkdir(exist_ok=True)
    planted(good, path, folder / "witness")
    root = f"--trainer.default_root_dir={folder}"
    line = line_of(capsys, "fit", *CLASSIFIER_QUICK, root, "--ckpt_path", name)
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
    line = line_of(capsys, "test", *CLASSIFIER, "--ckpt_path", str(good), "--weights_only", "false")
    assert "--weights_only false" in line
    for address in ("https://example.com/x.ckpt", "s3://bucket/x.ckpt", "memory://x.ckpt"):
        line = line_of(capsys, "test", *CLASSIFIER, "--ckpt_path", address)
        assert f"--ckpt_path {address}: no such file on this machine" in line


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
    return importable(folder, monkeypatch)


@pytest.mark.parametrize("kind", HOSTILE_ARGUMENTS)
def test_arguments_in_a_checkpoint_build_and_import_nothing(kind, good, unseen, capsys):
    """jsonargparse builds any class that a dictionary or a text names where an argument takes anything."""
    path = changed(good, unseen / "x.ckpt", "hyper_parameters", "network_args", value=HOSTILE_ARGUMENTS[kind])
    for subcommand in ("test", "fit"):
        assert str(path) in line_of(capsys, subcommand, *CLASSIFIER_QUICK, "--ckpt_path", str(path))
    with pytest.raises(ValueError, match=r"teacher=.*x\.ckpt"):
        load_teacher(str(path), None, "Classifier")
    assert not (unseen / "witness").exists()
    assert "unseen" not in sys.modules


@pytest.mark.parametrize("before", [True, False])
def test_a_checkpoint_that_a_configuration_names_imports_nothing(before, good, unseen, capsys):
    path = changed(good, unseen / "x.ckpt", "hyper_parameters", "_class_path", value="unseen.EvilModel")
    options = {"model": "zoo.Classifier", "data": "datamodules.DigitsDataModule", "ckpt_path": str(path)}
    (unseen / "mine.yaml").write_text(json.dumps({"test": options} if before else options))
    flag = f"--config={unseen / 'mine.yaml'}"
    line = line_of(capsys, *([flag, "test"] if before else ["test", flag]))
    assert "is a checkpoint of unseen.EvilModel, but --model asks for zoo.Classifier" in line
    assert "unseen" not in sys.modules


def inside(data: Any) -> dict[str, Any]:
    return {"class_path": "datamodules.SemiSupervisedDataModule", "init_args": {"data": data}}


HOSTILE_DATA = {
    "a class": (UNSEEN, "'unseen.Evil', which nothing here has imported"),
    "inside": (inside(UNSEEN), "'unseen.Evil', which nothing here has imported"),
    "a text": (inside("unseen.Evil"), "expected no class and no dictionary in a string"),
    "a file": (inside("evil.yaml"), "expected no class and no dictionary in a string"),
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
    line = line_of(capsys, "test", "--model", "Classifier", "--ckpt_path", str(path))
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
        trained.trained_arguments(*ask, {})
    assert trained.trained_arguments(*ask, arguments)["teacher_class"] == "unseen.EvilModel"
    assert "unseen" not in sys.modules


def test_data_of_a_users_own_file_are_taken_where_the_model_of_the_command_line_is_from_it_too(folder, monkeypatch):
    (folder / "mine.py").write_text(
        "import datamodules, zoo\nclass Mine(zoo.Classifier): pass\nclass Data(datamodules.DigitsDataModule): pass\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    path = folder / "x.ckpt"
    config = {"data": {"class_path": "mine.Data", "init_args": {"data_dir": "http: no", "ood": ["far/uniform"]}}}
    torch.save({"state_dict": {}, checkpoints.VERSION_KEY: "2.6.0", "command_line_config": config}, path)
    with pytest.raises(ValueError, match="data_dir of Data is 'http: no'; expected no class and no dictionary"):
        trained.trained_data(str(path), "mine.Mine")
    config["data"]["init_args"]["data_dir"] = "C:\\data"
    torch.save({"state_dict": {}, checkpoints.VERSION_KEY: "2.6.0", "command_line_config": config}, path)
    assert trained.trained_data(str(path), "mine.Mine") == config["data"]
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
        (
            ["zoo_format"],
            2,
            "its `zoo_format` is 2, as of a newer version of the zoo; expected",
        ),
        (["zoo_format"], "1", "its `zoo_format` is '1'"),
        (["zoo_format"], True, "its `zoo_format` is True"),
        (["pytorch-lightning_version"], 3, "3"),
        (["pytorch-lightning_version"], "new", "'new'"),
        (["hyper_parameters"], [1], "its `hyper_parameters` is no dictionary of names"),
        (["hyper_parameters"], {3: 1}, "its `hyper_parameters` is no dictionary of names"),
        (["state_dict"], [1], "its `state_dict` is no dictionary of names"),
        (["state_dict"], {}, "RuntimeError: "),
        (["state_dict", "network.strange"], torch.zeros(1), "network.strange"),
        (["loops"], 1, "Error: "),
        (["command_line_config"], [1], "its `command_line_config` is no dictionary of names"),
    ],
)
def test_a_checkpoint_of_another_structure_is_refused_in_one_line(keys, value, says, good, folder, capsys):
    path = changed(good, folder / "x.ckpt", *keys, value=value)
    assert says in line_of(capsys, "test", *CLASSIFIER_QUICK, "--ckpt_path", str(path))


def test_a_state_of_another_shape_and_of_another_optimiser_are_refused_in_one_line(good, folder, capsys):
    state = content(good)["state_dict"]
    name = next(iter(state))
    path = changed(good, folder / "x.ckpt", "hyper_parameters", "strange", value=1)
    line = line_of(capsys, "test", *CLASSIFIER_QUICK, "--ckpt_path", str(path), status=2)
    assert "zoo.Classifier takes no such argument" in line
    path = changed(good, folder / "x.ckpt", "state_dict", name, value=state[name][:1])
    line = line_of(capsys, "test", *CLASSIFIER_QUICK, "--ckpt_path", str(path))
    assert "size mismatch for " + name in line
    changed(good, path, "optimizer_states", value=[{"state": {}, "param_groups": []}])
    line = line_of(capsys, "fit", *CLASSIFIER_QUICK, "--trainer.max_steps=3", "--ckpt_path", str(path))
    assert line.startswith("error: ValueError: ")


def test_a_checkpoint_without_lightnings_version_or_with_the_state_alone_is_refused(good, folder):
    whole = content(good)
    del whole["pytorch-lightning_version"]
    torch.save(whole, folder / "x.ckpt")
    with pytest.raises(ValueError, match="lacks `state_dict` or `pytorch-lightning_version`; expected a checkpoint"):
        checkpoints.read_checkpoint("x", folder / "x.ckpt")
    with pytest.raises(ValueError, match=r"teacher=x\.ckpt: lacks `state_dict` or `pytorch-lightning_version`"):
        load_teacher("x.ckpt", None, "Classifier")
    torch.save(whole["state_dict"], folder / "x.ckpt")
    with pytest.raises(ValueError, match="lacks `state_dict` or `pytorch-lightning_version`; expected a checkpoint"):
        checkpoints.read_checkpoint("x", folder / "x.ckpt")


def test_every_checkpoint_of_the_command_line_says_its_format(good):
    assert content(good)["zoo_format"] == checkpoints.FORMAT


def test_a_folder_is_refused_with_the_way_out(folder, capsys):
    line = line_of(capsys, "test", *CLASSIFIER, "--ckpt_path", str(folder))
    assert "no such file on this machine" in line
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
    assert "damaged" in line_of(capsys, "test", *CLASSIFIER_QUICK, "--ckpt_path", str(path))
