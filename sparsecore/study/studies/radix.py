"""Sparse from birth: RadiX-Nets beside random expanders, with fewer connections or with as many in wider layers."""

from __future__ import annotations

from ..making.scale import LeNet, Scale
from ..reporting.figures import Drawing, by_factor
from ..reporting.readings import beside_slides, dead_runs, versus
from ..reporting.results import Point, Results
from ..reporting.slides import WIDTH
from ..reporting.study import Study

FACTORS = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 10.0, 100.0)
QUICK = (0.01, 0.1, 0.5, 1.0, 10.0)
OF_LENET5 = (0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 10.0)
QUICK_LENET5 = (0.1, 1.0)
RADIX = {0.1: ((10, 10), None), 0.2: ((5, 5), None), 0.5: ((2, 2), None), 2.0: ((2, 2), "196,150,25"),
         10.0: ((10, 10), "8,30,1")}  # fmt: skip
"""For LeNet-300-100: radices and widths that keep a factor's share; 10,10 with 8,30,1 is the slides' own."""
RADIX_LENET5 = (5, 2)


def points(scale: Scale) -> list[Point]:
    found = []
    for net in scale.lenets:
        factors = scale.some(FACTORS, QUICK) if net.name == "L300" else scale.some(OF_LENET5, QUICK_LENET5)
        slides = WIDTH[f"{net.name} random"]
        for factor in factors:
            found.append(Point(net.title, "random", factor, net.random(factor), slides.get(factor)))
        found += _of_lenet300(net, factors) if net.name == "L300" else _of_lenet5(net)
    return found


def _of_lenet300(net: LeNet, factors: tuple[float, ...]) -> list[Point]:
    slides = WIDTH["L300 RadiX-Net"]
    return [
        *(Point(net.title, "random, fixed fan-in", each, net.random(each, "fixed")) for each in factors
          if each < 1),
        *(Point(net.title, "RadiX-Net", each, net.radix(*RADIX[each]), slides.get(each))
          for each in factors if each in RADIX),
    ]  # fmt: skip


def _of_lenet5(net: LeNet) -> list[Point]:
    """RadiX layers between channels, and random ones with as many connections in all."""
    kept = net.kept(RADIX_LENET5)
    return [Point(net.title, "RadiX-Net", kept, net.radix(RADIX_LENET5)),
            Point(net.title, "random", kept, net.random(kept))]  # fmt: skip


def figures(results: Results) -> list[Drawing]:
    label = "fraction of the connections · 1 = dense · width factor"
    caption = "Networks wired sparse from birth. Left of 1: the same sizes with fewer connections; right of 1: as " \
              "many connections in a wider layer."  # fmt: skip
    return [Drawing("radix", caption, by_factor(results, label))]


def readings(results: Results) -> list[str]:
    found = [*beside_slides(results), dead_runs(results)]
    for table in results.tables:
        found += versus(results, table, "RadiX-Net", "random")
        found += versus(results, table, "random, fixed fan-in", "random")
    return found


STUDY = Study(
    "radix", "RadiX-Nets and random expanders",
    "Does it matter how a network that is sparse from birth is wired? Do wider layers with as many connections help?",
    "fraction of the connections (below 1), width factor (above 1)",
    "As in the slides, “random” keeps each connection with the same probability, N = [10,10] with B = [8,30,1] is the "
    "wide RadiX-Net, and the layer that grows lies between the two sparse layers. LeNet-5's RadiX layers connect whole "
    "channels and keep different shares of its two sparse layers: they stand at the share of both together.",
    points, figures, readings,
)  # fmt: skip
