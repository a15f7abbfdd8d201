"""The recipe language: its files, its mistakes, what it means."""
