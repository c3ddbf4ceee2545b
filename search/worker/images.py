"""The images of a run, as its workers open them: whole, or made again.

    images, watched = open_run_images(run, tell)

The supervisor has found the cached file whole. A worker believes that as long as the file's state
is the same; else it reads all of it. A file that is damaged or gone is made again by the first
worker that meets it, and the others wait: a running study needs nobody to come and type something.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from models.data.images import ImageSplits
from models.data.loading import prepare_images
from models.data.watching import WatchedImages, open_watched
from models.errors import DataError, short
from models.sealed_files import FileState, trust
from search.run import StudyRun

LOCK = "images.lock"  # beside the cached files


def open_run_images(
    run: StudyRun, tell: Callable[[str], None]
) -> tuple[ImageSplits, WatchedImages]:
    """Return the images of a run, and what tells whether they stay the same.

    tell: hears of a file that is damaged or gone

    Raises `DataError` where the images themselves have changed since the run began.
    """
    path = Path(run.images)
    if run.image_state:
        device, inode, size, modified, changed = run.image_state
        trust(
            path,
            FileState(device=device, inode=inode, size=size, modified=modified, changed=changed),
        )
    try:
        return open_watched(path)
    except DataError:
        if not run.image_source:
            raise
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / LOCK):
        if not path.exists():
            tell(f"{path.name} is gone: the images are read again")
        _make_again(run, path, tell)
    return open_watched(path)


def _make_again(run: StudyRun, path: Path, tell: Callable[[str], None]) -> None:
    """Make the cached file anew, unless another worker has done so meanwhile."""
    source = run.image_source
    shape = source["shape"]
    made = prepare_images(
        source["name"],
        root=Path(source["root"]),
        cache=path.parent,
        shape=None if shape is None else tuple(shape),
        background=source["background"],
        tell=tell,
    )
    if made != path:
        raise DataError(
            f"the images of {short(source['name'])} have changed since this run began, and the "
            f"cached ones in {path} are damaged; bring the images back as they were"
        )
