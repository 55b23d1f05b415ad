"""The search for the best classifier of a folder: `mixjax best`.

Here is what looks at a folder, draws folds, plans trials by measured times and chooses between their results. Trials
are ordinary runs of `mixjax.train`; the mathematics of the choice is in `mixjax.maths.selection`, and its page in
`mixjax.report`.
"""
