"""Which labels are probably wrong: suspects, person by person, and what is decided about them.

May import: base, data, models, evaluation, ensembles.
"""
