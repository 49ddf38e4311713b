"""SQL commands, judged by what they return from a confined copy of the database."""

from pivotrl_jax.verifiers.sql.verifier import Sql

__all__ = ["Sql"]
