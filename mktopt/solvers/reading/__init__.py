"""Reading a Pyomo model into arrays: expressions to terms, terms to matrices, Params to affine maps."""
