"""Which model should run on a node: candidates of run files, limits, total times, a policy, and a verdict."""
