"""The feature extractors that values were measured with, so that all machines use the same ones.

    keep_extractor(engine, digest, content, is_whole=is_whole_content)
    content = read_extractor(engine, digest)       # bytes of a safetensors file, or None

Two machines that train an extractor from the same seed may get different weights, because their
processors round differently. The values of a study compare only if one extractor measured them all.
So the extractor of the first machine (under a megabyte) is kept in the database.

They stand in ``genstudy_extractors(hash, content)``. The hash is that of the weights, so that
studies on the same images share a row.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError

from storage.database.schema import extractors
from storage.database.transactions import read, write


def keep_extractor(
    engine: Engine,
    digest: str,
    content: bytes,
    *,
    is_whole: Callable[[bytes], bool] = lambda stored: True,
) -> None:
    """Store an extractor for other machines; one that is stored already stays if it is whole."""
    this = extractors.c.hash == digest
    try:
        with write(engine) as connection:
            stored = connection.scalar(select(extractors.c.content).where(this))
            if stored is None:
                connection.execute(extractors.insert().values(hash=digest, content=content))
            elif not is_whole(bytes(stored)):
                connection.execute(extractors.update().where(this).values(content=content))
    except IntegrityError:  # another study stores the same one at the same moment
        return


def read_extractor(engine: Engine, digest: str) -> bytes | None:
    """Return a stored extractor; None where there is none of that hash."""
    with read(engine) as connection:
        found = connection.scalar(select(extractors.c.content).where(extractors.c.hash == digest))
    return None if found is None else bytes(found)
