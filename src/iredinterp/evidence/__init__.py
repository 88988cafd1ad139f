"""From measured values to verdicts: statistics, the pre-registered hypotheses, and the rule that decides.

The unit of replication is the training seed. Nothing in here knows a landscape or a network: verdicts are
read from tidy tables, so that any analysis that writes one is judged by the same rule.
"""
