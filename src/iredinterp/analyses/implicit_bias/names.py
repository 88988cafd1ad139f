"""What the tables of EXP-007 call things, for those who fill them and for those who draw them."""

TRAJECTORY, PROBLEM = "trajectory", "problem"
MATCHED, SPREAD = "matched error", "spread"
SHAPES = ("effective_rank", "nuclear_ratio", "tail_energy")

NUCLEAR, SQUARES, ZERO, POSTERIOR = "nuclear norm", "least squares", "zero fill", "posterior mean"
COMPARATORS = (NUCLEAR, SQUARES, ZERO, POSTERIOR)
RIGHT = "right answer"

LEARNT = 0.5
SINGULAR = "singular"
RANDOM = "random directions"
TURNED = "turned errors"
SHUFFLED = "shuffled values"
