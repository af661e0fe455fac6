"""Smooth programs for IPOPT: exact derivatives of whatever the arrays do not hold, and two ways to call it."""
