"""Shell commands, parsed and compared, never executed."""

from pivotrl_jax.verifiers.commands.command import Command

__all__ = ["Command"]
