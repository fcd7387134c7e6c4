"""Which ingredients a soup averages: the recipes, the search that they share, and a check of the ingredients.

May import: base, data, models, evaluation.
"""
