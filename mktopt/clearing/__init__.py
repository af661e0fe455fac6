"""RESULT: from a model and its solution to prices, money and proof."""
