"""Every figure of the slides "Training Sparse Neural Networks" (2018) again, in sparse storage, by one command.

`studies/` holds one file a question: its runs, as a table, its figures, and what is read from them. `making/` trains
what is not in the cache yet; `reporting/` gathers the results and shows them.
"""
