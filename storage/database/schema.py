"""Our own tables, beside Optuna's."""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)
from sqlalchemy.engine import URL

own_tables = MetaData()
"""Our tables; `metrics`, `leases` and `extractors` add theirs when they are imported."""


def is_sqlite(place: URL | Engine) -> bool:
    url = place.url if isinstance(place, Engine) else place
    return url.get_backend_name() == "sqlite"


metrics = Table(
    "genstudy_metrics",
    own_tables,
    Column("trial_id", Integer, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("value", Float(53)),
)


extractors = Table(
    "genstudy_extractors",
    own_tables,
    Column("hash", String(64), primary_key=True),
    Column("content", LargeBinary, nullable=False),
)


leases = Table(
    "genstudy_leases",
    own_tables,
    Column("trial_id", Integer, primary_key=True),
    Column("owner", String(200)),  # NULL: released
    Column("attempts", Integer, nullable=False, default=0),
    Column("renewed", Float(53), nullable=False),
)
