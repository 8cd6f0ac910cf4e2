"""Office-31: the published folders, the transductive protocol, bad input."""

import pytest
import torch
from data_sets import Recorder, trainer
from PIL import Image

from datamodules import AdaptationDataModule, Office31DataModule

NAMES = [f"class_{number:02}" for number in range(31)]


@pytest.fixture
def office(tmp_path):
    """Class n has one picture more for every tenth number, all of the colour (8 n, domain, 0)."""
    for place, domain in enumerate(("amazon", "webcam")):
        for number, name in enumerate(NAMES):
            folder = tmp_path / domain / "images" / name
            folder.mkdir(parents=True)
            for index in range(1 + number // 10):
                Image.new("RGB", (20, 16), (8 * number, 100 * place, 0)).save(folder / f"frame_{index:04}.png")
    return tmp_path


def test_a_domain_is_read_from_its_published_folders_and_both_splits_are_the_same_pictures(office):
    data = Office31DataModule("webcam", str(office), image_size=16, val_split=0, batch_size=62, augment=False)
    assert (data.name, data.num_classes, data.image_shape) == ("webcam", 31, (3, 16, 16))
    data.prepare_data()
    train, val = data.fit_sets()
    test = data.test_dataloader()[0].dataset
    assert (len(train), len(val)) == (10 + 20 + 30 + 4, 0)
    assert torch.equal(train.images, test.images)
    assert torch.equal(train.labels, test.labels)
    assert (train.images[:, 0, 0, 0] == 8 * train.labels).all()
    assert train.images[:, 1].unique().tolist() == [100]


def test_pictures_are_decoded_once(office, monkeypatch):
    from datamodules.images import office31

    calls, decode_all = [], office31.decode_all
    monkeypatch.setattr(office31, "decode_all", lambda *args: calls.append(args) or decode_all(*args))
    data = Office31DataModule("amazon", str(office), image_size=8)
    data.setup("fit")
    data.setup("test")
    assert len(calls) == 1


def test_training_pictures_are_cropped_and_mirrored(office):
    data, module = Office31DataModule("amazon", str(office), image_size=16, val_split=0, batch_size=64), Recorder()
    assert (data.padding, data.padding_mode, data.flip, data.augment) == (2, "reflect", True, True)
    trainer().fit(module, data)
    assert module.seen["train"][0][0].shape == (64, 3, 16, 16)


def test_a_pair_of_domains_is_transductive(office):
    shared = {"data_dir": str(office), "image_size": 16, "batch_size": 16}
    data = AdaptationDataModule(
        Office31DataModule("amazon", **shared), Office31DataModule("webcam", **shared, val_split=0)
    )
    assert data.val_sets == data.test_sets == ("amazon", "target/webcam")
    target = data.train_dataloader()["target"].dataset.images
    assert torch.equal(target, data.test_dataloader()[1].dataset.images)
    assert torch.equal(target, data.val_dataloader()[1].dataset.images)
    assert len(data.train_dataloader()["source"].dataset) == 58  # of 64, a tenth for validation


def test_a_domain_is_known_before_any_folder_is_there(tmp_path):
    data = Office31DataModule("dslr", str(tmp_path), ood=["far/uniform"])
    assert (data.num_classes, data.image_shape, data.test_sets) == (31, (3, 224, 224), ("dslr", "far/uniform"))
    assert data.hparams["domain"] == "dslr"
    for act in (data.prepare_data, lambda: data.setup("fit")):
        with pytest.raises(FileNotFoundError, match=r"no folder '.*dslr.images'; .* expected as .*<class>"):
            act()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": "caltech"}, "domain must be amazon, webcam, dslr, got 'caltech'"),
        ({"domain": "dslr", "image_size": 0}, "image_size must be at least 1, got 0"),
        ({"domain": "dslr", "batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_by_name_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        Office31DataModule(**arguments)


def test_another_number_of_classes_an_empty_class_and_too_little_memory_are_refused(office, monkeypatch):
    (office / "amazon" / "images" / "class_31").mkdir()
    with pytest.raises(ValueError, match=r"has 31 classes, '.*amazon.images' has 32 folders: .* ImageFolderDataModule"):
        Office31DataModule("amazon", str(office)).prepare_data()
    (office / "amazon" / "images" / "class_31").rmdir()
    monkeypatch.setattr(Office31DataModule, "memory_limit", 1000)
    with pytest.raises(ValueError, match=r"the 64 pictures of .* GiB at image_size=16.*memory_limit"):
        Office31DataModule("amazon", str(office), image_size=16).setup("fit")
    (office / "amazon" / "images" / "class_00" / "frame_0000.png").unlink()
    with pytest.raises(FileNotFoundError, match="class_00"):
        Office31DataModule("amazon", str(office)).setup("fit")
