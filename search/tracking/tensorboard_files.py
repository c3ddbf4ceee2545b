"""TensorBoard: the event files of a study under RUNS, a folder a run.

    tracker = TensorBoardFiles(folder)      # tensorboard --logdir folder

A run that goes on is written anew, from its first epoch: so no epoch stands there twice, whatever
was killed while it wrote. Scalars stand in groups (``valid/mse``), parameters and the state in the
table HPARAMS.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import (
    HParamsPluginData,
    SessionEndInfo,
    SessionStartInfo,
)
from torch.utils.tensorboard import SummaryWriter

from search.tracking.tracker import (
    UNSOUND,
    WAITING,
    TrackedEnding,
    TrackedEpoch,
    TrackedPicture,
    TrackedRun,
)


class TensorBoardFiles:
    """Writes event files. folder: of the study"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def begin(
        self, run: TrackedRun, epochs: Sequence[TrackedEpoch], pictures: Sequence[TrackedPicture]
    ) -> None:
        self._drop(run.name)
        for old in (self.folder / run.name).glob("events.out.tfevents.*"):
            old.unlink(missing_ok=True)
        # The purge is for a TensorBoard that has read the old files before they were gone.
        writer = SummaryWriter(str(self.folder / run.name), purge_step=0)
        self._writers[run.name] = writer
        _write_hparams(writer, metadata.SESSION_START_INFO_TAG, _session_start(run))
        writer.add_text("about", _table({**run.parameters, **run.about}), 0)
        if run.card:
            writer.add_text("card", run.card, 0)
        for epoch in epochs:
            self._add_epoch(writer, epoch)
        for picture in pictures:
            self._add_picture(writer, picture)
        writer.flush()

    def log_epoch(self, run: TrackedRun, epoch: TrackedEpoch) -> None:
        self._add_epoch(self._writers[run.name], epoch)
        self._writers[run.name].flush()  # what is written survives a kill

    def log_picture(self, run: TrackedRun, picture: TrackedPicture) -> None:
        self._add_picture(self._writers[run.name], picture)
        self._writers[run.name].flush()

    def end(self, run: TrackedRun, ending: TrackedEnding) -> None:
        writer = self._writers[run.name]
        for name, value in ending.values.items():
            writer.add_scalar(name, value, ending.epoch)
        words = f"{ending.state}: {ending.reason}" if ending.reason else ending.state
        writer.add_text("state", words, ending.epoch)
        if ending.state != WAITING:
            status = Status.STATUS_FAILURE if ending.state in UNSOUND else Status.STATUS_SUCCESS
            over = SessionEndInfo(status=status, end_time_secs=time.time())
            about = HParamsPluginData(session_end_info=over)
            _write_hparams(writer, metadata.SESSION_END_INFO_TAG, about)
        self._drop(run.name)

    def close(self) -> None:
        for name in list(self._writers):
            self._drop(name)

    def _drop(self, name: str) -> None:
        if name in self._writers:
            self._writers.pop(name).close()

    def _add_epoch(self, writer: SummaryWriter, epoch: TrackedEpoch) -> None:
        for name, value in epoch.values.items():
            writer.add_scalar(name, value, epoch.number)

    def _add_picture(self, writer: SummaryWriter, picture: TrackedPicture) -> None:
        with Image.open(picture.path) as image:
            pixels = np.asarray(image.convert("RGB"))
        writer.add_image(f"pictures/{picture.name}", pixels, picture.epoch, dataformats="HWC")


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


def _write_hparams(writer: SummaryWriter, tag: str, data: HParamsPluginData) -> None:
    data.version = metadata.PLUGIN_DATA_VERSION
    plugin = SummaryMetadata.PluginData(
        plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString()
    )
    value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))
    files: Any = writer._get_file_writer()  # type: ignore[no-untyped-call]
    files.add_summary(Summary(value=[value]))


def _table(values: Mapping[str, Any]) -> str:
    """Return a table in Markdown."""
    rows = [f"| {name} | {str(value).replace('|', '/')} |" for name, value in values.items()]
    return "\n".join(["| name | value |", "|---|---|", *rows])
