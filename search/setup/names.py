"""Which stored study is meant, and which other studies one needs.

study_name(study, "digits", "digits")     # cae-digits: in the database and under RUNS
"""

from __future__ import annotations

from search.setup.loading import load_study
from search.strategies.preference import NAME, is_preference
from search.study import Study
from storage.paths import check_name


def study_name(study: Study, data: str, label: str, sampler: str | None = None) -> str:
    """Return the name that a study has in the database.

    It is ``cae`` on the study's own images, ``cae-digits`` or ``cae-folder-birds`` on others, and
    ``cae-preference`` where a person decides.

    label: of the images; sampler: instead of the study's own
    """
    is_own = data == study.spec.data
    end = f"-{NAME}" if is_preference(sampler or study.spec.sampler) else ""
    return check_name((study.name if is_own else f"{study.name}-{label}") + end)


def base_study(study: Study) -> Study | None:
    """Return the study that ``study`` starts from; None: it starts from no other."""
    return None if study.spec.starts_from is None else load_study(study.spec.starts_from)


def judging_study(study: Study) -> Study:
    """Return the study whose best export judges samples on images without classes."""
    return load_study(study.spec.judged_by)
