"""What the tables of EXP-010 call things, for those who fill them and for those who draw them."""

JUMP, STEP = "jump", "inner steps"
MEASURED, PREDICTED = "measured", "predicted"
TRAJECTORY, ANSWER = "trajectory", "answer"
SINGULAR, RANDOM = "singular", "random"
RUNS, LEVELS = "runs", "levels"
FULL = "full"
