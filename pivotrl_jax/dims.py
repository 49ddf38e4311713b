"""The dimension letters of the whole code base, in einsum strings, names and annotations.

    R  rows: one token tree (trunk and branches) each      D  model width
    L  tokens of a trunk                                   F  feed-forward width
    B  branches (sampling slots) of a row                  H  key/value heads
    S  tokens of one branch                                G  query heads per key/value head
    T  tokens of a row or of any flat sequence             E  width of one head
    A  scored (action) tokens of a row                     V  vocabulary
    P  candidates or pivots                                N  layers
    K  samples of one candidate (a group)                  C  criteria of a verdict
    X  experts of a layer                                  J  experts of one token
    I  pairs of a token and one of its experts             Z  rank of a low-rank adapter

A suffix on a name lists its axes: `tokens_RT`, `rewards_PK`.
"""
