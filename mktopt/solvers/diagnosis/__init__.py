"""Why a program has no optimum: limits in conflict, the least relaxation, and what grows without end."""
