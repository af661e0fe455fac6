"""Iteration: who acts round by round. The two-level energy auction, and games in general."""
