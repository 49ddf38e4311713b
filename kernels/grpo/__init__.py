"""The policy objective on pivots, from hidden states and rewards to loss and gradients."""

from kernels.grpo.api import grpo as grpo
from kernels.grpo.api import score as score
from kernels.grpo.reference import AdvantageSettings as AdvantageSettings
from kernels.grpo.reference import Groups as Groups
from kernels.grpo.reference import GrpoStats as GrpoStats
from kernels.grpo.reference import ScoredTokens as ScoredTokens
