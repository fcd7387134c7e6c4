"""Photographs, their labels and splits, how they are decoded, augmented and normalised, and submission files.

May import: base.
"""
