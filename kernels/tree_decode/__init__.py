"""One decoding step's attention: slots that share a trunk, each with tokens of its own."""

from kernels.tree_decode.api import TRUNK_K as TRUNK_K
from kernels.tree_decode.api import TRUNK_V as TRUNK_V
from kernels.tree_decode.api import tree_decode as tree_decode
from kernels.tree_decode.write import append as append
