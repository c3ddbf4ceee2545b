"""The extractors that values were measured with, so that all machines of a study have the same.

    keep_extractor(engine, digest, content)
    content = kept_extractor(engine, digest)       # bytes of a safetensors file, or None

Two machines that train an extractor from the same seed need not end with the same weights: another
processor rounds otherwise. The values of a study compare only if one judge measured them all, so
the first machine's (under a megabyte) stands in the database.

Table ``genstudy_extractors(hash, content)``; the hash is that of the weights, so that studies on
the same images share a row.
"""

from __future__ import annotations

from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError

from storage.database.schema import extractors


def keep_extractor(engine: Engine, digest: str, content: bytes) -> None:
    """Keep it for other machines; nothing happens where it is kept already."""
    known = select(extractors.c.hash).where(extractors.c.hash == digest)
    try:
        with engine.begin() as connection:
            if connection.execute(known).first() is None:
                connection.execute(extractors.insert().values(hash=digest, content=content))
    except IntegrityError:  # another study kept the same one at the same moment
        return


def read_extractor(engine: Engine, digest: str) -> bytes | None:
    with engine.connect() as connection:
        found = connection.scalar(select(extractors.c.content).where(extractors.c.hash == digest))
    return None if found is None else bytes(found)
