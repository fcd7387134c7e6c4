"""What people look at: mistakes, the report and the review of validation.py, the page of `inference.py --demo`.

May import: base, data, models, evaluation, ensembles, review.
"""
