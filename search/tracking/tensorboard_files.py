"""TensorBoard: the event files of a study under RUNS, a folder a run.

    tracker = TensorBoardFiles(folder)      # tensorboard --logdir folder

A run that goes on is written anew, from its first epoch: so no epoch stands there twice, whatever
was killed while it wrote. Scalars stand in groups (``valid/mse``), parameters in the table HPARAMS.

PyTorch's `SummaryWriter` writes in a thread for each run, and prints a traceback where the disk is
full. There is a thread for all of them here already, so the files are written at once.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import (
    HParamsPluginData,
    SessionEndInfo,
    SessionStartInfo,
)
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from search.tracking.tracker import (
    UNSOUND,
    WAITING,
    TrackedEnding,
    TrackedEpoch,
    TrackedPicture,
    TrackedRun,
)

RGBA = 4  # TensorBoard's number for the colours of a picture; browsers read its bytes


class EventFile:
    """The file of one run. folder: of the run; the files of before are removed"""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink(missing_ok=True)
        name = f"{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{uuid4().hex[:8]}"
        self._file = (folder / f"events.out.tfevents.{name}").open("xb")
        self._records: Any = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        # A TensorBoard that has read the old files forgets what stood in them.
        self._write(Event(session_log=SessionLog(status=SessionLog.START)))

    def add(self, *summaries: Summary, step: int = 0) -> None:
        """Write summaries of one step; they survive a kill. Raises `OSError`."""
        for each in summaries:
            self._write(Event(summary=each, step=step))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())


class TensorBoardFiles:
    """Writes event files. folder: of the study"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, EventFile] = {}

    def begin(
        self, run: TrackedRun, epochs: Sequence[TrackedEpoch], pictures: Sequence[TrackedPicture]
    ) -> None:
        self._close(run.name)
        file = self._files[run.name] = EventFile(self.folder / run.name)
        file.add(
            _hparams(metadata.SESSION_START_INFO_TAG, _session_start(run)),
            _text("about", _table({**run.parameters, **run.about})),
        )
        if run.card:
            file.add(_text("card", run.card))
        for epoch in epochs:
            self.log_epoch(run, epoch)
        for picture in pictures:
            self.log_picture(run, picture)

    def log_epoch(self, run: TrackedRun, epoch: TrackedEpoch) -> None:
        self._files[run.name].add(*_scalars(epoch.values), step=epoch.number)

    def log_picture(self, run: TrackedRun, picture: TrackedPicture) -> None:
        with Image.open(picture.path, formats=("PNG",)) as image:
            width, height = image.size
        content = picture.path.read_bytes()
        shown = Summary.Image(
            encoded_image_string=content, width=width, height=height, colorspace=RGBA
        )
        value = Summary.Value(tag=f"pictures/{picture.name}", image=shown)
        self._files[run.name].add(Summary(value=[value]), step=picture.epoch)

    def end(self, run: TrackedRun, ending: TrackedEnding) -> None:
        words = f"{ending.state}: {ending.reason}" if ending.reason else ending.state
        told = [*_scalars(ending.values), _text("state", words)]
        if ending.state != WAITING:
            status = Status.STATUS_FAILURE if ending.state in UNSOUND else Status.STATUS_SUCCESS
            over = SessionEndInfo(status=status, end_time_secs=time.time())
            about = HParamsPluginData(session_end_info=over)
            told.append(_hparams(metadata.SESSION_END_INFO_TAG, about))
        self._files[run.name].add(*told, step=ending.epoch)
        self._close(run.name)

    def close(self) -> None:
        for name in list(self._files):
            self._close(name)

    def _close(self, name: str) -> None:
        if name in self._files:
            self._files.pop(name).close()


def _scalars(values: Mapping[str, float]) -> list[Summary]:
    return [summary.scalar(name, value) for name, value in values.items()]  # type: ignore[no-untyped-call]


def _text(tag: str, words: str) -> Summary:
    return summary.text(tag, words)  # type: ignore[no-untyped-call]


def _session_start(run: TrackedRun) -> HParamsPluginData:
    """Return what the table HPARAMS shows of a run's parameters."""
    start = SessionStartInfo(start_time_secs=time.time(), group_name=run.name)
    for name, value in run.parameters.items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[name].number_value = value
        else:
            start.hparams[name].string_value = str(value)
    return HParamsPluginData(session_start_info=start)


def _hparams(tag: str, data: HParamsPluginData) -> Summary:
    data.version = metadata.PLUGIN_DATA_VERSION
    plugin = SummaryMetadata.PluginData(
        plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString()
    )
    value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))
    return Summary(value=[value])


def _table(values: Mapping[str, Any]) -> str:
    """Return a table in Markdown."""
    rows = [f"| {name} | {str(value).replace('|', '/')} |" for name, value in values.items()]
    return "\n".join(["| name | value |", "|---|---|", *rows])
