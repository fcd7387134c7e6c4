"""Which models predict together and how much each counts; votes over submissions.

May import: base, data, models, evaluation.
"""
