"""The command line `hmgrl`: train, evaluate, predict, export, data, push.

The floor above `modeling_hmgrl` (models, pipeline) and `dataset_scripts` (data), which know nothing
of it. One file a subcommand; libraries are imported when a command needs them, so that `--help`
answers at once.
"""
