"""MODELS: declarative Pyomo only. Flows say how the wires behave, mechanisms say what is decided."""
