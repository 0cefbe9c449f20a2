"""Golden references: stored results of the whole pipeline, to prove that a change of the code changes no number.

Run `python -m tests.golden --check` from the top level of the repository; see `__main__.py` for the options.
"""
