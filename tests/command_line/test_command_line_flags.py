"""Flags under fuzz, values out of range, data and modules that do not fit: each runs or is refused in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bounded_command_line import QUIET, Built, few, outcome, refused
from hypothesis import given
from hypothesis import strategies as st

import zoo

ROOT = Path(__file__).resolve().parents[2]
CLASSIFIER = ["fit", "--model=Classifier", *QUIET]
FAST = ["--trainer.num_sanity_val_steps=0", "--trainer.limit_val_batches=0", "--trainer.accelerator=cpu"]
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([""], []),
        (["x y"], ["x y"]),
        (["--☃", "3"], ["--☃"]),
        (["--model"], ["--model"]),
        (["--model="], ["--model", "no such class", "Classifier"]),
        (["--model=3"], ["--model", "no such class: 3"]),
        (["--model=[]"], ["--model", "got []"]),
        (["--model={class_path: JEM, init_args: 3}"], ["--model"]),
        (["--model={class_path: JEM, lr: 3}"], ["--model", "with its arguments below init_args"]),
        (["--model={class_path: [1]}"], ["--model", "[1]"]),
        (["--model=os.system"], ["--model", "os.system"]),
        (["--model=zoo..JEM"], ["--model", "zoo..JEM"]),
        (["--model.help=Nope"], ["--model.help", "Nope", "Classifier"]),
        (["--data.help=Nope"], ["--data.help", "Nope", "DigitsDataModule"]),
        (["--model.lr"], ["--model"]),
        (["--model.lr="], ["--model.lr", "float"]),
        (["--model.lr=0.1\n0.2"], ["--model.lr", "float", "0.1"]),
        (["--model.lr=" + "x" * 10**5], ["--model.lr", "float", "xxx"]),
        (["--model.num_classes=" + "9" * 5000], ["--model.num_classes", "int"]),
        (["--model.network_args=" + DEEP], ["--model.network_args", "dict"]),
        (["--model.network_args={a: &a [*a]}"], ["--model.network_args", "dict"]),
        (["--model.network_args={width: 4, width: 5}"], ["--model.network_args", "dict"]),
        (["--data=zoo.JEM"], ["--data", "zoo.JEM"]),
        (["--config="], []),
        (["--config=."], ["--config"]),
        (["--config=" + DEEP], []),
        (["--trainer=3"], ["--trainer", "3"]),
        (["--trainer={max_epochs: x}"], ["--trainer.max_epochs", "int", "x"]),
        (["--trainer.callbacks="], ["--trainer.callbacks", "no such class"]),
        (["--trainer.callbacks=3"], ["--trainer.callbacks", "no such class: 3"]),
        (["--trainer.callbacks=[Report, 3]"], ["--trainer.callbacks", "got 3"]),
        (["--trainer.callbacks=[{init_args: {}}]"], ["--trainer.callbacks", "init_args"]),
        (["--trainer.callbacks+=zoo.JEM"], ["--trainer.callbacks", "zoo.JEM"]),
        (["--trainer.logger=Logger"], ["--trainer.logger", "Logger"]),
        (
            ["--trainer.logger=CSVLogger", "--trainer.logger.save_dr=x"],
            ["--trainer.logger.save_dr", "did you mean save_dir"],
        ),
        (
            ["--trainer.logger=CSVLogger", "--trainer.logger.root_dir=x"],
            ["--trainer.logger.root_dir", "prefix, save_dir"],
        ),
        (["--weights_only=x"], ["--weights_only", "bool", "x"]),
        (["--ckpt_path"], ["--ckpt_path"]),
    ],
    ids=lambda value: " ".join(value)[:40] if value and value[0].startswith("-") else None,
)
def test_a_flag_that_cannot_be_meant_is_one_line_that_names_it(args, words):
    refused([*CLASSIFIER, *args], *words)


@pytest.mark.parametrize("args", [["--config={subcommand: nope}"], ["--config={a: 1}", "fit"], ["--fit"], ["fit\n"]])
def test_what_stands_before_a_subcommand_is_one_line(args):
    assert outcome(args)[0] in (1, 2)


FLAGS = ["--model", "--model.lr", "--model.network_args", "--data", "--data.ood", "--config", "--trainer.callbacks"]
FLAGS += ["--trainer.logger", "--trainer.max_epochs", "--ckpt_path", "--model.nope", "--trainer", "--nope", "-c", ""]
TEXTS = st.sampled_from(
    ["", "3", "null", "x", "[", "{a: 1}", "[1]", "{class_path: x}", "a: b", "*a", "-1", "zoo.JEM", "."]
)


@given(
    pairs=st.lists(st.tuples(st.sampled_from(FLAGS), TEXTS | st.text(max_size=5)), min_size=1, max_size=2),
    how=st.data(),
)
@few(12)
def test_any_flags_with_any_values_run_or_are_one_line(pairs, how):
    args = []
    for flag, value in pairs:
        args += how.draw(st.sampled_from([[f"{flag}={value}"], [flag, value], [flag], [value, flag]]))
    outcome([*CLASSIFIER, *args], Built)


# ---------------------------------------------------------------- what only a run finds


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model.lr=.nan"], ["lr is nan"]),
        (["--model.lr=-1"], ["lr is -1"]),
        (["--model.momentum=.inf"], ["momentum is inf"]),
        (["--model.label_smoothing=2"], ["label_smoothing is 2"]),
        (["--model.network_args.width=x"], ["width='x'"]),
        (["--model.network_args={width: 0}"], ["width=0"]),
        (["--model.network_args={width: 1099511627776}"], ["Classifier cannot be built"]),
        (["--data.num_workers=100000"], ["num_workers", "100000"]),  # that many processes would end the machine
        (["--data.batch_size=null"], ["DigitsDataModule cannot be built"]),
        (["--trainer.devices=x"], ["Trainer cannot be built"]),
        (["--trainer.accelerator=tpu"], ["Trainer cannot be built"]),
        (["--trainer.max_epochs=-5"], ["Trainer cannot be built", "-5"]),
        (
            ["--trainer.callbacks=[{class_path: ModelCheckpoint, init_args: {mode: 'a\n b'}}]"],
            ["ModelCheckpoint", "a b"],
        ),
        (["--seed_everything=-1"], ["-1"]),
        (["--weights_only=false"], ["--weights_only false"]),
    ],
    ids=lambda value: value[0][:40] if value and value[0].startswith("-") else None,
)
def test_a_value_out_of_range_is_one_line_that_names_it(args, words):
    refused([*CLASSIFIER, *FAST, *args], *words, status=1)


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_a_checkpoint_that_is_none_is_one_line(subcommand, tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"x" * 100)
    for path, word in (
        ("nope.ckpt", "no such file"),
        (str(tmp_path), "of a folder make one"),
        (f"{tmp_path}/x.ckpt", "damaged"),
    ):
        refused([subcommand, *CLASSIFIER[1:], f"--ckpt_path={path}"], path, word, status=1)
    refused(
        [subcommand, *CLASSIFIER[1:], "--ckpt_path=http://x/y.ckpt"], "http://x/y.ckpt", "on this machine", status=1
    )


DIGITS = "{class_path: DigitsDataModule}"
DATA = {name: [f"--data={name}"] for name in ("Digits", "Moons", "Sine", "Sprites", "MNIST")}
DATA["UCIRegression"] = ["--data=UCIRegression", "--data.name=diabetes"]
DATA["SemiSupervised"] = [f"--data={{class_path: SemiSupervisedDataModule, init_args: {{data: {DIGITS}}}}}"]
DATA["Adaptation"] = [f"--data={{class_path: AdaptationDataModule, init_args: {{source: {DIGITS}, target: {DIGITS}}}}}"]


def unfitting(name: str, data: str) -> str:
    """What comes of a module with data that may be another's: the error, if there is any."""
    flags = [*QUIET, *FAST, "--trainer.callbacks=null", "--trainer.logger=false"]
    return outcome(["fit", f"--model={name}", *DATA[data], *flags])[1]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("Classifier", "Moons"),
        ("HistogramRegression", "Moons"),
        ("DANN", "Digits"),
        ("LocalErrorSignals", "Adaptation"),
    ],
)
def test_data_of_another_kind_than_the_modules_are_one_line(name, data):
    assert unfitting(name, data)


@pytest.mark.long
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", zoo.__all__)
def test_any_module_with_any_data_trains_or_is_one_line(name, data):
    unfitting(name, data)


@pytest.mark.long
@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["fit", "--config=mutated.yaml"], 2, ["mutated.yaml", "'model' is there twice"]),
        (["test", "--ckpt_path=nope.ckpt"], 1, ["nope.ckpt", "no such file"]),
    ],
    ids=["twice", "checkpoint"],
)
def test_a_real_process_says_it_in_one_line_and_leaves_nothing(args, status, words, tmp_path):
    (tmp_path / "mutated.yaml").write_text("model: zoo.JEM\nmodel: zoo.Classifier")
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *args],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert [line[:7] for line in done.stderr.splitlines() if line.startswith(("error: ", "Traceback"))] == ["error: "]
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mutated.yaml"]
