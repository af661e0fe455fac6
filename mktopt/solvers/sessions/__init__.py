"""Programs solved again and again with other numbers: one backend per solver that can start warm."""
