"""Whole checkpoints: who dies while writing one, or finds the disk full, leaves the earlier file as it was."""

import io
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint beside the old one, waits for the disk, then gives it the old one's name.

    Lightning writes into the folder for temporary files and moves the file from there: from another file system that is
    a copy onto the good checkpoint, in which the process may die; and it does not wait for the disk. What is not a
    local path is left to Lightning. ``train.py`` has it always; in Python: ``Trainer(plugins=WholeCheckpoints())``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a file.

        Raises:
            OSError: It cannot be written; an earlier file of that name is as it was.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()  # torch.save into a file that the disk has no room for may end the process
        torch.save(checkpoint, content)
        write_whole(Path(path), content.getbuffer())


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file that is there either as it was or complete, whatever happens meanwhile.

    Raises:
        OSError: It cannot be written.
    """
    # One name for each file, so that killed processes leave one leftover and not many. It looks like no checkpoint:
    # Lightning takes whatever has "ckpt" in its name for one.
    temporary = path.with_name(f".writing-{zlib.crc32(path.name.encode()):08x}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:  # also Ctrl-C: the half-written file goes
        with suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        earlier = "; the earlier file is untouched" if path.is_file() else ""
        raise OSError(error.errno, f"{error.strerror}{earlier}", str(path)) from error
    with suppress(OSError):  # some file systems have nothing to wait for
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
