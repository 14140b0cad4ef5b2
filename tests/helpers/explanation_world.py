"""The record that the tests of explanations explain."""

from tiny_world import tiny_picture

TEXT = "anna, the unbreakable, sees the fox again"
RECORD = {"text": TEXT, "mention": "fox", "image": tiny_picture("animal")}
