"""Convex programs as cones: which rows are cones, the standard form that Clarabel takes, and its scales."""
