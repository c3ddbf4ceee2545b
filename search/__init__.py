"""What decides: studies, samplers and pruners, workers, retraining, reports.

    from search.study import StudySpec

``import genstudy`` gives what a study file needs in one place. search/README.md names every file.
"""
