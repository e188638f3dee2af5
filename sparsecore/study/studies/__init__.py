"""The studies by name, in the order of the report."""

from ..reporting.study import Study
from . import deep, dynamic, equal, frequency, iterative, larger, logits_relu, one_time, radix, retrain, where

STUDIES: dict[str, Study] = {
    each.STUDY.name: each.STUDY
    for each in (one_time, iterative, retrain, radix, frequency, logits_relu, larger, where, dynamic, deep, equal)
}
