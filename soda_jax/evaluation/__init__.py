"""`--mode=evaluate`: evaluators of features and of images, and the record of what they found.

`evaluate` is the mode, `features` and `images` its two parts, `record` the file that it writes. `interface` says what
an evaluator is given and what it returns; `evaluators` has one file for each, and what several of them use lies here.
"""
