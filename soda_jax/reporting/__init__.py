"""One page of a run: what was trained, its curves and pictures, and its figures beside the paper's.

`workdir` reads what a run left behind, `metric_names` says what a figure is, `paper` holds the paper's figures and
`comparison` whether ours may be held against them; `curves` and `pictures` draw; `page` puts all of it together.
"""
