"""Workers of `benchmarks.against_peers`: one per library, each reads a job and writes a result.

A job is a JSON object: `model` (a Hugging Face directory), `trunks` (token ids), `turns` (trunk,
start and end of every pivot), `prompts` (the same histories as text), `samples` (K), `max_tokens`,
`steps` (the first one warms up), `learning_rate`, and `memory_bytes`, beyond which a worker must
fail rather than take the machine along. A result holds one number per measured step in
`seconds_sampling` (actions of all pivots) and `seconds_update` (forward, backward and optimiser),
besides `prompt_tokens`, `action_tokens` (mean), `peak_rss_mib` and `version`.
"""
