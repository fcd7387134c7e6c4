"""The classifier, its weights from anywhere, checkpoints and sweeps of them, averages and exports.

May import: base, data.
"""
