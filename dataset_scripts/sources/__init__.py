"""Sources of data: one reader each, all of which answer with the same records."""
