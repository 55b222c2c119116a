"""Writes the metrics of a run for TensorBoard."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from innerloop.extras import extra

__all__ = ["Events", "add_pictures"]


class Events:
    """A file of scalars and pictures that TensorBoard shows.

    Each is written at once, by the calling thread. PyTorch's own ``SummaryWriter`` uses a thread that dies at
    the first error, such as a full disk. It then waits for that thread forever.

    Args:
        folder: the folder of the file.
        done: the number of iterations that the run has already. TensorBoard hides later ones from earlier files.

    Raises:
        MissingExtraError: TensorBoard is not installed.
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, done: int = 0) -> None:
        with extra("tensorboard"):
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        self._path = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = self._path.open("xb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if done:
            self._write(step=done + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, name: str, value: float, iteration: int) -> None:
        """Write a scalar for an iteration."""
        scalar = self._summary.Value(tag=name, simple_value=value)
        self._write(step=iteration, summary=self._summary(value=[scalar]))

    def add_picture(self, name: str, png: bytes, iteration: int) -> None:
        """Write a picture for an iteration, as the bytes of a PNG file."""
        width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))
        image = self._summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        picture = self._summary.Value(tag=name, image=image)
        self._write(step=iteration, summary=self._summary(value=[picture]))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **content: Any) -> None:
        try:
            self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error


def add_pictures(folder: Path, pictures: Mapping[str, bytes], iteration: int = 0) -> None:
    """Write pictures for TensorBoard, into an event file of their own.

    Args:
        folder: the folder of the file.
        pictures: the bytes of PNG files by name.
        iteration: the iteration that they show.

    Raises:
        MissingExtraError: TensorBoard is not installed.
        OSError: the file cannot be written.
    """
    events = Events(folder)
    try:
        for name, png in pictures.items():
            events.add_picture(f"pictures/{name}", png, iteration)
    finally:
        events.close()
