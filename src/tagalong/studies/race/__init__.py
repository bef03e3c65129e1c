"""The race explorer: a guest's and a VMM's instructions through all their interleavings."""
