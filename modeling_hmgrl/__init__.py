"""HMGRL: generalized zero-shot multimodal entity typing and relation extraction."""
