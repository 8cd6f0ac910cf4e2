"""Real processes of real launchers: torchrun on one node and on two, Lightning's own, and what is left when one fails.

Each process imports torch and Lightning, which takes ten seconds of a core: one launcher in the short suite, beside
processes that are forked, and all that could be combined behind the marker ``long``.
"""

import contextlib
import os
import subprocess
import time
from pathlib import Path

import pytest
import torch
from child_runs import ROOT, Child, command, commands, free_port
from command_lines import refused

pytestmark = pytest.mark.slow
QUICK = [
    "--model.network_args={width: 4}", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=2",
    "--trainer.max_epochs=1", "--trainer.limit_train_batches=3", "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
]  # fmt: skip
LAUNCHERS = ["lightning", "torchrun", "two nodes"]

FAILING = '''
import time

from lightning.pytorch import Callback


class Fail(Callback):
    """Raises on one rank, in a moment with this name, and says when."""

    def __init__(self, rank: int, moment: str):
        self.rank, self.moment = rank, moment

    def setup(self, trainer, pl_module, stage):
        self.fail(trainer, "setup")

    def on_fit_start(self, trainer, pl_module):
        self.fail(trainer, "start")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 1:
            self.fail(trainer, "fit")

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.fail(trainer, "sanity" if trainer.sanity_checking else "validation")

    def on_train_epoch_end(self, trainer, pl_module):
        self.fail(trainer, "epoch")

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self.fail(trainer, "save")

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.fail(trainer, "test")

    def fail(self, trainer, moment):
        if moment == self.moment and trainer.global_rank == self.rank:
            open("failed", "w").write(str(time.time()))
            raise RuntimeError(f"rank {self.rank} had enough")
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "failing.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)  # for forked processes
    return tmp_path


def launch(folder: Path, launcher: str, *args: str, limit: float = 200) -> tuple[list[int], str, float]:
    """Exit status of each command, what the terminal shows, and when the last of all processes had ended."""
    if launcher == "forked":
        return launch_forked(folder, *args)
    own = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    environment = os.environ | own | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    with (folder / "terminal").open("w") as terminal:
        started = [
            subprocess.Popen(
                each, cwd=folder, env=environment, stdout=terminal, stderr=terminal, start_new_session=True
            )
            for each in commands(launcher, *args)
        ]
        end = time.time() + limit
        while any(alive(process) for process in started) and time.time() < end:
            time.sleep(0.2)
    ended = time.time()
    left = [process.pid for process in started if alive(process)]
    for group in left:
        os.killpg(group, 9)
    shown = (folder / "terminal").read_text()
    assert left == [], f"still alive after {limit} s:\n{shown}"
    return [process.wait() for process in started], shown, ended


def launch_forked(folder: Path, *args: str) -> tuple[list[int], str, float]:
    """The processes that torchrun would start, without torchrun and without their imports."""
    ranks = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
    ranks |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    run = [*args, "--trainer.devices=2", "--trainer.strategy=ddp"]
    with contextlib.chdir(folder):
        children = [Child(command, *run, **ranks, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]
        ended = [child.end() for child in children]
    return [status for status, _ in ended], ended[-1][1], time.time()


def alive(process: subprocess.Popen[bytes]) -> bool:
    """Whether it, or a process that it started, still lives; Lightning's children are in its group."""
    if process.poll() is None:
        return True
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("runs/classifier/version_*/checkpoints/last.ckpt")
    return torch.load(path, weights_only=True)["state_dict"]


BARE = ["--trainer.callbacks=callbacks.Randomness", "--trainer.callbacks+=ModelCheckpoint"]
BARE += ["--trainer.callbacks.filename=last", "--trainer.callbacks.save_on_train_epoch_end=true"]


@pytest.mark.parametrize(
    "launcher", ["torchrun", *(pytest.param(name, marks=pytest.mark.long) for name in ("lightning", "two nodes"))]
)
def test_launchers_train_the_same_weights(folder, launcher):
    arguments = ["fit", "--model=Classifier", *QUICK, *BARE]
    found = []
    for name in ("forked", launcher):
        (folder / name).mkdir()
        status, shown, _ = launch(folder / name, name, *arguments)
        assert set(status) == {0}, shown
        found.append(weights(folder / name))
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


ALONE = ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
FAILURES = [(launcher, stage, stage) for launcher in ("forked", *LAUNCHERS) for stage in ("fit", "test")]
FAILURES += [("lightning", "fit", moment) for moment in ("setup", "start", "sanity", "validation", "epoch", "save")]
FAILURES += [("lightning", "validate", "validation")]


@pytest.mark.parametrize(
    ("launcher", "stage", "moment", "rank"),
    [
        pytest.param(*each, rank, marks=[] if (*each, rank) == ("forked", "fit", "fit", 0) else pytest.mark.long)
        for each in FAILURES
        for rank in (0, 1)
    ],
)
def test_when_one_process_fails_all_end_within_a_minute_with_its_error_first(folder, launcher, stage, moment, rank):
    fail = ["--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.save_on_exception=true"]  # gathers in fit
    fail += [
        "--trainer.callbacks.save_on_train_epoch_end=true",
        "--trainer.check_val_every_n_epoch=1",
        "--trainer.callbacks+=callbacks.Randomness",
        "--trainer.callbacks+=failing.Fail",
        f"--trainer.callbacks.rank={rank}",
        f"--trainer.callbacks.moment={moment}",
    ]
    status, shown, ended = launch(folder, launcher, stage, "--model=Classifier", *QUICK, *fail)
    assert 0 not in status
    assert ended - float((folder / "failed").read_text()) < 60
    errors = [line for line in shown.splitlines() if " of 2 failed: " in line]
    assert errors[0].endswith(f"process {rank} of 2 failed: RuntimeError: rank {rank} had enough")


def test_other_processes_than_the_trainer_uses_are_refused(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert refused(capsys, "fit", "--model=Classifier", *QUICK, *ALONE)[0] == 1
    assert not list(folder.rglob("*.ckpt"))


@pytest.mark.long
def test_torchrun_with_other_processes_than_the_trainer_uses_is_refused(folder):
    launched = commands("torchrun", "fit", "--model=Classifier")[0][:-2]
    done = subprocess.run(
        [*launched, *QUICK, *ALONE], cwd=folder, capture_output=True, text=True, timeout=200, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode != 0
    assert "error: torchrun started 2 processes, but --trainer.devices 1 times --trainer.num_nodes 1" in done.stderr
    assert "Traceback" not in done.stderr.partition("torch/distributed")[0]
    assert not list(folder.rglob("*.ckpt"))
