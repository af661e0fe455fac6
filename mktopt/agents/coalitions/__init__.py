"""Cooperative games: what groups are worth, and payments that keep every group content."""
