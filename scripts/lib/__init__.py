"""What the scripts share: processes, ports, a stack of their own, services."""
