"""Which ingredients are averaged: the search, its recipes, and what a doctor says of them.

May import: base, data, models, evaluation.
"""
