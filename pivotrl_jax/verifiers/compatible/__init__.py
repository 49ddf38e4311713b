"""The verdicts of NVIDIA NeMo Gym's four pivot verifiers, reproduced with their quirks.

They follow release 0.6.0 (2026-09). An action's verdict equals upstream's; where upstream raises
instead of scoring, so does `score`.
"""
