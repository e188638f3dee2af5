"""Every figure of the slides "Training Sparse Neural Networks" (2018) again, in sparse storage, by one command.

`studies/` has a file for each question: its runs, its figures, and the sentences that follow from its results.
`making/` trains what is not in the cache yet; `reporting/` gathers the results and shows them.
"""
