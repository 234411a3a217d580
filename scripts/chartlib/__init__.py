"""Modules of scripts/charts."""
