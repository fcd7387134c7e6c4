"""What models predict on photographs, kept in caches, and exact scores of it.

May import: base, data, models.
"""
