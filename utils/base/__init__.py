"""Options, errors, files, tables, pictures and the accelerate runtime: nothing here knows of photographs or models.

May import: no other package of utils.
"""
