"""Short command lines, and what a refused one says."""

import pytest

import train

CLASSIFIER = ["--model", "Classifier"]


QUICK = [
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.max_steps=2",
    "--trainer.limit_val_batches=1",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.num_sanity_val_steps=0",
]


BARE = ["--trainer.callbacks=null", "--trainer.logger=false"]


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    """The exit status and the one line of an error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        train.main(list(args))
    lines = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith(("error: ", "Traceback", "  File"))
    ]
    assert len(lines) == 1, lines
    return int(str(end.value.code)), lines[0]
