"""The report on a data set: its page, its figures, its samples."""
