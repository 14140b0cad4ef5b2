"""The command line `hmgrl`: train, evaluate, predict, export, data, push.

It uses `modeling_hmgrl` (models, pipeline) and `dataset_scripts` (data), which do not depend on it.
There is one module for each subcommand. Libraries are imported when a command needs them, so that
`--help` is fast; for the same reason this package is not part of `hmgrl`, which imports the models.
"""
