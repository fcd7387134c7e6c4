"""Which models predict together and with what weight; votes over submissions.

May import: base, data, models, evaluation.
"""
