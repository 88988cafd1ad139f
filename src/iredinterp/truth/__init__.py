"""Models whose answers are known, for every analysis to be tried on."""
