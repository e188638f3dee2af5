"""Looking at a network's structure: who is connected to whom, what is dead, how many paths there are."""

from .dead import dead_units, remove_dead
from .paths import count_paths
from .report import describe, groups_of_equal_rows

__all__ = ["count_paths", "dead_units", "describe", "groups_of_equal_rows", "remove_dead"]
