"""Exact ablation of every hidden unit, by what one unit changes against one pass of the network per unit.

Both sides take all problems at once, and both give the same numbers (checked before anything is timed). "One
pass per unit" is a forward and backward pass in closed form with one unit masked, or the forward pass alone
where only energies are wanted; it is timed on some units and scaled to all. Beside the ratio of times stands
that of the products (multiply-adds inside matrix products) that the two sides need: activation functions are
outside of it. Times are CPU seconds of one thread, ratios are taken within a round before their median. The
result is written to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from measure import device_name, interleaved, ratio, synchronised_clock, write_results
from torch import Tensor

from iredinterp.analyses.circuits.ablation import Parts, ablated, fills, whole
from iredinterp.analyses.circuits.exact import UNITS, toggled
from iredinterp.ired.model import EnergyMLP

# Widths of the bundled networks and of the official ones, on the inverse of n×n matrices.
SHAPES = ((5, 128), (20, 512))
LEVEL = 3
# Units on which the slow side is timed.
FEW = 8


def main() -> None:
    """Run everything and write the results page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--problems", type=int, default=256)
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    clock = time.process_time if options.device == "cpu" else synchronised_clock
    lines = [
        f"Written by `python benchmarks/circuits.py` (torch {torch.__version__.split('+')[0]}, "
        f"{options.rounds} rounds, {options.problems} problems; one pass per unit is timed on {FEW} units). "
        "Medians over rounds; in brackets the range.",
        "",
        "| n | h | layer | metric | one pass per unit, s | all units, s | ratio of times | of products |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for n, hidden in SHAPES:
        lines += rows(n, hidden, options.problems, options.rounds, options.device, clock)
    write_results("Circuits", device_name(options.device), ["\n".join(lines)])


def rows(n: int, hidden: int, problems: int, rounds: int, device: str, clock) -> list[str]:
    """Lines of the table for one shape of network."""
    generator = torch.Generator().manual_seed(0)
    d = n * n
    model = EnergyMLP.random(d, d, hidden, generator).to(torch.float64, device)
    x, y = torch.randn(2, problems, d, generator=generator, dtype=torch.float64).to(device)
    points = x, y, torch.full((problems,), LEVEL, device=device)
    fill, kept = fills(model, *points, "resample", generator), whole(model)
    lines, totals = [], {}
    for layer, part in enumerate(UNITS, start=1):
        for metric in ("gradient", "energy"):
            methods = sides(model, points, kept, fill, part, metric == "gradient")
            seconds = interleaved(methods, rounds, clock)
            seconds["passes"] = [value * hidden / FEW for value in seconds["passes"]]
            for side, values in seconds.items():
                before = totals.setdefault((metric, side), [0.0] * rounds)
                totals[metric, side] = [a + b for a, b in zip(before, values, strict=True)]
            lines.append(_line(n, hidden, layer, metric, seconds, products(layer, metric, d, d, hidden)))
    for metric in ("gradient", "energy"):
        needed = [products(layer, metric, d, d, hidden) for layer in (1, 2, 3)]
        seconds = {side: totals[metric, side] for side in ("passes", "all")}
        lines.append(_line(n, hidden, "all", metric, seconds, tuple(map(sum, zip(*needed, strict=True)))))
    return lines


def products(layer: int, metric: str, dim_x: int, d: int, h: int) -> tuple[int, int]:
    """Multiply-adds per problem for all units of a layer: by one pass each, and by what one unit changes."""
    forward, backward = h * (dim_x + d) + 2 * h * h + h * d, h * d + 2 * h * h + h * d
    onward = {1: h * h + h * d, 2: h * d, 3: 0}[layer]
    if metric == "energy":
        return h * forward, h * onward
    tangents = d * h * h * min(layer, 2) + (d * h * d if layer == 3 else 0)
    back = {1: h * d + h * h, 2: h * d, 3: 0}[layer]
    last = d * d if layer == 3 else h * d
    return h * (forward + backward), h * (onward + back + last) + tangents


def sides(model: EnergyMLP, points: tuple, kept: Parts, fill: Parts, part: str, gradient: bool) -> dict:
    """Both methods, once they have been found to agree."""
    masks = 1 - torch.eye(model.hidden, dtype=model.dtype, device=model.device)[:FEW]

    def passes():
        if gradient:
            return [ablated(model, *points, kept._replace(**{part: mask}), fill) for mask in masks]
        return [forward(model, *points, part, mask, fill) for mask in masks]

    def together():
        return toggled(model, *points, kept, fill, part, gradient)

    found, intact = together(), model.energy_and_gradient(*points)
    for unit, single in enumerate(passes()):
        energy = single[0] if gradient else single
        torch.testing.assert_close(found.energy[unit], energy - intact[0], rtol=1e-7, atol=1e-12)
        if gradient:
            missed = (single[1] - intact[1]).square().sum(-1)
            torch.testing.assert_close(found.gradient[unit], missed, rtol=1e-7, atol=1e-18)
    return {"passes": passes, "all": together}


def forward(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, part: str, mask: Tensor, fill: Parts
) -> Tensor:
    """E with some units of a layer ablated, by a forward pass."""
    gain2, bias2, gain3, bias3 = (table[t] for table in model.modulations)

    def swish(z: Tensor, name: str) -> Tensor:
        value = F.silu(z)
        return mask * value + (1 - mask) * getattr(fill, name) if name == part else value

    h1 = swish(model.layer("fc1", torch.cat([x, y], -1)), "h1")
    h2 = swish(model.layer("fc2", h1) * gain2 + bias2, "h2")
    h3 = swish(model.layer("fc3", h2) * gain3 + bias3, "h3")
    return model.layer("fc4", h3).square().sum(-1)


def _line(n: int, hidden: int, layer: object, metric: str, seconds: dict, needed: tuple) -> str:
    median = {side: statistics.median(values) for side, values in seconds.items()}
    fewer = f"{needed[0] / needed[1]:.3g}" if needed[1] else "none left"
    cells = [n, hidden, layer, metric, f"{median['passes']:.3g}", f"{median['all']:.3g}"]
    return f"| {' | '.join(map(str, [*cells, ratio(seconds['passes'], seconds['all']), fewer]))} |"


if __name__ == "__main__":
    main()
