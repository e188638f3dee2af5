"""Reporting runs: results as tables, what is read from them, figures, and the pages that show them."""
