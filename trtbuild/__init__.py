"""trtbuild: one recipe in, a validated engine out."""
