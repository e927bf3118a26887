"""Tails of latencies: what was seen, what may be extrapolated from it, and when nothing may."""
