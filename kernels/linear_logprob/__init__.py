"""Log-probabilities of labels from hidden states and an output head, without the logits."""

from kernels.linear_logprob.api import linear_logprob as linear_logprob
from kernels.linear_logprob.reference import LogProbs as LogProbs
from kernels.linear_logprob.sharded import Shards as Shards
