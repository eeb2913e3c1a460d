"""Studies: a whole table of the paper by one command (`tools.study`), at the size that a machine allows.

A study is rows (models or settings) by columns (figures of `--mode=evaluate`), repeated over seeds, and claims about
differences between its rows. `definition.py` says what one consists of, `definitions/` holds those of the paper.
"""
