"""What scripts/charts is made of."""
