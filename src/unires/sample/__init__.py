"""The schedule's solvers and the composed step."""
