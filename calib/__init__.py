"""Precision: data sets, preprocessing, ranges, and the Q/DQ and FP16 graphs."""
