"""How the embedded sample was made from openly licensed sources."""
