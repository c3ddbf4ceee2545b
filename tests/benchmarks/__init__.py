"""What `make bench` measures: genstudy beside the tools that people use for the same job.

    make bench                             every row in a short form, about half an hour
    make bench FULL=1                      with repeats and the whole study: about two hours
    make bench ROWS=training,start-up      these alone
    make bench DATA_ROOT=path OUT=folder   data from there, results.csv and benchmarks.png to there

    rows.py        one comparison: ours, the peer's, the ratio, the target
    training.py    trial-epochs a second of the whole machine
    frameworks.py  a small study, wall time
    study.py       the whole study, wall time until a validation error is reached
    startup.py     from the command to the first epoch
    trial_database.py, database.py         growth, pandas and workers
    peers/         the same work as a user of Optuna, Lightning or Ray Tune writes it

Runs are interleaved (ours, peer, ours, peer ...), and rows are medians. Nothing of this is
imported by the product, and its dependencies are locked apart in `requirements.lock`.
"""
