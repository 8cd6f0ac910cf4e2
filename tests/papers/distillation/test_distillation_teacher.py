"""The teacher of a distillation: which are read, how a student sees it, and that it is never changed."""

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from distillation_toys import SMALL, batches, fit, student, teacher_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import train
from zoo import JEM, Classifier, KnowledgeDistillation, LocalErrorSignals
from zoo.distillation.loss import distillation_loss, hard_loss, soft_target_loss


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


class Watch(L.Callback):
    """Keeps the teacher, and whether it was ever in training mode or with gradients."""

    def __init__(self) -> None:
        self.teacher: Any = None
        self.before: dict[str, Tensor] = {}
        self.clean = True

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.teacher = pl_module.teacher.module
        self.before = copy.deepcopy(self.teacher.state_dict())

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        pl_module.train()
        parameters = list(self.teacher.parameters())
        self.clean &= not any(module.training for module in self.teacher.modules())
        self.clean &= not any(parameter.requires_grad or parameter.grad is not None for parameter in parameters)


def test_the_teacher_is_frozen_in_evaluation_mode_and_no_part_of_the_student(folder):
    batch_norm = {"network": "WideResNet", "network_args": {"depth": 10, "width": 1, "norm": "batch"}}
    teacher_file(module=Classifier(**SMALL | batch_norm), max_epochs=1)
    model, watch = student(), Watch()
    alone = dict(KnowledgeDistillation(**SMALL).state_dict())
    trainer = fit(model, callbacks=[watch])
    assert watch.clean
    assert any("running_mean" in key for key in watch.before)
    assert all(torch.equal(value, watch.before[key]) for key, value in watch.teacher.state_dict().items())
    trainer.save_checkpoint("student.ckpt")
    saved = torch.load("student.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == alone.keys()
    trained = {id(each) for group in trainer.optimizers[0].param_groups for each in group["params"]}
    assert trained == {id(each) for each in model.network.parameters()} == {id(each) for each in model.parameters()}
    assert model.teacher.module is None
    assert Path("student.ckpt").stat().st_size < 3 * sum(value.numel() * 4 for value in alone.values()) + 30_000


def test_a_teacher_changes_neither_the_students_start_nor_the_random_numbers_of_the_run():
    teacher_file()
    starts, states = [], []
    for alpha in (0.0, 0.9):
        torch.manual_seed(3)
        model = student(alpha=alpha)
        starts.append(copy.deepcopy(model.state_dict()))
        fit(model)
        states.append(torch.get_rng_state())
    assert all(torch.equal(value, starts[1][key]) for key, value in starts[0].items())
    assert torch.equal(*states)


def test_without_a_weight_for_it_no_teacher_is_read_and_the_step_is_cross_entropy():
    model = student(alpha=0.0, teacher="nowhere.ckpt")
    (x, y), *_ = batches()
    expected = hard_loss(model(x), y).item()
    seen: list[float] = []

    class First(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
            seen.append(outputs["loss"].item())

    fit(model, callbacks=[First()])
    assert seen[0] == pytest.approx(expected, rel=1e-5)


def test_a_step_is_the_loss_of_both_logits_and_logs_its_parts():
    teacher = Classifier.load_from_checkpoint(teacher_file(max_epochs=25), weights_only=True).eval()
    model = student(temperature=3.0, alpha=0.6)
    (x, y), *_ = batches()
    with torch.no_grad():
        mine, theirs = model(x), teacher(x)
    metrics = fit(model, max_steps=1).callback_metrics
    expected = distillation_loss(mine, theirs, y, 3.0, 0.6)
    assert (distillation_loss(mine, theirs, y, 1.0, 0.6) - expected).abs() > 0.01  # so that the temperature matters
    torch.testing.assert_close(metrics["train/loss"], expected)
    torch.testing.assert_close(metrics["train/soft"], soft_target_loss(mine, theirs, 3.0))
    torch.testing.assert_close(metrics["train/agreement"], (mine.argmax(1) == theirs.argmax(1)).float().mean())
    assert "train/acc" in metrics


def test_a_student_learns_from_its_teacher_what_wrong_labels_do_not_tell():
    teacher_file(max_epochs=25)
    right = batches(8)
    x, y = right.dataset.tensors
    wrong = DataLoader(TensorDataset(x, y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]), 12)
    model = student(alpha=1.0, temperature=2.0, lr=0.01)
    fit(model, wrong, max_epochs=12)
    teacher = Classifier.load_from_checkpoint("teacher.ckpt", weights_only=True).eval()
    with torch.no_grad():
        assert (teacher(x).argmax(1) == y).float().mean() > 0.9
        assert (model.eval()(x).argmax(1) == teacher(x).argmax(1)).float().mean() > 0.9


class Own(L.LightningModule):
    """A user's classifier, which knows nothing of the zoo; its logits are those of one pixel."""

    def __init__(self, classes: int = 3, pairs: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(64, classes)
        self.pairs = pairs

    def forward(self, x: Tensor) -> Any:
        logits = self.layer(x.flatten(1))
        return (logits, logits) if self.pairs else logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        found = self(batch[0])
        return nn.functional.cross_entropy(found[0] if self.pairs else found, batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (lambda: Own(), f"{__name__}.Own"),
        (lambda: JEM(**SMALL, network="SmallConvNet", sgld_steps=1, memory_size=24), "zoo.JEM"),
        (lambda: KnowledgeDistillation(**SMALL, alpha=0.0), "zoo.KnowledgeDistillation"),
        (
            lambda: LocalErrorSignals(
                3, (1, 8, 8), network="VGG", network_args={"layers": [4], "hidden": [8]}, max_dim=64
            ),
            "zoo.LocalErrorSignals",
        ),
    ],
)
def test_any_classifier_teaches(module, name):
    teacher_file(module=module(), max_epochs=1)
    metrics = fit(student(teacher_class=name), max_steps=1).callback_metrics
    assert metrics["train/soft"] > 0


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_the_teacher_follows_the_students_precision(precision):
    teacher_file(max_epochs=1)
    assert fit(student(), precision=precision, max_steps=1).callback_metrics["train/soft"] > 0


# ---------------------------------------------------------------- going on, and inference


def test_a_trained_student_works_where_its_teacher_is_not():
    teacher_file()
    model = student()
    fit(model).save_checkpoint("student.ckpt")
    Path("teacher.ckpt").unlink()
    loaded = KnowledgeDistillation.load_from_checkpoint("student.ckpt", weights_only=True).eval()
    (x, y), *_ = batches()
    assert torch.equal(loaded(x), model.eval()(x))
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(**quiet, accelerator="cpu")
    assert trainer.test(loaded, batches(), verbose=False)[0]["test/acc"] >= 0
    assert trainer.validate(loaded, batches(), verbose=False)[0]["val/loss"] > 0
    predicted = trainer.predict(loaded, batches())
    assert predicted is not None
    torch.testing.assert_close(torch.as_tensor(predicted[0]).sum(1), torch.ones(len(y)))


def test_a_resume_needs_the_teacher_and_says_where_it_looked_and_takes_a_new_place():
    teacher_file()
    fit(student()).save_checkpoint("student.ckpt")
    Path("moved").mkdir()
    Path("teacher.ckpt").rename("moved/teacher.ckpt")
    with pytest.raises(FileNotFoundError, match=r"teacher=teacher.ckpt: no such file.*--model.teacher FILE"):
        fit(student(), ckpt_path="student.ckpt", max_epochs=2)
    again = KnowledgeDistillation.load_from_checkpoint("student.ckpt", weights_only=True, teacher="moved/teacher.ckpt")
    trainer = fit(again, ckpt_path="student.ckpt", max_epochs=2)
    assert trainer.current_epoch == 2
    trainer.save_checkpoint("second.ckpt")
    assert torch.load("second.ckpt", weights_only=True)["hyper_parameters"]["teacher"] == "moved/teacher.ckpt"


# ---------------------------------------------------------------- bad teachers


def spoilt(damage: str) -> None:
    teacher_file(max_epochs=1)
    path = Path("teacher.ckpt")
    whole = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "garbage":
        path.write_bytes(b"no checkpoint" * 99)
    elif damage == "truncated":
        path.write_bytes(whole[:-2000])
    elif damage == "pickle of an object":
        torch.save({"state_dict": {}, "object": Path("x")}, path)
    else:
        torch.save(torch.load(path, weights_only=True)["state_dict"], path)


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "pickle of an object", "weights only"])
def test_a_damaged_teacher_is_named(damage):
    spoilt(damage)
    with pytest.raises(ValueError, match=r"teacher=teacher.ckpt: (damaged|lacks `state_dict`)"):
        fit(student())


@pytest.mark.parametrize(
    ("teacher", "arguments", "message"),
    [
        (None, {"teacher": None}, "there is no teacher: train one first.*fit --model Classifier.*alpha=0"),
        (None, {"teacher": "nowhere.ckpt"}, "teacher=nowhere.ckpt: no such file; train one first"),
        ({}, {"teacher_class": None}, "teacher=teacher.ckpt does not say of which class it is: set teacher_class"),
        ({}, {"teacher_class": "zoo.Clasifier"}, "teacher_class is 'zoo.Clasifier'; expected a class such as"),
        ({}, {"teacher_class": "nowhere.Mine"}, "teacher_class is 'nowhere.Mine'.*No module named"),
        ({}, {"teacher_class": "Classifier"}, "teacher_class is 'Classifier'; expected"),
        ({}, {"teacher_class": "pathlib.Path"}, "teacher_class is 'pathlib.Path', which is no LightningModule"),
        ({}, {"teacher_class": "zoo.LocalErrorSignals"}, "teacher=teacher.ckpt does not fit zoo.LocalErrorSignals"),
        ({"num_classes": 4}, {}, "teacher=teacher.ckpt was trained with num_classes=4, but the student has 3"),
        (
            {"image_shape": (1, 8, 8)},
            {"image_shape": (1, 10, 10)},
            r"was trained with image_shape=\(1, 8, 8\), but the student has \(1, 10, 10\)",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_the_first_step(teacher, arguments, message):
    if teacher is not None:
        given = SMALL | teacher
        fit(Classifier(**given), batches(classes=given["num_classes"]), max_steps=1).save_checkpoint("teacher.ckpt")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fit(student(**arguments))


@pytest.mark.parametrize(
    ("arguments", "mine", "message"),
    [
        ({"classes": 5}, {}, r"teacher=teacher.ckpt \(Own\) gives \(2, 5\) for a batch of 2; expected \(2, 3\)"),
        ({"pairs": True}, {}, "gives tuple for a batch of 2"),
        ({}, {"image_shape": (1, 9, 9)}, r"teacher.ckpt \(Own\) does not take inputs of shape \(1, 9, 9\)"),
    ],
)
def test_a_users_teacher_is_tried_before_the_first_step(arguments, mine, message):
    fit(Own(**arguments), batches(classes=3), max_steps=1).save_checkpoint("teacher.ckpt")
    with pytest.raises(ValueError, match=message):
        fit(student(teacher_class=f"{__name__}.Own", **mine))


@pytest.mark.parametrize(
    ("name", "first"), [("KnowledgeDistillation", "Classifier"), ("HistogramDistillation", "HistogramRegression")]
)
def test_without_its_teacher_a_recipe_ends_with_one_line_that_says_how_to_get_one(capsys, name, first):
    with pytest.raises(SystemExit) as end:
        train.main(["fit", "--model", name, "--trainer.logger=false", "--trainer.callbacks=null"])
    assert end.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error: ", "Traceback"))]
    assert "/version_0/checkpoints/last.ckpt: no such file" in line
    assert f"`python train.py fit --model {first}`" in line


def test_a_class_that_only_a_file_names_is_not_imported():
    teacher_file(max_epochs=1)
    checkpoint = torch.load("teacher.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["_class_path"] = "this.Bad"
    torch.save(checkpoint, "teacher.ckpt")
    with pytest.raises(ValueError, match=r"is a this\.Bad, which nothing has imported: set teacher_class to it"):
        fit(student(teacher_class=None))
