"""Builds the embedded sample from openly licensed sources."""
