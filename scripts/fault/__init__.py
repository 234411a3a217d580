"""What scripts/faults and scripts/state-faults are made of."""
