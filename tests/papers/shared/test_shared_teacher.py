"""A teacher: read from a file, frozen, no part of its student, and refused if it was made for other data."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from zoo.shared.teacher import Teacher


class Learned(LightningModule):
    """Two features to three outputs, with dropout."""

    def __init__(self, num_features: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(num_features, 3), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Student(LightningModule):
    def __init__(self, num_features: int = 2, teacher: str | None = "teacher.ckpt") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.hparams["teacher_class"] = f"{__name__}.Learned"
        self.teacher = Teacher()


@pytest.fixture(autouse=True)
def learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Learned:
    monkeypatch.chdir(tmp_path)
    module = Learned()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint("teacher.ckpt")
    return module


def read(student: Student, inputs: tuple[int, ...] = (2,), outputs: tuple[int, ...] = (3,)) -> None:
    student.teacher.read(student, "Classifier", inputs, outputs, "num_features")


def test_a_teacher_is_frozen_in_its_students_precision_and_no_part_of_it(learned):
    student = Student().double()
    state = torch.get_rng_state()
    read(student)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(student.parameters()) == []
    assert student.state_dict() == {}
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    found = student.teacher(x)
    assert not found.requires_grad
    assert torch.equal(found, learned.double().eval()(x))
    student.teacher.drop()
    assert student.teacher.module is None


@pytest.mark.parametrize(
    ("arguments", "shapes", "message"),
    [
        ({"teacher": None}, {}, "there is no teacher: train one first"),
        ({"teacher": "nowhere.ckpt"}, {}, "teacher=nowhere.ckpt: no such file"),
        ({"num_features": 5}, {}, "was trained with num_features=2, but the student has 5"),
        ({}, {"inputs": (7,)}, r"teacher=teacher.ckpt \(Learned\) does not take inputs of shape \(7,\)"),
        ({}, {"outputs": (4,)}, r"gives \(2, 3\) for a batch of 2; expected \(2, 4\)"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(arguments, shapes, message):
    student: Any = Student(**arguments)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(student, **shapes)
    assert student.teacher.module is None
