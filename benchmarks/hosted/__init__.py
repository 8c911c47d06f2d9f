"""The same pictures through several upscaling services, ours among them: how long, how many, how dear, how good.

`python -m benchmarks.hosted --help`; docs/comparing.md says how to do it and how to read what comes out.

    __main__   dry runs and runs, and the two files that come out
    options    what the command line says, checked
    vendors/   each service's words: how to hand a picture over, submit, ask again, read the answer. No wire.
    line       one service under one address and key: a job from submit to downloaded result, timed
    picture    what is sent, and what it is held against
    results    what came back, on disk
    race       in which order: services take turns, rounds repeat; then several jobs at a time
    score      PSNR, HaarPSI and NIQE at a common size
    summary    medians, percentiles, cost, errors: the JSON
    report     the same for eyes: one HTML file with charts (`chart`), tables, and a blind vote
"""
