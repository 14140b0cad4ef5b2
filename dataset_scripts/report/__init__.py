"""Data reports: page, figure and samples."""
