"""Rewards, group statistics, advantages and losses: pure functions of arrays."""

from pivotrl_jax.objectives.groups import GroupStats as GroupStats
from pivotrl_jax.objectives.groups import Normalisation as Normalisation
from pivotrl_jax.objectives.groups import advantages as advantages
from pivotrl_jax.objectives.groups import group_statistics as group_statistics
from pivotrl_jax.objectives.groups import override as override
from pivotrl_jax.objectives.policy import PolicySettings as PolicySettings
from pivotrl_jax.objectives.policy import PolicyStats as PolicyStats
from pivotrl_jax.objectives.policy import loss_count as loss_count
from pivotrl_jax.objectives.policy import policy_loss as policy_loss
from pivotrl_jax.objectives.rewards import Recipe as Recipe
from pivotrl_jax.objectives.rewards import RecipeArrays as RecipeArrays
from pivotrl_jax.objectives.rewards import compile_recipe as compile_recipe
from pivotrl_jax.objectives.rewards import rewards as rewards
from pivotrl_jax.objectives.rewards import rewards_by_recipe as rewards_by_recipe
from pivotrl_jax.objectives.supervised import SupervisedStats as SupervisedStats
from pivotrl_jax.objectives.supervised import supervised_loss as supervised_loss
