"""DATA: the grid and who is on it, as frozen and validated tables. This room knows no Pyomo."""
