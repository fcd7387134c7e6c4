"""Fine-tuning: what a run trains on, its losses, its state on disk, its records; Optuna studies.

May import: base, data, models, evaluation.
"""
